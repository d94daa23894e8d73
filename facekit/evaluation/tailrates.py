"""What a report says of a score whose impostors are too many to sort: TAR, and the ROC as far as its tail reaches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from facekit.evaluation import verification as v
from facekit.evaluation.curves import LAST_FAR, density, first_far
from facekit.evaluation.manyscores import Chunks, Tail, tar_at_far
from facekit.evaluation.rates import Rates
from facekit.evaluation.results import Row
from facekit.evaluation.scoring import RocCurve
from facekit.evaluation.statistics import LEVEL, wilson

Draw = Callable[[Sequence[float]], list[np.ndarray | None]]
"""FARs -> TAR in every bootstrap draw [R]; None where some draw's threshold lies below the tail."""
_LINE, _BAND, _BINS = 160, 28, 80


def tar_rates(protocol: str, genuine: np.ndarray, tail: Tail, fars: Sequence[float], draw: Draw | None) -> Rates:
    """Strict TAR at each FAR; genuine scores ascending."""
    points = [tar_at_far(genuine, tail, far) for far in fars]
    drawn: list[np.ndarray | None] = [None] * len(fars)
    measured = [i for i, point in enumerate(points) if point.value is not None]
    if draw is not None:
        for i, rates in zip(measured, draw([fars[i] for i in measured]), strict=True):
            drawn[i] = rates
    return Rates(protocol, "tar@far", fars, points, drawn)


def with_wilson(rows: Iterable[Row]) -> Iterator[Row]:
    """Rates that no bootstrap gave an interval get Wilson's of their ``n_genuine`` trials."""
    for row in rows:
        if row.value is not None and row.low is None and row.n_genuine and not row.metric.startswith("smallest"):
            low, high = wilson(row.value * row.n_genuine, row.n_genuine)
            yield dataclasses.replace(row, low=low, high=high, level=LEVEL, ci_method="wilson_pairs")
        else:
            yield row


def tail_curve(
    benchmark: str,
    label: str,
    genuine: np.ndarray,
    tail: Tail,
    impostors: Chunks,
    draw: Draw | None,
) -> RocCurve:
    """The curve from where ten impostors pass to where the tail ends; genuine scores ascending.

    The histogram takes two more passes over ``impostors``.
    """
    last = min(LAST_FAR, (len(tail.best) - 1) / tail.total)
    far = np.geomspace(min(first_far(tail.total), last), last, _LINE)
    place = [v.allowed_false(f, tail.total) for f in far.tolist()]
    tar = 1 - np.searchsorted(genuine, tail.best[place], side="right") / len(genuine)
    band_far, low, high = band(draw, far[:: _LINE // _BAND])
    edges = np.linspace(min(genuine[0], *map(np.min, impostors())), max(genuine[-1], tail.best[0]), _BINS + 1)
    counts = np.sum([np.histogram(chunk, edges)[0] for chunk in impostors()], axis=0)
    return RocCurve(
        benchmark=benchmark,
        label=label,
        far=far,
        tar=tar,
        band_far=band_far,
        low=low,
        high=high,
        bins=edges,
        genuine_density=density(genuine, edges),
        impostor_density=counts / tail.total,
    )


def band(draw: Draw | None, far: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """(FARs, low, high) of the 95 % band, where every draw's threshold lies within the tail."""
    drawn = [] if draw is None else draw(far.tolist())
    inside = [i for i, rates in enumerate(drawn) if rates is not None]
    if not inside:
        return far, None, None
    low, high = np.nanpercentile([drawn[i] for i in inside], [50 * (1 - LEVEL), 50 * (1 + LEVEL)], axis=1)
    return far[inside], low, high
