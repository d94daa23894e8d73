"""What a run tells: metrics.jsonl for machines, train.log and a progress bar for people."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from facekit.core.errors import MissingExtra
from facekit.core.files import explain_write, plain, write_atomic

console = Console(stderr=True)
"""For people. Stdout is left to results that a script may read."""


def say(label: str, text: str) -> None:
    """One labelled line for people: ``data     faces/: 9,272 images``."""
    console.print(f"{label:<8} {text}", soft_wrap=True, highlight=False, markup=False)


def result_screen() -> Console:
    """Stdout for tables: as wide as the terminal, and at least 100 columns where a file or a pipe reads it."""
    screen = Console(highlight=False, markup=False)  # names from files are no markup
    if not screen.is_terminal:
        screen.width = max(screen.width, 100)
    return screen


def ranged(value: float | None, low: float | None, high: float | None) -> str:
    """A rate and its interval in percent: ``98.7 (97.7..99.4)``."""
    if value is None:
        return "unmeasurable"
    return f"{100 * value:.1f}" + ("" if low is None or high is None else f" ({100 * low:.1f}..{100 * high:.1f})")


def printable(text: str) -> str:
    """Text of a stranger's file for a terminal: what is no character (escape codes, line breaks) becomes a dot."""
    return "".join(c if c.isprintable() else "\N{MIDDLE DOT}" for c in text)


def hush() -> None:
    """Say nothing from now on: of several processes one speaks."""
    console.quiet = True


_QUIET_S = 30.0  # between two progress lines where stderr is no terminal


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.fields.get("img_s")
        return Text(f"{speed:,.0f} img/s" if speed else "")


def progress_bar() -> Progress:
    """The one look of all progress bars; off where stderr is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), _Speed())
    return Progress(
        *columns,
        TimeRemainingColumn(),
        TextColumn("{task.fields[terms]}"),
        console=console,
        transient=True,
        disable=console.quiet or not console.is_terminal,
    )


@contextmanager
def image_progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar over ``total`` images; yields what to call with each further number of images done."""
    with progress_bar() as bar:
        shown = bar.add_task(label, total=total, terms="", img_s=None)
        started, done = time.monotonic(), 0

        def advance(images: int) -> None:
            nonlocal done
            done += images
            bar.update(shown, advance=images, img_s=done / max(time.monotonic() - started, 1e-9))

        yield advance


class Journal:
    """Writes a run's rows and shows its progress. ``folder`` None writes nothing (a dry run).

    metrics.jsonl holds only what a repeat reproduces bit for bit; speeds go to train.log.
    """

    def __init__(self, folder: Path | None, total_steps: int, images_per_step: int, tensorboard: bool = False) -> None:
        self.folder, self.images_per_step, self.total_steps = folder, images_per_step, total_steps
        self.writer = _tensorboard(folder) if tensorboard and folder else None
        self.progress = progress_bar()
        self.bar: TaskID | None = None
        self.mark: tuple[float, int] | None = None
        self.shown = 0.0
        self.speed: float | None = None

    def start(self, step: int) -> None:
        """Open at ``step``: rows of later steps, written before a crash, are dropped."""
        if self.folder:
            with explain_write(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
            truncate_rows(self.folder / "metrics.jsonl", step)
            self.rows = open(self.folder / "metrics.jsonl", "a", encoding="utf-8")  # noqa: SIM115 (closed in __exit__)
            self.log = open(self.folder / "train.log", "a", encoding="utf-8")  # noqa: SIM115
        if console.is_terminal and not console.quiet:
            self.progress.start()
            self.bar = self.progress.add_task("train", total=self.total_steps, completed=step, terms="", img_s=None)

    def row(self, step: int, epoch: int, values: Mapping[str, Any]) -> None:
        """Append one row of metrics.jsonl."""
        if self.folder:
            with explain_write(self.folder / "metrics.jsonl"):
                self.rows.write(json.dumps(plain({"step": step, "epoch": epoch, **values}), allow_nan=False) + "\n")
                self.rows.flush()
        if self.writer:
            for name, value in values.items():
                for key, number in value.items() if isinstance(value, Mapping) else ((name, value),):
                    self.writer.add_scalar(key, number, step)

    def step(self, step: int, epoch: int, terms: Mapping[str, float] | None) -> None:
        """Move the bar; with ``terms`` (just logged) also refresh the speed and the text."""
        if self.bar is not None:
            self.progress.update(self.bar, completed=step)
        if terms is None:
            return
        now = time.monotonic()
        if self.mark is not None:
            self.speed = (step - self.mark[1]) * self.images_per_step / max(now - self.mark[0], 1e-9)
        self.mark = (now, step)
        text = " ".join(f"{k} {v:.4g}" for k, v in terms.items())
        if self.bar is not None:
            self.progress.update(self.bar, description=f"epoch {epoch}", terms=text, img_s=self.speed)
        elif now - self.shown > _QUIET_S and not console.quiet:
            self.shown = now
            left = (self.total_steps - step) * self.images_per_step / self.speed if self.speed else None
            rate = f", {self.speed:,.0f} img/s, {left / 60:.1f} min left" if self.speed and left is not None else ""
            print(f"step {step}/{self.total_steps}, epoch {epoch}: {text}{rate}", file=sys.stderr, flush=True)
        self.note(f"step {step} epoch {epoch} {text}" + (f" {self.speed:.1f} img/s" if self.speed else ""))

    def note(self, text: str) -> None:
        """One line of train.log."""
        if self.folder:
            self.log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
            self.log.flush()

    def forget_speed(self) -> None:
        """Do not count what just happened (a save, an evaluation) as training time."""
        self.mark = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()
        if self.folder and hasattr(self, "rows"):
            self.rows.close()
            self.log.close()
        if self.writer:
            self.writer.close()


def truncate_rows(path: Path, step: int) -> None:
    """Keep the whole rows of ``path`` up to ``step``."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            whole = line.endswith(b"\n") and json.loads(line)["step"] <= step
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            break
        kept.append(line)
    write_atomic(path, b"".join(kept))


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtra(
            "--tensorboard needs the tensorboard package; add it with: pip install tensorboard"
        ) from error
    return SummaryWriter(str(folder / "tensorboard"))
