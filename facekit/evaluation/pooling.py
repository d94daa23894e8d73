"""Many images of a person to one template: the sum over media of the mean over each medium's images."""

from __future__ import annotations

import numpy as np

from facekit.core.errors import InputError
from facekit.data.ijb import TemplateSet
from facekit.data.lazy import items_at
from facekit.evaluation.vectors import fuse, unit_vectors

BLOCK = 8192
"""Images that are pooled at once, at least: a template is never cut."""


def template_vectors(
    bench: TemplateSet, table: np.ndarray, flip: str, image_norm: str = "keep", faceness: bool = True
) -> np.ndarray:
    """Un-normalised views float32 [N,V,D] of all images -> unit rows float64 [T,D], one per template.

    Flips are fused first. ``image_norm`` keeps the length of an image's vector (clear faces weigh more) or makes
    it 1; with ``faceness`` the detection score weighs it too. The table may be mapped: one block of it is in memory.
    Raises InputError where a template pools to zero or to something not finite.
    """
    order = np.lexsort((bench.media, bench.template))
    template, media = bench.template[order], bench.media[order]
    begins = first_of_each(template)
    cuts = np.unique(begins[np.searchsorted(begins, np.arange(0, len(order), BLOCK), side="right") - 1])
    pooled: list[np.ndarray] = []
    for start, stop in zip(cuts, [*cuts[1:], len(order)], strict=True):
        rows = order[start:stop]
        views = table[rows]
        unit = image_norm == "unit"
        images = unit_vectors(views, flip, items_at(bench.source.names, rows)) if unit else fuse(views, flip)
        if faceness:
            images *= bench.faceness[rows, None]
        pooled.append(pool(images, template[start:stop], media[start:stop]))
    return unit_templates(bench, np.concatenate(pooled))


def pool(images: np.ndarray, template: np.ndarray, media: np.ndarray) -> np.ndarray:
    """Image vectors [n,D] in the order of (template, media) -> one sum [t,D] per template.

    A template of two photographs a, b and a video of c, d gives a + b + (c + d) / 2.
    """
    starts = np.union1d(first_of_each(template), first_of_each(media))
    counts = np.diff(np.append(starts, len(images)))
    means = np.add.reduceat(images, starts, axis=0) / counts[:, None]
    return np.add.reduceat(means, first_of_each(template[starts]), axis=0)


def first_of_each(run: np.ndarray) -> np.ndarray:
    """Where each run of equal values begins."""
    return np.flatnonzero(np.concatenate([[True], run[1:] != run[:-1]]))


def unit_templates(bench: TemplateSet, pooled: np.ndarray) -> np.ndarray:
    """Rows of length 1, in place."""
    norms = np.linalg.norm(pooled, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)))
    if len(bad):
        image = bench.source.names[int(np.argmax(bench.template == bad[0]))]
        raise InputError(
            f"template {bench.template_id[bad[0]]} of {bench.path} (its first image is {image}) pools to zero or to "
            f"something not finite, and so do {len(bad) - 1} others; check the detection scores and the weights"
        )
    pooled /= norms
    return pooled
