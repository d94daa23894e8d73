"""Does one threshold treat crowded and lonely faces alike? FAR in three groups of pairs, by their discrepancy."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from facekit.data.pairs import PairSet
from facekit.evaluation import verification as v
from facekit.evaluation.results import Row


def tercile_rows(
    raw: np.ndarray, aligned: np.ndarray, discrepancy: np.ndarray, pairs: PairSet, base: Row, fars: Sequence[float]
) -> Iterator[Row]:
    """FAR of each third of the impostor pairs at the one threshold of the FAR, before and after the alignment.

    ``raw`` and ``aligned`` are scores [P], ``discrepancy`` [N] is per image; a pair has the mean of its two. The first
    third is the loneliest. Alignment should bring the three numbers together: that is how it works, and it shows with
    far fewer pairs than TAR does.
    """
    impostor = ~pairs.same
    crowding = (discrepancy[pairs.left[impostor]] + discrepancy[pairs.right[impostor]]) / 2
    third = np.searchsorted(np.quantile(crowding, [1 / 3, 2 / 3]), crowding, side="right")
    for far in fars:
        for name, scores in (("raw", raw), (base.score, aligned)):
            point = v.tar_at_far(v.Scores.of(scores, pairs.same), far)
            if point.threshold is None:
                continue
            accepted = scores[impostor] >= point.threshold
            for k in range(3):
                inside = third == k
                yield dataclasses.replace(
                    base,
                    protocol="1:1",
                    metric=f"far@tercile{k + 1}.{name}",
                    at=far,
                    value=float(np.mean(accepted[inside])) if inside.any() else None,
                    threshold=point.threshold,
                    n_false=int(np.sum(accepted[inside])),
                    n_genuine=None,
                    n_impostor=int(np.sum(inside)),
                    status=point.status if inside.any() else "not_measurable",
                    note=f"impostor pairs in the {('loneliest', 'middle', 'most crowded')[k]} third by discrepancy",
                )
