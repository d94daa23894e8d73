"""The identity bootstrap over a list of pairs so long that only its best impostors are held."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from facekit.evaluation.manyscores import Tail
from facekit.evaluation.rates import SearchBootstrap
from facekit.evaluation.statistics import DRAWS, Ranked, draw_identities, ratio, total_weight

CHUNK = 1 << 20


class TailBootstrap(SearchBootstrap):
    """Draws of the people of P pairs: ``subject`` [T] is the person of each template, pairs are positions in it.

    A genuine pair of person a weighs m_a, an impostor pair of a and b weighs m_a * m_b, as in IdentityBootstrap. The
    weight of all impostors together is summed once; the people of single impostors are told with each tail.
    """

    def __init__(
        self,
        subject: np.ndarray,
        left: np.ndarray,
        right: np.ndarray,
        same: np.ndarray,
        *,
        draws: int = DRAWS,
        seed: int = 0,
    ) -> None:
        used = np.zeros(len(subject), bool)
        used[left] = used[right] = True
        people, code = np.unique(subject[used], return_inverse=True)
        self.person = np.zeros(len(subject), np.int64)
        self.person[used] = code
        self.multiplicity = draw_identities(len(people), draws, seed)
        self.same = same
        self.genuine = self.person[left[same]]
        self.genuine_total = total_weight(self.multiplicity, self.genuine, None)
        self.impostor_total = self.weight_of_all(left, right)
        # Nobody asks who they are, only how many.
        self.impostor = np.broadcast_to(np.int64(0), len(same) - len(self.genuine)), None

    def weight_of_all(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Weight of all impostor pairs in every draw, int64 [R]."""
        people, chunks = len(self.multiplicity), range(0, len(self.same), CHUNK)
        impostors = (self.impostors_of(left, right, slice(start, start + CHUNK)) for start in chunks)
        if people * people > 4 * len(self.same):
            return np.sum([total_weight(self.multiplicity, *pairs) for pairs in impostors], axis=0)
        # Dense: count the pairs of every two people, then m' C m. Exact, as all numbers stay far below 2^53.
        counts = np.zeros(people * people)
        for first, second in impostors:
            np.add.at(counts, first * people + second, 1.0)
        weight = self.multiplicity.astype(np.float64)
        found = np.einsum("ar,ar->r", counts.reshape(people, people) @ weight, weight)
        return np.rint(found).astype(np.int64)

    def impostors_of(self, left: np.ndarray, right: np.ndarray, part: slice) -> tuple[np.ndarray, np.ndarray]:
        """The people of the impostor pairs among some pairs."""
        other = ~self.same[part]
        return self.person[left[part][other]], self.person[right[part][other]]

    def tail_tar(
        self, genuine: np.ndarray, tail: Tail, left: np.ndarray, right: np.ndarray, fars: Sequence[float]
    ) -> list[np.ndarray | None]:
        """Strict TAR at each FAR in each draw [R]; None where some draw's threshold lies below the tail.

        ``genuine`` are the scores of the genuine pairs in the list's order, ``left`` and ``right`` [k] the templates of
        the tail's pairs.
        """
        by_score = np.argsort(-genuine)
        accepted = Ranked(self.multiplicity, self.genuine[by_score], None)
        false = Ranked(self.multiplicity, self.person[left], self.person[right])
        above = len(genuine) - np.searchsorted(genuine[by_score][::-1], tail.best, side="right")
        above = np.append(above, len(genuine))
        drawn: list[np.ndarray | None] = []
        for far in fars:
            share = Fraction(str(far))
            allowed = np.array([int(w) * share.numerator // share.denominator for w in self.impostor_total])
            last = false.first_beyond(allowed)
            if len(tail.best) < tail.total and (last == len(tail.best)).any():
                drawn.append(None)
                continue
            rates = ratio(accepted.before(above[last]), self.genuine_total)
            rates[self.impostor_total == 0] = np.nan
            drawn.append(rates)
        return drawn
