"""The copies of a run's networks in several processes: what they hold alike, and what each holds of its own.

Parameters and most buffers (banks, counters) are equal by construction. BatchNorm's running statistics are not: each
process gathers them from its own slice of every batch. The network that is measured or stored has their means.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from facekit.core.checkpoints import state_hash
from facekit.core.device import Device
from facekit.core.errors import FacekitError


def running_statistics(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The running means and variances of all BatchNorms, by their names in ``everything``: the tensors themselves."""
    norms = {
        f"{name}.{path}".rstrip("."): norm
        for name, module in modules.items()
        for path, norm in module.named_modules()
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_mean is not None
    }
    return {
        f"{path}.{key}": getattr(norm, key) for path, norm in norms.items() for key in ("running_mean", "running_var")
    }


def everything(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """All parameters and buffers that a state keeps, by name."""
    return {f"{name}.{key}": tensor for name, module in modules.items() for key, tensor in module.state_dict().items()}


@contextmanager
def averaged_statistics(modules: Mapping[str, nn.Module], device: Device) -> Iterator[None]:
    """Inside, running statistics are the means over all processes; then each process has its own again.

    So the moment of a save changes no later number, and a resumed run equals one that was never stopped.
    """
    tensors = list(running_statistics(modules).values()) if device.world > 1 else []
    own = [tensor.clone() for tensor in tensors]
    device.average(tensors)
    try:
        yield
    finally:
        for tensor, value in zip(tensors, own, strict=True):
            tensor.copy_(value)


def check_alike(modules: Mapping[str, nn.Module], device: Device) -> None:
    """Raise FacekitError where processes differ in what must be equal. Reads every tensor: once an epoch."""
    if device.world == 1:
        return
    own = running_statistics(modules)
    alike = {name: tensor for name, tensor in everything(modules).items() if name not in own}
    checksum = int(state_hash(alike)[:15], 16)
    largest, negated_least = device.largest([checksum, -checksum])
    if largest != -negated_least:
        raise FacekitError(
            "the processes no longer hold the same parameters and banks: this is a bug in facekit, please report it"
        )
