"""Several processes for a test, started as torchrun does it: its environment, its key-value store, its end.

The fork server imports torch once, so a process costs a fork. Once one process has failed, the others get SIGTERM, and
SIGKILL half a minute later.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed import TCPStore

from facekit.core.errors import FacekitError

CONTEXT = multiprocessing.get_context("forkserver")
# The last one is what the first optimiser step of a process would import, for two seconds.
CONTEXT.set_forkserver_preload(
    ["facekit.engines.train", "facekit.engines.distill", "facekit.data.synth", "torch._dynamo"]
)


def enter(rank: int, world: int, port: int, errors: Path | None, target: Callable[..., None], args: Any) -> None:
    """In the child: what torchrun and the command line put around a verb."""
    os.environ["PYTHONWARNINGS"] = "ignore"
    torch.set_num_threads(1)
    if world > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    if errors is not None:
        errors.mkdir(parents=True, exist_ok=True)
        os.dup2(os.open(errors / f"{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    try:
        target(*args)
    except FacekitError as error:
        print(f"facekit: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


class Launched:
    """``world`` processes that run ``target(*args)``; with ``errors`` their stderr goes to files of that folder."""

    def __init__(self, world: int, target: Callable[..., None], *args: Any, errors: Path | None = None) -> None:
        self.store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) if world > 1 else None
        port = self.store.port if self.store else 0
        self.errors = errors
        self.processes = [
            CONTEXT.Process(target=enter, args=(rank, world, port, errors, target, args)) for rank in range(world)
        ]
        for process in self.processes:
            process.start()

    def kill(self, rank: int) -> None:
        """End one process the hard way, if it still runs."""
        self.processes[rank].kill()

    def join(self, seconds: float) -> bool:
        """Wait until one has failed or all are done; False if neither happened in that time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            codes = [process.exitcode for process in self.processes]
            if None not in codes or any(codes):
                return True
            time.sleep(0.05)
        return False

    def finish(self, seconds: float = 120.0) -> list[int | None]:
        """The exit codes of all."""
        ended = self.join(seconds)
        for process in self.processes:
            if process.is_alive():
                process.terminate()
        for process in self.processes:
            process.join(30)
            process.kill()
            process.join()
        assert ended, "hung"
        return [process.exitcode for process in self.processes]

    def said(self) -> list[str]:
        """The explained errors on stderr, of all processes."""
        assert self.errors is not None
        text = "".join(file.read_text() for file in sorted(self.errors.glob("*.txt")))
        assert "Traceback" not in text, text
        return [line for line in text.splitlines() if line.startswith("facekit: ")]
