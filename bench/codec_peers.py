"""Decoding by our codec against CompressAI's, which runs in an environment and a process of its own."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import numpy as np

from bench.codec import ARCH, HEIGHT, WIDTH, Codings
from bench.compressai_worker import MODELS
from bench.environments import Skipped, with_needs
from bench.timing import REPEATS, Paired, Row, at_least

VERSION = "1.2.8"
"""Of compressai."""
ROOT = Path(__file__).resolve().parent.parent
Seconds = dict[str, float]
"""``cpu`` and ``wall`` of one call."""


class Peer:
    """The worker, as long as the ``with`` lasts. Raises Skipped where it cannot start."""

    def __enter__(self) -> Peer:
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self.process = subprocess.Popen(
            [with_needs("compressai", VERSION), "-m", "bench.compressai_worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, **one_thread},
        )  # fmt: skip
        self.versions = self.answer()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def answer(self) -> dict[str, str]:
        """The next line of the worker."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise Skipped(f"compressai {VERSION} does not run here (status {self.process.wait()}); its words are above")
        found: dict[str, str] = json.loads(line)
        return found

    def timed(self, model: str, part: str) -> Seconds:
        """One call."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"model": model, "part": part}) + "\n")
        self.process.stdin.flush()
        return {name: float(value) for name, value in self.answer().items()}


def timed(call: Callable[[], object]) -> Seconds:
    """One call of ours."""
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


class Run:
    """Every part of both sides once in each round, so that all rows come from the same minutes."""

    def __init__(self) -> None:
        with Peer() as peer:
            self.versions = peer.versions
            ours, quick = Codings(ARCH, HEIGHT, WIDTH), Codings(ARCH, HEIGHT, WIDTH, "bf16")
            self.bpp = ours.bpp
            calls: dict[str, Callable[[], Seconds]] = {
                "ours": lambda: timed(ours.decode),
                "ours bf16": lambda: timed(quick.decode),
                "ours entropy": lambda: timed(ours.entropy),
                **{name: functools.partial(peer.timed, name, "decode") for name in MODELS},
                "mbt2018 synthesis": functools.partial(peer.timed, "mbt2018", "synthesis"),
            }
            rounds = [in_turn(calls, backwards=bool(i % 2)) for i in range(1 + REPEATS)][1:]  # the first one warms up
        self.cpu, self.wall = (
            {name: np.array([row[name][clock] for row in rounds]) for name in calls} for clock in ("cpu", "wall")
        )

    def told(self, theirs: str, ours: str) -> str:
        """Both sides' seconds, and what they ran."""
        _, n, m = MODELS[theirs]
        seconds = "; ".join(
            f"{name} {np.median(self.cpu[name]):.3f} CPU s ({np.median(self.wall[name]):.3f} wall)"
            for name in (theirs, ours)
        )
        return (
            f"{WIDTH}x{HEIGHT}, one thread, decode: {seconds}; {theirs} N {n} M {m} of compressai "
            f"{self.versions['compressai']} (torch {self.versions['torch']}), random weights; ours N {ARCH.n} "
            f"M {ARCH.m} K {ARCH.k}, enhancement none, mode f64, {self.bpp:.2f} bpp"
        )


def in_turn(calls: dict[str, Callable[[], Seconds]], backwards: bool) -> dict[str, Seconds]:
    """One round."""
    names = list(calls)
    return {name: calls[name]() for name in (reversed(names) if backwards else names)}


@functools.cache
def measured() -> Run:
    """The run that all rows of this process are read from."""
    return Run()


def decode_row(theirs: str, ours: str, bar: float) -> Row:
    """Whole decoding, theirs over ours."""
    run = measured()
    precision = "bf16 synthesis" if ours.endswith("bf16") else "fp32"
    paired = Paired(run.cpu[theirs], run.cpu[ours])
    return at_least(f"decode, {theirs} / ours in {precision}", paired, bar, run.told(theirs, ours))


def codec_mbt2018() -> Row:
    """Against the serial context model."""
    return decode_row("mbt2018", "ours", 12)


def codec_mbt2018_bf16() -> Row:
    """The same with the synthesis in bfloat16."""
    return decode_row("mbt2018", "ours bf16", 22)


def codec_hyperprior() -> Row:
    """Against a decoder without context, of our widths."""
    return decode_row("bmshj2018-hyperprior", "ours", 1)


def codec_mean() -> Row:
    """Against a decoder without context, of our widths."""
    return decode_row("mbt2018-mean", "ours", 1)


def codec_entropy_mbt2018() -> Row:
    """Decoding without the synthesis."""
    run = measured()
    theirs = run.cpu["mbt2018"] - run.cpu["mbt2018 synthesis"]
    note = (
        f"{np.median(theirs):.2f} and {np.median(run.cpu['ours entropy']):.3f} CPU s: all but g_s, the hyper-decoder "
        f"included; {run.told('mbt2018', 'ours')}"
    )
    return at_least("entropy stage, mbt2018 / ours", Paired(theirs, run.cpu["ours entropy"]), 45, note)
