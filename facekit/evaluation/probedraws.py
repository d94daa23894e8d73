"""The bootstrap over the people who are searched for among distractors that are nobody's."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from facekit.evaluation.manyscores import Tail
from facekit.evaluation.rates import SearchBootstrap
from facekit.evaluation.statistics import DRAWS, draw_identities, ratio, total_weight


class ProbeBootstrap(SearchBootstrap):
    """Draws of the people on P probes; trials [N] and impostor pairs weigh as often as the probe's person is drawn.

    ``probe_person`` [P] and ``trial_person`` [N] number the same people; every probe meets ``distractors`` impostors.
    """

    def __init__(
        self,
        probe_person: np.ndarray,
        trial_person: np.ndarray,
        distractors: int,
        *,
        draws: int = DRAWS,
        seed: int = 0,
    ) -> None:
        people = int(probe_person.max()) + 1
        self.multiplicity = draw_identities(people, draws, seed)
        self.genuine = trial_person
        self.genuine_total = total_weight(self.multiplicity, trial_person, None)
        self.impostor_total = distractors * total_weight(self.multiplicity, probe_person, None)
        # Nobody asks who they are, only how many.
        self.impostor = np.broadcast_to(np.int64(0), distractors * len(probe_person)), None

    def tail_tar(
        self, genuine: np.ndarray, tail: Tail, tail_person: np.ndarray, fars: Sequence[float]
    ) -> list[np.ndarray | None]:
        """Strict TAR of the trials' scores [N] at each FAR in each draw [R].

        None where some draw's threshold lies below the tail, whose probes show ``tail_person`` [k].
        """
        places = of_each_person(np.arange(len(tail.best)), tail_person, len(self.multiplicity))
        scores = of_each_person(np.sort(genuine), self.genuine[np.argsort(genuine)], len(self.multiplicity))
        drawn: list[np.ndarray | None] = []
        for far in fars:
            share = Fraction(str(far))
            allowed = np.array([int(w) * share.numerator // share.denominator for w in self.impostor_total])
            low, high = np.zeros(len(allowed), np.int64), np.full(len(allowed), len(tail.best))
            while np.any(low < high):
                middle = (low + high) // 2
                beyond = self.weight_before(places, middle + 1) > allowed
                low, high = np.where(beyond | (low == high), low, middle + 1), np.where(beyond, middle, high)
            if len(tail.best) < tail.total and (low == len(tail.best)).any():
                drawn.append(None)
                continue
            threshold = np.append(tail.best, np.float32(-np.inf))[low]
            refused = self.weight_before(scores, threshold, side="right")
            rates = ratio(self.genuine_total - refused, self.genuine_total)
            rates[self.impostor_total == 0] = np.nan
            drawn.append(rates)
        return drawn

    def weight_before(self, ascending: Sequence[np.ndarray], value: np.ndarray, side: str = "left") -> np.ndarray:
        """Per draw the weight of all entries below (or, from the right, at) its own value [R], int64."""
        total = np.zeros(len(value), np.int64)
        for entries, weight in zip(ascending, self.multiplicity, strict=True):
            total += weight * np.searchsorted(entries, value, side=side)  # type: ignore[call-overload]
        return total


def of_each_person(values: np.ndarray, person: np.ndarray, people: int) -> list[np.ndarray]:
    """The values [n] of each person, in their order."""
    order = np.argsort(person, kind="stable")
    bounds = np.searchsorted(person[order], np.arange(1, people))
    return np.split(values[order], bounds)
