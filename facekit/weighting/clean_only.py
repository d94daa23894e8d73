"""Mislabelled samples left out, by the truth: the ceiling that no learned rule knows."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from facekit.weighting.base import Facts, Need, View, Weighter
from facekit.weighting.errors import NeedsTruth


class CleanOnly(Weighter):
    """Weight 1 where the label is the true one, else 0."""

    needs: ClassVar[frozenset[Need]] = frozenset({"truth"})

    def begin(self, facts: Facts) -> None:
        """Raises NeedsTruth where nobody recorded the true labels."""
        if facts.truth is None:
            raise NeedsTruth(
                "clean_only drops mislabelled images, and nobody recorded which these are; "
                "give the --noise-plan that made them, or choose another --weighter"
            )
        self.truth = facts.truth.to(facts.device)

    def weights(self, view: View) -> Tensor:
        """[B], zeros and ones."""
        return self.truth[view.index].to(view.loss.dtype)
