"""Rows, table and screen of an audit, from arrays written down by hand."""

from __future__ import annotations

import csv
import io
import math

import numpy as np
from rich.console import Console

from facekit.evaluation.auditreport import Audit, points_of, quality_table, suspects_table

NAN = math.nan


def by_hand() -> Audit:
    return Audit(
        names=['a/"1", first.jpg', "a/\x1b[2J.jpg", "b/3.jpg", "c/4.jpg"],
        classes=("a", "b", "c"),
        label=np.array([0, 0, 1, 2]),
        favoured=np.array([1, 0, 1, -1]),
        loss=np.array([2.5, 0.123456789, 1e-12, NAN]),
        entropy=np.array([0.5, 0.25, 0, NAN]),
        weight=np.array([0.5, 1, NAN, 1.5]),
        truth=np.array([1, 0, -2, 2]),
        order=np.array([3, 0, 1]),
        rankings=(),
    )


def test_rows_in_the_order_and_then_the_others() -> None:
    audit = by_hand()
    rows = list(audit.rows())
    assert [(row["rank"], row["label"], row["favoured"], row["truth"]) for row in rows] == [
        (1, "c", None, "c"),
        (2, "a", "b", "b"),
        (3, "a", "a", "a"),
        (None, "b", "b", ""),
    ]
    assert (rows[0]["loss"], rows[2]["loss"], rows[3]["weight"]) == (None, 0.1234568, None)
    assert list(audit.rows(2)) == rows[:2]
    assert audit.disagreeing() == 1
    assert audit.wrong is not None and audit.wrong.tolist() == [True, False, True, False]


def test_the_table_is_read_back_as_it_was() -> None:
    audit = by_hand()
    back = list(csv.DictReader(io.StringIO(audit.csv())))
    written = [{key: "" if value is None else str(value) for key, value in row.items()} for row in audit.rows()]
    assert back == written


def shown(table: object) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_screen_repeats_nothing_and_prints_no_escape_codes() -> None:
    text = shown(suspects_table(list(by_hand().rows())))
    lines = [line.split() for line in text.splitlines()]
    assert "\x1b" not in text
    assert ["2", 'a/"1",', "first.jpg", "a", "b", "2.5", "0.5", "as", "it", "looks"] in lines
    assert ["3", "a/·[2J.jpg", "a", "its", "label", "0.123", "1", "as", "labelled"] in lines
    assert ["b/3.jpg", "b", "its", "label", "1e-12", "none", "of", "these"] in lines
    assert "weight" not in shown(suspects_table([{**row, "weight": None} for row in by_hand().rows()]))


def test_orders_of_different_lengths_stand_side_by_side() -> None:
    def ranking(name: str, *found: tuple[int, float]) -> dict[str, object]:
        at = [{"first": k, "wrong": w, "precision": w / k, "recall": w / 4} for k, w in found]
        return {"name": name, "at": at, "auc": 0.8765}

    rankings = [ranking("weight", (2, 2), (8, 3.5)), ranking("loss", (2, 1))]
    assert [(first, [point and point["wrong"] for point in points]) for first, points in points_of(rankings)] == [
        (2, [2, 1]),
        (8, [3.5, None]),
    ]
    lines = [line.split() for line in shown(quality_table(rankings)).splitlines()]
    assert ["2", "2", "100.0", "50.0", "50.0"] in lines and ["8", "3.5", "43.8", "87.5", "–"] in lines
    assert ["AUC", "%", "87.65", "87.65"] in lines
