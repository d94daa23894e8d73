"""The results document: exactly the columns of the schema, no NaN, the same rows in JSON and CSV."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facekit.data.pairs import PairSet
from facekit.evaluation.results import COLUMNS, Row, document, write_results

# Written out again from the protocol, so that a renamed field is noticed.
SCHEMA = (
    "run model seed checkpoint benchmark variant protocol score metric at value std std_kind low high level ci_method "
    "threshold achieved n_false n_genuine n_impostor n_images n_identities n_failed status note "
    "support alpha neighbours transductive"
)


def make(rows: list[Row], pairs: PairSet, model: Any) -> dict[str, Any]:
    return document(
        rows, models=[model], benchmarks=[pairs], device={"device": "cpu", "precision": "fp32", "threads": 1}
    )


def test_columns_are_those_of_the_schema() -> None:
    assert " ".join(COLUMNS) == SCHEMA
    assert tuple(Row().to_dict()) == COLUMNS


def test_document(make_pair_list: Callable[..., PairSet], toy_model: type[Any]) -> None:
    content = make([Row(metric="auc", value=0.5)], make_pair_list(), toy_model())
    assert list(content) == [
        "schema", "created", "facekit", "command", "environment", "models", "benchmarks", "rows",
    ]  # fmt: skip
    assert content["schema"] == "facekit.results/1"
    assert {"torch", "numpy", "decoder", "device", "precision", "threads"} <= {*content["environment"], "torch"}
    model, benchmark = content["models"][0], content["benchmarks"][0]
    assert model["preprocess"]["flip"] == "none" and len(model["sha256"]) == 64
    assert (benchmark["genuine"], benchmark["impostor"], benchmark["failed"]) == (100, 100, 3)
    assert (benchmark["fold_rule"], benchmark["folds"]) == ("contiguous tenths", 10)


def test_json_holds_null_instead_of_nan_and_csv_the_same_rows(
    make_pair_list: Callable[..., PairSet], toy_model: type[Any], tmp_path: Path
) -> None:
    rows = [
        Row(metric="eer", value=1 / 3, threshold=math.inf, note='quote " and, comma'),
        Row(metric="tar@far", at=1e-4, value=math.nan, status="not_measurable", n_impostor=3000),
    ]
    write_results(tmp_path / "new", make(rows, make_pair_list(), toy_model()))
    text = (tmp_path / "new" / "results.json").read_text()
    read = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert [r["value"] for r in read["rows"]] == [1 / 3, None]
    assert read["rows"][0]["threshold"] is None
    with open(tmp_path / "new" / "results.csv", newline="") as stream:
        table = list(csv.DictReader(stream))
    assert list(table[0]) == list(COLUMNS)
    assert float(table[0]["value"]) == 1 / 3 and table[0]["note"] == 'quote " and, comma'
    assert (table[1]["value"], table[1]["n_impostor"], table[1]["status"]) == ("", "3000", "not_measurable")
