"""Tensors of a file, checked against a network that was laid out without memory, and only then given to it.

A file cannot make us allocate more than it holds.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from facekit.core.errors import InputError

State = dict[str, Tensor]


def adopt(module: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Give a network laid out on the meta device the tensors of ``state``, as float32."""
    module.load_state_dict(matched(module, state), assign=True)
    return module


def matched(module: nn.Module, state: Mapping[str, Tensor]) -> State:
    """``state`` checked against what ``module`` needs and converted to its types.

    Raises InputError naming the first key that is missing, unexpected, of another shape, larger than the
    memory behind it, or not finite.
    """
    wanted = module.state_dict()
    ready: State = {}
    for key, target in wanted.items():
        if key not in state and key.endswith("num_batches_tracked"):
            ready[key] = torch.zeros((), dtype=torch.long)  # absent from old and exported files, unused in eval
            continue
        if key not in state:
            raise InputError(f"the weights do not fit: {key} {list(target.shape)} is missing")
        ready[key] = _checked(key, state[key], target)
    extra = next((k for k in state if k not in wanted), None)
    if extra is not None:
        raise InputError(
            f"the weights do not fit: the file has {extra} {list(state[extra].shape)}, the network has not"
        )
    return ready


def _checked(key: str, tensor: Tensor, target: Tensor) -> Tensor:
    if tensor.shape != target.shape:
        raise InputError(
            f"the weights do not fit: {key} is {list(tensor.shape)} in the file, the network needs {list(target.shape)}"
        )
    return dense(key, tensor, target.dtype)


def dense(key: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor of a file, contiguous and in ``dtype``; no copy where it is so already.

    Raises InputError where it is sparse, quantised or complex, larger than the memory behind it, or not finite.
    """
    _refuse_hollow(key, tensor)
    converted = tensor.to(dtype).contiguous()
    if converted.is_floating_point() and not bool(torch.isfinite(converted).all()):
        raise InputError(f"{key} holds values that are not finite")
    return converted


def _refuse_hollow(key: str, tensor: Tensor) -> None:
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_complex():
        raise InputError(f"{key} is not a plain dense tensor")
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise InputError(f"{key} claims {list(tensor.shape)} but holds fewer values: refused")


# --- sizes of a network, read from its tensors -----------------------------------------------------------


def dims(state: Mapping[str, Tensor], key: str) -> tuple[int, ...]:
    """The shape of a matrix or of a convolution's filters. Raises InputError where it is missing or is neither."""
    if key not in state:
        raise InputError(f"these weights are not complete: {key} is missing")
    found = tuple(state[key].shape)
    if len(found) < 2 or min(found) < 1:
        raise InputError(f"{key} has shape {list(found)}, which no such network has")
    _refuse_hollow(key, state[key])
    return found


def channels(state: Mapping[str, Tensor], key: str) -> int:
    """How many channels a convolution or a linear layer gives."""
    return dims(state, key)[0]


def count(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many blocks ``prefix<index>.`` there are; a gap shows up as a missing key when keys are compared."""
    return len({k[len(prefix) :].split(".")[0] for k in state if k.startswith(prefix)})
