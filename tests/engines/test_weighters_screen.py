"""What a person sees of a comparison of rules: whole names at 100 columns, and how to go on."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from facekit.core.errors import FacekitError, Interrupted, Unfinished
from facekit.engines.weighters import call_again, tables

LAW = {
    "row": "clean_only", "mean": 0.412, "least": 0.401, "most": 0.42, "finding": "better",
    "change": {"value": 0.125, "low": 0.118, "high": 0.132}, "weight_clean": 1.15, "weight_mislabelled": 0.98,
    "auc": 0.68, "memorised": 0.387, "search_seconds": 1352.0, "train_seconds": 109.0,
    "needs": ["clean (search)", "reference (search)"],
}  # fmt: skip


def test_a_long_last_column_takes_lines_and_not_letters_of_the_others() -> None:
    screen = Console(width=100, record=True, file=None, quiet=False, highlight=False)
    with screen.capture() as shown:
        for table in tables({"rows": [LAW]}):
            screen.print(table)
    text = shown.get()
    assert "…" not in text and text.count("clean_only") == 2
    assert all(word in text for word in ("search s", "1352", "0.68", "reference", "+12.5 (+11.8..+13.2)"))


@pytest.mark.parametrize("error", [Unfinished("run again with --resume"), Interrupted("with --resume", 15)])
def test_a_stop_says_the_way_on_that_this_verb_has(error: FacekitError) -> None:
    words = "run the same command again: what is done in table is kept"
    with pytest.raises(type(error), match=words) as raised, call_again(Path("table")):
        raise error
    assert "--resume" not in str(raised.value) and raised.value.exit_code == error.exit_code
