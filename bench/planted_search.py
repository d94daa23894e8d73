"""``python -m bench.planted_search [SEED ...]``: does the policy search find labels that were made wrong?

The set-up, whose right answer is known, is tests/training/planted.py; tests hold seeds 0 and 1 to their margins, here
every seed is told. About two minutes a search on one core; what is found goes into docs/results/planted_search.json.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from facekit.core.device import Device
from facekit.core.files import read_json, write_json
from facekit.core.reporting import hush
from facekit.evaluation.results import describe_environment
from tests.training.planted import EPISODES, SEARCHED, TABLE, UNSEEN, Constant, judged, outcome, searched, unseen

RESULT = Path(__file__).resolve().parent.parent / "docs" / "results" / "planted_search.json"
FIXED = ((0.0, 0.0, 0.0), (-2.0, 0.0, 0.0), (2.0, 0.0, 0.0), (0.0, -2.0, 0.0))


def one_search(seed: int, noise: float) -> dict[str, Any]:
    """Search with this seed, then judge its best-validated policy and its last one on unseen data sets."""
    start = time.process_time()
    search, best = searched(seed, noise)
    assert search.best is not None
    return {
        "seed": seed,
        "noise": noise,
        "validated": search.best.reward,
        "best": unseen(best, noise)._asdict(),
        "last": unseen(search.controller.actor, noise)._asdict(),
        "actions": [list(moment.action) for moment in search.best.trace],
        "rewards": [[r.search_episode, r.reward] for r in search.reports],
        "cpu_seconds": time.process_time() - start,
    }


def fixed_actions() -> list[dict[str, Any]]:
    """The table of fixed actions, over five data sets."""
    rows = []
    for action in FIXED:
        reports = judged(TABLE, Constant(action), 0, 5)
        last = [report.stages[-1].reward for report in reports]
        rows.append({"action": list(action), **outcome(reports)._asdict(), "last_stage": last})
    return rows


def show(result: dict[str, Any]) -> None:
    """Two tables."""
    fixed = Table("action", "reward", "clean / wrong", "accuracy", "reference", title="fixed actions")
    for row in result["fixed"]:
        fixed.add_row(str(row["action"]), *shown(row))
    found = Table("seed", "noise", "policy", "reward", "clean / wrong", "accuracy", "reference", title="searched")
    for row in result["searches"]:
        for policy in ("best", "last"):
            found.add_row(str(row["seed"]), str(row["noise"]), policy, *shown(row[policy]))
    for table in (fixed, found):
        Console(width=120).print(table)


def shown(row: dict[str, Any]) -> tuple[str, ...]:
    """The numbers of an outcome."""
    wrong = "none" if row["wrong"] is None else f"{row['wrong']:.2f}"
    return f"{row['reward']:+.3f}", f"{row['right']:.2f} / {wrong}", f"{row['target']:.1f}", f"{row['reference']:.1f}"


def main() -> int:
    """Run what is asked for, keep the other rows; print all."""
    parser = argparse.ArgumentParser(prog="python -m bench.planted_search", description=__doc__)
    parser.add_argument("seeds", nargs="*", type=int, default=[0, 1, 2, 3, 4], help="default 0 to 4")
    parser.add_argument("--noise", nargs="+", type=float, default=[SEARCHED.noise, 0.0], help="default 0.4 and 0")
    asked = parser.parse_args()
    hush()
    device = Device.pick("cpu", "fp32", threads=1)
    result = read_json(RESULT) if RESULT.is_file() else {"fixed": fixed_actions(), "searches": []}
    for noise, seed in itertools.product(asked.noise, asked.seeds):
        print(f"seed {seed}, noise {noise} ...", file=sys.stderr, flush=True)
        others = [row for row in result["searches"] if (row["seed"], row["noise"]) != (seed, noise)]
        rows = [*others, one_search(seed, noise)]
        result["searches"] = sorted(rows, key=lambda row: (-row["noise"], row["seed"]))
        result["setting"] = {"episodes": EPISODES, "stages": SEARCHED.stages, "steps": SEARCHED.steps, "unseen": UNSEEN}
        result["date"], result["environment"] = time.strftime("%Y-%m-%d"), describe_environment(device.describe())
        write_json(RESULT, result)
    show(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
