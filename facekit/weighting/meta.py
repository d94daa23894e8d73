"""What weighters that learn from clean images share."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from facekit.weighting.base import Need, Replay, View, Weighter
from facekit.weighting.errors import NeedsClean
from facekit.weighting.slopes import Parameters, double_backward_slopes, forward_slopes


class MetaWeighter(Weighter):
    """Asks how much a step on each sample lowers the loss of clean images."""

    needs: ClassVar[frozenset[Need]] = frozenset({"clean"})
    double_backward = False
    """True once an operator of the network was found to have no forward-mode: slower, and as exact."""

    def slopes(self, view: View, along: Parameters) -> Tensor:
        """<grad l_i, along> of every sample of the global batch."""
        replay = replay_of(view)
        if not self.double_backward:
            try:
                return view.gather(forward_slopes(replay.losses, replay.parameters, along))
            except NotImplementedError:
                self.double_backward = True
        return view.gather(double_backward_slopes(replay.losses, replay.parameters, along))


def replay_of(view: View) -> Replay:
    """Raises NeedsClean where there are no clean images."""
    if view.replay is None:
        raise NeedsClean(
            "l2rw and mwnet learn weights from images with trusted labels, and there are none; "
            "give them with --clean, or choose another --weighter"
        )
    return view.replay
