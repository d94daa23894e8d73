"""Batches with given losses, replays of a network, and two processes of which one works at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from facekit.weighting.base import View
from tests.weighting.views import view


def losing(loss: Tensor, step: int = 0, **others: Any) -> View:
    """A batch of that size with these losses, and with ``others`` of a view's fields."""
    return view(size=len(loss), step=step)._replace(loss=loss, **others)


class NetReplay:
    """Cross-entropy of a network in training mode, on a batch and on clean images."""

    def __init__(
        self, net: nn.Module, batch: tuple[Tensor, Tensor], clean: tuple[Tensor, Tensor], rate: float = 0.1
    ) -> None:
        self.net, self.batch, self.clean, self.rate = net.train(), batch, clean, rate
        self.parameters: Mapping[str, Tensor] = {name: p.detach() for name, p in net.named_parameters()}

    def each(self, parameters: Mapping[str, Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
        buffers = {name: buffer.clone() for name, buffer in self.net.named_buffers()}
        outputs = functional_call(self.net, {**parameters, **buffers}, (inputs,))
        return cross_entropy(outputs, labels, reduction="none")

    def losses(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return self.each(parameters, *self.batch)

    def clean_loss(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return self.each(parameters, *self.clean).mean()

    def view(self) -> View:
        """The batch as a weighter sees it."""
        with torch.no_grad():
            return losing(self.losses(self.parameters), labels=self.batch[1], replay=self)


class Turns:
    """Two processes as threads that hand on when they exchange: forward-mode is for one thread at a time."""

    def __init__(self) -> None:
        self.turn, self.both = threading.Lock(), threading.Barrier(2, timeout=30)
        self.sent: dict[tuple[int, int], Tensor] = {}

    def gather(self, rank: int) -> Callable[[Tensor], Tensor]:
        count = 0

        def exchange(own: Tensor) -> Tensor:
            nonlocal count
            self.sent[count, rank] = own
            self.turn.release()
            self.both.wait()
            self.turn.acquire()
            count += 1
            return torch.cat([self.sent[count - 1, 0], self.sent[count - 1, 1]])

        return exchange

    def run(self, process: Callable[[int, Callable[[Tensor], Tensor]], Tensor]) -> list[Tensor]:
        """What ``process(rank, gather)`` returns on both."""

        def ranked(rank: int) -> Tensor:
            with self.turn:
                return process(rank, self.gather(rank))

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(ranked, (0, 1)))
