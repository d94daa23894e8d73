"""What an audit of labels found, as a table of all images, as rows of the first ones, and for the terminal."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from facekit.core.reporting import printable
from facekit.evaluation.screen import plain_table

COLUMNS = ("rank", "name", "label", "favoured", "loss", "entropy", "weight", "truth")


@dataclass(frozen=True, eq=False)
class Audit:
    """Of N images; classes are numbers of ``classes``, NaN and -1 stand where nothing can be said."""

    names: Sequence[str]
    classes: Sequence[str]
    label: np.ndarray
    """int64 [N]"""
    favoured: np.ndarray
    """int64 [N], the class with the largest score"""
    loss: np.ndarray
    """float64 [N], of the label, in nats"""
    entropy: np.ndarray
    """float64 [N], in nats"""
    weight: np.ndarray | None
    """float64 [N], what the images are listed by where it is known, the lightest first"""
    truth: np.ndarray | None
    """int64 [N], -2 for a class that is none of ``classes``; None where nobody recorded it"""
    order: np.ndarray
    """int64 [M], the most suspicious image first; those that cannot be ranked are left out"""
    rankings: Sequence[Mapping[str, Any]]
    """How good orders are; the first is ``order``. () where the truth is not known"""

    @property
    def wrong(self) -> np.ndarray | None:
        """bool [N], where the label is not the true one."""
        return None if self.truth is None else np.asarray(self.truth != self.label)

    def disagreeing(self) -> int:
        """Images whose scores favour another class than their label."""
        return int(((self.favoured >= 0) & (self.favoured != self.label)).sum())

    def rows(self, first: int | None = None) -> Iterator[dict[str, Any]]:
        """COLUMNS of the first images of the order (of all, those without a rank last); None where there is nothing."""
        ranked = self.order[:first].tolist()
        yield from (self.row(i, rank) for rank, i in enumerate(ranked, 1))
        if first is None:
            unranked = np.ones(len(self.names), bool)
            unranked[self.order] = False
            yield from (self.row(i, None) for i in np.flatnonzero(unranked).tolist())

    def row(self, i: int, rank: int | None) -> dict[str, Any]:
        """One image."""
        return {
            "rank": rank,
            "name": self.names[i],
            "label": self.classes[int(self.label[i])],
            "favoured": self.class_name(self.favoured[i]),
            "loss": number(self.loss[i]),
            "entropy": number(self.entropy[i]),
            "weight": None if self.weight is None else number(self.weight[i]),
            "truth": None if self.truth is None else self.class_name(self.truth[i]) or "",
        }

    def class_name(self, number: int) -> str | None:
        """None for no class, and for one that has no name here."""
        return self.classes[int(number)] if number >= 0 else None

    def csv(self) -> str:
        """All images with a header of COLUMNS; empty where there is nothing to say."""
        stream = io.StringIO()
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows())
        return stream.getvalue()


def number(value: float) -> float | None:
    """Seven digits of it, None for NaN."""
    return None if math.isnan(value) else float(f"{value:.7g}")


def points_of(rankings: Sequence[Mapping[str, Any]]) -> list[tuple[int, list[Mapping[str, Any] | None]]]:
    """(images looked at, what each order finds among them); None where an order is shorter than that."""
    found = [{point["first"]: point for point in ranking["at"]} for ranking in rankings]
    return [(first, [points.get(first) for points in found]) for first in sorted({k for own in found for k in own})]


# --- for the terminal --------------------------------------------------------------------------------------


def quality_table(rankings: Sequence[Mapping[str, Any]]) -> Table:
    """What looking at so many images finds: all of the listed order, the precision of its rivals, and the AUC."""
    listed, *rivals = rankings
    titles = ("looked at", "wrong", "precision %", "recall %", *(f"precision %\nby {r['name']}" for r in rivals))
    grid = plain_table(*titles)
    for first, (own, *others) in points_of(rankings):
        beside = ["–" if point is None else f"{100 * point['precision']:.1f}" for point in others]
        cells = ["–"] * 3
        if own is not None:
            cells = [whole(own["wrong"]), f"{100 * own['precision']:.1f}", f"{100 * own['recall']:.1f}"]
        grid.add_row(f"{first:,}", *cells, *beside)
    if listed["auc"] is not None:
        grid.add_section()
        grid.add_row("AUC %", "", f"{100 * listed['auc']:.2f}", "", *(f"{100 * r['auc']:.2f}" for r in rivals))
    return grid


def whole(value: float) -> str:
    """``35``, and ``35.3`` where a tie was cut."""
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"


def suspects_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The first images; columns that say nothing are left out."""
    kept = [name for name in COLUMNS if name not in ("entropy",) and any(row[name] is not None for row in rows)]
    titles = {"name": "image", "favoured": "looks like", "truth": "truly"}
    grid = plain_table(*(titles.get(name, name) for name in kept))
    for column, name in zip(grid.columns, kept, strict=True):
        column.justify = "right" if name in ("rank", "loss", "weight") else "left"
        column.no_wrap = name in ("rank", "loss", "weight")
    for row in rows:
        grid.add_row(*(cell(row, name) for name in kept))
    return grid


def cell(row: Mapping[str, Any], name: str) -> str:
    """Text of a stranger's file made printable; what is as labelled is not repeated."""
    value = row[name]
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}"
    if name == "truth":
        as_it = {row["favoured"]: "as it looks", row["label"]: "as labelled", "": "none of these"}
        return as_it.get(value, printable(value))
    if name == "favoured" and value == row["label"]:
        return "its label"
    return printable(str(value))
