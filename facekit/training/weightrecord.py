"""What weights the images of a run got: kept on the device, read at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facekit.weighting.base import Facts
from facekit.weighting.ranking import area, ordered


class WeightRecord:
    """Sums and counts of weights: of each image over the run and over the last epoch, and of each epoch.

    Nothing waits for the device but ``table`` and ``summary``. 17 bytes per image.
    """

    def __init__(self, facts: Facts) -> None:
        self.truth = facts.truth
        right = torch.zeros(facts.images, dtype=torch.bool) if facts.truth is None else facts.truth
        self.right = right.to(facts.device)
        self.epoch = 0
        self.whole = torch.zeros(facts.images, 2, device=facts.device)
        self.last = torch.zeros_like(self.whole)
        # Of each epoch: (sum, count) of wrong and of right labels, all under the first where nobody knows.
        self.groups = torch.zeros(facts.epochs, 2, 2, device=facts.device)
        self.least = torch.full((facts.epochs,), torch.inf, device=facts.device)
        self.most = torch.full((facts.epochs,), -torch.inf, device=facts.device)

    def add(self, epoch: int, index: Tensor, weights: Tensor) -> None:
        """A batch: int64 [B] and float32 [B], of all processes. ``epoch`` counts from 0."""
        if epoch != self.epoch:
            self.epoch = epoch
            self.last.zero_()
        rows = torch.stack([weights, torch.ones_like(weights)], dim=1)
        self.whole.index_add_(0, index, rows)
        self.last.index_add_(0, index, rows)
        self.groups[epoch].index_add_(0, self.right[index].long(), rows)
        self.least[epoch] = torch.minimum(self.least[epoch], weights.min())
        self.most[epoch] = torch.maximum(self.most[epoch], weights.max())

    def table(self) -> dict[str, np.ndarray]:
        """Of every image, [N]: mean ``weight`` over the run, NaN if never seen, and how often it was ``seen``.

        ``last_weight`` and ``last_seen`` are the same of the last epoch.
        """
        whole, last = self.whole.cpu().numpy(), self.last.cpu().numpy()
        return {
            "weight": mean(whole),
            "seen": whole[:, 1].astype(np.int64),
            "last_weight": mean(last),
            "last_seen": last[:, 1].astype(np.int64),
        }

    def summary(self) -> dict[str, Any]:
        """``epochs``: mean, ``least`` and ``most`` weight of each, and mean weight of ``mislabelled`` and ``clean``.

        Where the truth is known also ``auc`` and ``last_auc``: how often a mislabelled image weighs less than a clean
        one, over the run and in the last epoch; None where all are clean, or none.
        """
        counted = np.flatnonzero(self.groups[:, :, 1].sum(dim=1).cpu().numpy())
        rows = [self.epoch_row(int(epoch)) for epoch in counted]
        if self.truth is None:
            return {"epochs": rows}
        return {"epochs": rows, "auc": self.auc("weight"), "last_auc": self.auc("last_weight")}

    def epoch_row(self, epoch: int) -> dict[str, float | None]:
        """One epoch of the summary."""
        groups = self.groups[epoch].cpu().numpy()
        row: dict[str, float | None] = {
            "epoch": epoch + 1,
            "weight": float(mean(groups.sum(axis=0, keepdims=True))[0]),
            "least": float(self.least[epoch]),
            "most": float(self.most[epoch]),
        }
        if self.truth is not None:
            wrong, right = mean(groups)
            row |= {"mislabelled": told(wrong), "clean": told(right)}
        return row

    def auc(self, column: str) -> float | None:
        """Of a column of the table against the truth."""
        assert self.truth is not None
        return area(ordered(-self.table()[column]), ~self.truth.cpu().numpy())

    def state_dict(self) -> dict[str, Any]:
        """Equal on all processes."""
        return {"epoch": self.epoch, **self.tensors()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.epoch = state["epoch"]
        for name, tensor in self.tensors().items():
            tensor.copy_(state[name])

    def tensors(self) -> dict[str, Tensor]:
        """All that changes."""
        return {
            "whole": self.whole,
            "last": self.last,
            "groups": self.groups,
            "least": self.least,
            "most": self.most,
        }


def mean(sums: np.ndarray) -> np.ndarray:
    """[N,2] sums and counts -> float32 [N], NaN where nothing was counted."""
    return np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan, np.float32), where=sums[:, 1] > 0)


def told(value: float) -> float | None:
    """As JSON can say it."""
    return None if np.isnan(value) else float(value)
