"""Several networks of one architecture as one module: each tensor has a leading axis of networks.

Small networks leave an accelerator idle; N of them in one pass share its kernel launches (torch.func's ensembling).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from facekit.core.types import Outputs


class Stacked(nn.Module):
    """``forward(x [N B,3,H,W], network by network) -> Outputs`` whose rows are in the same order.

    State-dict keys are those of one network, shapes have N in front. Batch statistics are each network's own.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        if len({tuple((k, v.shape) for k, v in net.state_dict().items()) for net in networks}) != 1:
            raise ValueError("networks of one architecture can be stacked, these differ")
        self.count = len(networks)
        parameters, buffers = stack_module_state(list(networks))
        self.one = copy.deepcopy(networks[0])
        for name, parameter in parameters.items():
            self.replace(name, nn.Parameter(parameter.detach().clone()))
        for name, buffer in buffers.items():
            self.replace(name, buffer.clone())

    def replace(self, name: str, value: Tensor) -> None:
        """Put a stacked tensor where the network had its own."""
        path, _, leaf = name.rpartition(".")
        owner = self.one.get_submodule(path)
        if isinstance(value, nn.Parameter):
            setattr(owner, leaf, value)
        else:
            owner.register_buffer(leaf, value)

    def forward(self, x: Tensor) -> Outputs:
        """One pass of all networks, each on its own rows."""
        parameters: dict[str, Tensor] = dict(self.one.named_parameters())
        buffers = dict(self.one.named_buffers())

        def one(weights: dict[str, Tensor], statistics: dict[str, Tensor], rows: Tensor) -> tuple[Tensor, ...]:
            out: Outputs = functional_call(self.one, (weights, statistics), (rows,))
            return out.embedding, *out.features, *(() if out.logits is None else (out.logits,))

        rows = x.unflatten(0, (self.count, -1))
        every = [t.flatten(0, 1) for t in torch.vmap(one, randomness="different")(parameters, buffers, rows)]
        has_logits = hasattr(self.one, "classes")
        maps = every[1:-1] if has_logits else every[1:]
        return Outputs(every[0], tuple(maps), every[-1] if has_logits else None)

    def network(self, k: int) -> dict[str, Tensor]:
        """The state of the k-th network, as it would be without the others."""
        return {name: tensor[k] for name, tensor in self.one.state_dict().items()}
