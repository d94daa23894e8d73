"""Optimisers for a set of modules, with the decay rule spelled out."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer


def build_optimiser(
    name: str, modules: Iterable[nn.Module], lr: float, weight_decay: float, decay_norms: bool = True
) -> Optimizer:
    """SGD with momentum 0.9, or AdamW, over all trainable parameters.

    ``decay_norms`` False spares one-dimensional parameters (BatchNorm, PReLU, biases), as cavaface and
    face.evoLVe do; True is arcface_torch's rule. Fused: the loop's guard relies on its skippable step.
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    decayed = [p for p in parameters if decay_norms or p.ndim > 1]
    spared = [p for p in parameters if not decay_norms and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]
    groups = [g for g in groups if g["params"]]
    if name == "adamw":
        return AdamW(groups, lr=lr, fused=True)
    optimiser = SGD(groups, lr=lr, momentum=0.9, fused=True)
    for parameter in parameters:
        # A fused first step that is skipped leaves momentum uninitialised (torch 2.13); zero is the same start.
        optimiser.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimiser
