"""``facekit runs list`` and ``runs show``: what there is, what became of it, how good it is. Loads no torch."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from facekit.configs import RunsListConfig, RunsShowConfig, defaults_of
from facekit.core.errors import CorruptFile, InputError, MissingFile
from facekit.core.files import plain
from facekit.core.reporting import printable, ranged, result_screen, say
from facekit.core.runfolder import (
    STATUSES,
    StoredRun,
    find_runs,
    is_network,
    measured_on,
    measured_rows,
    metric_rows,
    number,
    read_results,
    read_run,
    summary,
    table,
    weights_of,
)

Facts = dict[str, Any]

RECORDED = (
    "command", "facekit", "environment", "data", "teacher", "architecture", "parameters", "licence", "weights",
    "adapter", "images_seen", "seconds",
)  # fmt: skip
"""What ``show`` takes over from run.json as it is written there."""
COLOURS = {"running": "cyan", "silent": "yellow", "unfinished": "yellow", "interrupted": "yellow"}
_BARS = "▁▂▃▄▅▆▇█"
_CURVE_WIDTH = 40


# --- list ------------------------------------------------------------------------------------------------


def list_runs(config: RunsListConfig) -> None:
    """Print the table, or with ``json`` the document."""
    stored, refused = find_runs(config.root)
    now = time.time()
    runs = [summary(run, now) for run in stored]
    runs = [facts for facts in runs if not config.status or facts["status"] in config.status]
    runs.sort(key=ORDERS[config.sort])
    if config.json:
        document = {"schema": "facekit.runs/1", "root": config.root.as_posix(), "runs": runs, "unreadable": refused}
        print(json.dumps(plain(document), indent=1, allow_nan=False))
        return
    for folder in refused:
        say("note", f"not read: {printable(folder)}")
    if runs:
        show_list(result_screen(), config.root, runs)
    else:
        say("runs", f"{config.root} holds no runs" + (f" that are {' or '.join(config.status)}" * bool(config.status)))


def best_first(key: str) -> Callable[[Facts], tuple[bool, float, str]]:
    """Sort key: the largest number first, runs without one last."""

    def order(facts: Facts) -> tuple[bool, float, str]:
        value = number(table(facts[key]).get("value"))
        return value is None, -(value or 0.0), facts["path"]

    return order


ORDERS: dict[str, Callable[[Facts], Any]] = {
    "path": lambda facts: facts["path"],
    "age": lambda facts: facts["age_s"],
    "dev": best_first("dev"),
    "test": best_first("test"),
}


def show_list(screen: Console, root: Path, runs: Sequence[Facts]) -> None:
    """What all have in common said once, one line a run, then why some stopped, then the count."""
    dev, test = labels(runs, "dev"), labels(runs, "test")
    columns = {
        "run": [below(root, facts["path"]) for facts in runs],
        "verb": [" ".join(filter(None, (facts["verb"], facts["method"]))) for facts in runs],
        "network": [facts["network"] or "" for facts in runs],
        "seed": ["" if facts["seed"] is None else f"{facts['seed']:g}" for facts in runs],
        "status": [looks(facts["status"]) for facts in runs],
        "epoch": [epochs(facts) for facts in runs],
        "dev %": [dev_cell(facts["dev"], named=len(dev) > 1) for facts in runs],
        "test %": [test_cell(facts["test"], named=len(test) > 1) for facts in runs],
        "age": [ago(facts["age_s"]) for facts in runs],
    }
    values = {name: set(filter(None, columns[name])) for name in ("verb", "network")}
    common = {name: found.pop() for name, found in values.items() if len(runs) > 1 and len(found) == 1}
    screen.print()
    head = [f"{root}: {len(runs)} run{'s' * (len(runs) > 1)}", *common.values()]
    screen.print(printable(", ".join(head)), soft_wrap=True)
    for name, found in (("dev", dev), ("test", test)):
        if len(found) == 1:
            screen.print(printable(f"{name}: {found[0]}"), soft_wrap=True)
    grid = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, collapse_padding=True)
    kept = [name for name, cells in columns.items() if name not in common and any(cells)]
    for name in kept:
        words = name in ("run", "verb", "network")
        left = words or name == "status"
        least = min(24, max(map(len, columns[name]))) if name == "run" else None
        grid.add_column(name, justify="left" if left else "right", overflow="fold", no_wrap=not words, min_width=least)
    for i, facts in enumerate(runs):
        cells = {name: Text(printable(columns[name][i])) for name in kept}
        cells["status"].stylize(COLOURS.get(facts["status"], "" if facts["status"] == "done" else "red"))
        grid.add_row(*cells.values())
    screen.print(grid)
    for line in remarks(root, runs):
        screen.print(printable(line), soft_wrap=True)


def remarks(root: Path, runs: Sequence[Facts]) -> Iterator[str]:
    """Why runs stopped, what the marks mean, how many runs are in which state."""
    for facts in runs:
        if facts["reason"]:
            yield f"{below(root, facts['path'])}: {facts['status']}: {facts['reason']}"
    for facts in runs:
        if fault := table(facts["test"]).get("fault"):
            yield f"{below(root, facts['path'])}: its results are not shown: {fault}"
    if any(facts["status"] == "silent" for facts in runs):
        yield "running?: run.json says running, but nothing was written for 3 x --save-minutes: killed or stuck."
    if any(table(facts["test"]).get("weights") == "other" for facts in runs):
        yield "*: measured on weights that the run no longer has; measure again."
    if any(table(facts["test"]).get("weights") == "best" for facts in runs):
        yield "b: measured on the best checkpoint, not on the last."
    counts = Counter(facts["status"] for facts in runs)
    yield ", ".join(f"{counts[status]} {looks(status)}" for status in STATUSES if counts[status])


def looks(status: str) -> str:
    """A status as the table shows it."""
    return "running?" if status == "silent" else status


def below(root: Path, path: str) -> str:
    """A run's path as seen from the listed folder."""
    return Path(path).relative_to(root).as_posix()


def epochs(facts: Facts) -> str:
    """``3/20``; nothing where the run says neither."""
    if facts["epochs"] is None:
        return ""
    return f"{facts['epoch'] or 0:g}/{facts['epochs']:g}"


def ago(seconds: float) -> str:
    """``12 s``, ``5 min``, ``3 h``, ``4 d``."""
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def labels(runs: Sequence[Facts], key: str) -> list[str]:
    """What the numbers of a column are, each once."""
    found = (table(facts[key]) for facts in runs)
    return list(dict.fromkeys(label(numbers) for numbers in found if number(numbers.get("value")) is not None))


def label(numbers: Facts) -> str:
    """``tar@far=0.001`` of dev, ``tar@far=0.001 on lfw, flip-none`` of test."""
    name = str(numbers.get("metric"))
    if (at := number(numbers.get("at"))) is not None:
        name += f"={at:g}"
    return name if "benchmark" not in numbers else f"{name} on {numbers['benchmark']}, {numbers.get('variant')}"


def dev_cell(dev: Any, named: bool) -> str:
    """``72.7``, with its name where the column holds several kinds."""
    value = number(table(dev).get("value"))
    return "" if value is None else f"{100 * value:.1f}" + f" {label(dev)}" * named


def test_cell(test: Any, named: bool) -> str:
    """``72.5 (69.0..75.7)``, marked where it is not of the last checkpoint."""
    found = table(test)
    if (value := number(found.get("value"))) is None:
        return "?" if found else ""
    mark = {"other": "*", "best": "b"}.get(str(found.get("weights")), "")
    return ranged(value, number(found.get("low")), number(found.get("high"))) + mark + f" {label(found)}" * named


# --- show ------------------------------------------------------------------------------------------------


def show(config: RunsShowConfig) -> None:
    """Print the page, or with ``json`` the document."""
    run = open_stored(config.run)
    facts = report(run, time.time())
    if config.json:
        print(json.dumps(plain(facts), indent=1, allow_nan=False))
        return
    screen = result_screen()
    screen.print()
    verb = " ".join(filter(None, (facts["verb"], facts["method"])))
    title = f"{facts['path']}: {verb}, {looks(facts['status'])}, last sign {ago(facts['age_s'])} ago"
    screen.print(printable(title), style="bold", soft_wrap=True)
    if facts["command"]:
        screen.print(printable(f"$ {facts['command']}"), soft_wrap=True)  # whole, so that it can be copied
    grid = Table.grid(padding=(0, 2, 0, 0))
    for name, text in page(facts):
        grid.add_row(name, printable(text))
    screen.print(grid)


def open_stored(path: Path) -> StoredRun:
    """The run in a folder. Raises MissingFile, InputError or CorruptFile with what to give instead."""
    if not (path / "run.json").is_file():
        raise MissingFile(
            f"{path} holds no run.json, so it is no run; 'facekit runs list FOLDER' finds those in a folder"
        )
    run = read_run(path)
    if run.fault:
        raise CorruptFile(f"{path}: {run.fault}")
    if is_network(run.record):
        raise InputError(f"{path} is a checkpoint; give the run folder it lies in")
    return run


def report(run: StoredRun, now: float) -> Facts:
    """Everything the page shows, in JSON's types."""
    rows = metric_rows(run.path)
    logged = [row for row in rows if "terms" in row]
    content, fault = read_results(run.path)
    return {
        "schema": "facekit.run-report/1",
        **summary(run, now),
        **{name: run.record.get(name) for name in RECORDED},
        "options": changed_options(run),
        "weights_sha256": weights_of(run),
        "last_row": logged[-1] if logged else None,
        "dev_curve": [{"epoch": row.get("epoch"), **table(row["dev"])} for row in rows if "dev" in row],
        "results": None if content is None else measured_rows(content),
        "results_of": None if content is None else measured_on(run, content),
        "results_fault": fault or None,
        "files": sizes(run.path),
    }


def changed_options(run: StoredRun) -> Facts:
    """The options that differ from the verb's defaults; all that were given where the verb is not known here."""
    defaults = defaults_of(str(run.record.get("verb")))
    return {name: value for name, value in run.config.items() if value != defaults.get(name)}


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file and of each folder in the run folder."""
    found = {}
    for entry in sorted(folder.iterdir()):
        files = [Path(place, name) for place, _, names in os.walk(entry) for name in names] or [entry]
        found[entry.name + "/" * entry.is_dir()] = sum(file.lstat().st_size for file in files)
    return found


def page(facts: Facts) -> Iterator[tuple[str, str]]:
    """(what, text) of each line; what the run does not say is left out."""
    if facts["reason"]:
        yield "reason", facts["reason"]
    yield "options", ", ".join(readable(facts["options"])) or "all as by default"
    data, teacher, made = (table(facts[name]) for name in ("data", "teacher", "environment"))
    if data:
        kinds = "classes" if table(facts["architecture"]).get("classes") else "people"
        people = f"{data.get('images')} images of {data.get('identities')} {kinds}"
        yield "data", f"{people}, {short(data.get('fingerprint'))}"
    if teacher:
        yield "teacher", f"{teacher.get('name')}, {teacher.get('path')}, {short(teacher.get('sha256'))}"
    network = table(facts["architecture"])
    if network:
        yield (
            "network",
            f"{network.get('name')}, {number(facts['parameters']):,} parameters, embedding {network.get('embedding')}, "
            + (", ".join(f"{name} {short(sha)}" for name, sha in facts["weights_sha256"].items()) or "not saved yet"),
        )
    if facts["licence"]:
        yield "licence", str(facts["licence"])
    if made:
        tools = {"facekit": facts["facekit"] or "unknown", **made}
        yield "made by", ", ".join(f"{name} {value}" for name, value in tools.items())
    yield from course(facts)
    yield from measured(facts)
    yield "files", ", ".join(f"{name} {kilobytes(size)}" for name, size in facts["files"].items())


def readable(options: Facts) -> Iterator[str]:
    """Options as a person would type them, without those that other lines of the page show."""
    for name, value in options.items():
        if name not in ("data", "teacher", "out", "resume"):
            joint = "+" if name == "method" else ","
            text = joint.join(map(str, value)) if isinstance(value, list) else str(value)
            yield f"{name.replace('_', '-')} {text}"


def kilobytes(size: int) -> str:
    """``12 kB``, ``3.6 MB``."""
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{max(1, round(size / 1e3))} kB"


def short(sha: Any) -> str:
    """The first twelve digits of a hash."""
    return str(sha)[:12]


def course(facts: Facts) -> Iterator[tuple[str, str]]:
    """How far it got, what it logged last, how it did on dev."""
    step = "" if facts["step"] is None else f", step {facts['step']:,.0f}"
    seconds, images = number(facts["seconds"]), number(facts["images_seen"])
    spent = "" if seconds is None or images is None else f"; {images:,.0f} images in {seconds / 60:.1f} min"
    yield "progress", f"epoch {epochs(facts)}{step}{spent}"
    last = table(facts["last_row"])
    terms = {name: value for name, value in table(last.get("terms")).items() if number(value) is not None}
    if terms:
        text = ", ".join(f"{name} {value:.4g}" for name, value in terms.items())
        yield "last row", f"step {last.get('step')}: {text}, lr {number(last.get('lr')) or 0:.4g}"
    curve = facts["dev_curve"]
    for metric in dict.fromkeys(name for row in curve for name in row if name != "epoch"):
        points = [(row["epoch"], value) for row in curve if (value := number(row.get(metric))) is not None]
        if points:
            values = [value for _, value in points]
            epoch, best = max(points, key=lambda point: point[1])
            told = f"last {100 * values[-1]:.1f} %, best {100 * best:.1f} % in epoch {epoch}"
            yield "dev", f"{metric} {sparkline(values)} {told}"


def sparkline(values: Sequence[float]) -> str:
    """The values as bars between their least and their largest, at most 40; the last value is always the last bar."""
    stride = -(-len(values) // _CURVE_WIDTH)
    kept = values[::-1][::stride][::-1]
    low, high = min(kept), max(kept)
    return "".join(_BARS[round((value - low) / (high - low or 1.0) * (len(_BARS) - 1))] for value in kept)


def measured(facts: Facts) -> Iterator[tuple[str, str]]:
    """The results: one line a benchmark."""
    if facts["results_fault"]:
        yield "results", f"not shown: {facts['results_fault']}"
    shown = ("tar@far", "accuracy_10fold", "auc", "eer", "top1", "top5")
    boards: dict[tuple[str, str], list[str]] = {}
    for row in facts["results"] or []:
        if row.get("metric") in shown:
            at = number(row.get("at"))
            name = str(row["metric"]) + ("" if at is None else f"={at:g}")
            value = ranged(number(row["value"]), number(row.get("low")), number(row.get("high")))
            boards.setdefault((str(row.get("benchmark")), str(row.get("variant"))), []).append(f"{name} {value}")
    whose = {"other": ", on weights that the run no longer has", "best": ", on the best checkpoint"}
    for (benchmark, variant), numbers in boards.items():
        yield "results", f"{benchmark}, {variant}{whose.get(facts['results_of'], '')}, in percent with 95 % intervals:"
        yield from (("", number) for number in numbers)
