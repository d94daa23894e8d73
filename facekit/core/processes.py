"""Several processes of one run, as torchrun starts them: the only file that names torch.distributed.

Every process holds the whole network and takes an equal slice of each batch. Tensors of a CPU travel by gloo, those of
a GPU by nccl; decisions (stop, save) are tensors of the CPU, so that none of them waits for a GPU.

A process that ends with an explained error leaves it in the launcher's key-value store and closes its connections. The
others notice at their next exchange, find it there and leave with the same exit code: one sentence reaches the user.
Where a connection is gone and nothing was left, a process died, and that is what they say.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from facekit.core.errors import EndedElsewhere, FacekitError, ProcessLost, UsageError

PATIENCE = timedelta(minutes=30)
"""How long an exchange waits. The death of a process is noticed at once, by its closed connection; only one that
vanishes with its machine is waited for. Long, because some waits are right: for a slow disk, for a large state."""
LEAVING_S = 5.0
"""How long a process that ends with an error waits for the others to end too: torchrun kills those it finds late."""
BUCKET_BYTES = 32 << 20
"""Tensors are averaged in copies of about this size: few exchanges, and little memory beside the gradients."""


class Processes:
    """A process among the others of its run. ``rank`` counts from 0; process 0 is the one that writes and speaks."""

    def __init__(self) -> None:
        # Imported here: builds of torch without distribution lack them.
        from torch.distributed.distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        try:
            store, self.rank, self.world = next(rendezvous("env://", timeout=PATIENCE))
        except ValueError as error:
            raise UsageError(
                f"WORLD_SIZE={os.environ['WORLD_SIZE']} says that this is one of several processes, but how to reach "
                "the others is not set; start them with: torchrun --nproc-per-node N -m facekit ..."
            ) from error
        opened = store.add("facekit/opened", 1)  # a store may outlive a run: each opening has its own keys
        self.store = PrefixStore(f"facekit/{(opened - 1) // self.world}", store)
        with self.exchange():
            dist.init_process_group(
                "gloo",
                store=PrefixStore("group", self.store),
                rank=self.rank,
                world_size=self.world,
                timeout=PATIENCE,
            )
        self.hosts, self.gpus = dist.group.WORLD, None

    @property
    def local_rank(self) -> int:
        """Its place among the processes of its machine: the number of its GPU."""
        return int(os.environ.get("LOCAL_RANK", self.rank))

    def use_gpus(self) -> None:
        """Open a group for tensors of GPUs, and one for the hosts that can be closed alone."""
        with self.exchange():
            self.gpus = dist.new_group(backend="nccl", timeout=PATIENCE)
            self.hosts = dist.new_group(backend="gloo", timeout=PATIENCE)

    def group_of(self, tensor: Tensor) -> dist.ProcessGroup | None:
        """By which group a tensor travels."""
        return self.hosts if tensor.device.type == "cpu" else self.gpus

    # --- exchanges: every process calls the same ones in the same order ----------------------------------

    @contextmanager
    def exchange(self) -> Iterator[None]:
        """The one place that explains what gloo and nccl raise when a process is gone."""
        try:
            yield
        except RuntimeError as error:
            raise self.explained(error) from error

    def gather(self, tensor: Tensor) -> Tensor:
        """[B,...] of every process, one after the other in rank order: [world B,...]."""
        own = tensor.detach().contiguous()
        parts = [torch.empty_like(own) for _ in range(self.world)]
        with self.exchange():
            dist.all_gather(parts, own, group=self.group_of(own))
        return torch.cat(parts)

    def gather_with_gradient(self, tensor: Tensor) -> Tensor:
        """As ``gather``; the gradient of the own rows is the sum of what all processes found for them."""
        gathered: Tensor = Gather.apply(tensor, self)
        return gathered

    def sum(self, tensor: Tensor) -> None:
        """Replace a contiguous tensor by its sum over all processes."""
        with self.exchange():
            dist.all_reduce(tensor, group=self.group_of(tensor))

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace every tensor by its mean over all processes, in a few flat copies."""
        for bucket in buckets(tensors, BUCKET_BYTES):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            self.sum(flat)
            parts = (flat / self.world).split([tensor.numel() for tensor in bucket])
            torch._foreach_copy_(bucket, [part.view(own.shape) for part, own in zip(parts, bucket, strict=True)])

    def largest(self, numbers: Sequence[int]) -> list[int]:
        """Of each number the largest over all processes. Between the hosts: no GPU is waited for."""
        values = torch.tensor(numbers, dtype=torch.int64)
        with self.exchange():
            dist.all_reduce(values, op=dist.ReduceOp.MAX, group=self.hosts)
        return [int(value) for value in values]

    def tell(self, value: Any) -> Any:
        """Process 0's value, of JSON's types, on every process; all wait until it is there."""
        text = json.dumps(value).encode() if self.rank == 0 else b""
        (length,) = self.largest([len(text)])
        letter = torch.frombuffer(bytearray(text.ljust(length)), dtype=torch.uint8)
        with self.exchange():
            dist.broadcast(letter, src=0, group=self.hosts)
        return json.loads(letter.numpy().tobytes())

    # --- the end ---------------------------------------------------------------------------------------------

    @contextmanager
    def ending_together(self) -> Iterator[None]:
        """Leave in one way on all processes; where the error is told by another one, quietly (SystemExit)."""
        failed = True
        try:
            yield
            self.tell(None)  # process 0 has written everything
            failed = False
        except FacekitError as error:
            with suppress(ValueError):  # not the main thread
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun sends it as soon as the first has left
            if not self.leave_with(error):
                raise SystemExit(error.exit_code) from error
            raise
        finally:
            self.close(failed)

    def leave_with(self, error: FacekitError) -> bool:
        """Leave ``error`` for the others and wait for them; True if this process is the one that tells it."""
        speaker, mine = self.rank, json.dumps([self.rank, error.exit_code, str(error)])
        with suppress(RuntimeError):  # the store ended with the process that kept it
            speaker = json.loads(self.store.compare_set("error", "", mine))[0]
            self.close(failed=True)
            self.store.add("left", 1)
            end = time.monotonic() + (0 if isinstance(error, ProcessLost) else LEAVING_S)
            while time.monotonic() < end and self.store.add("left", 0) < self.world:
                time.sleep(0.02)
        return speaker == self.rank

    def explained(self, error: RuntimeError) -> FacekitError:
        """Why an exchange failed: the error that another process left, else that one is gone."""
        with suppress(RuntimeError):  # the store ended with the process that kept it
            if self.store.check(["error"]):
                _, code, text = json.loads(self.store.get("error"))
                return EndedElsewhere(text, code)
        who = f"process {1 - self.rank} of 2" if self.world == 2 else f"one of the other {self.world - 1} processes"
        said = re.sub(r"^\[[^]]*\]\s*", "", str(error)).split(". ")[0].split("\n")[0]
        return ProcessLost(f"{who} ended or cannot be reached ({said})")

    def close(self, failed: bool) -> None:
        """Close the connections, which wakes those who wait for this process."""
        if self.hosts is None:
            return
        # Closing nccl waits for its queued work, which never ends without the others: left to the process's end.
        group = self.hosts if failed and self.gpus else None
        self.hosts = self.gpus = None  # the last references: connections close with them
        with suppress(RuntimeError):  # some are closed already, by the death of the other end
            dist.destroy_process_group(group)


@contextmanager
def processes_of_this_run() -> Iterator[Processes | None]:
    """The processes that torchrun started, from here to the end of the run; None where there is only one."""
    if os.environ.get("WORLD_SIZE", "1") in ("", "1") or "RANK" not in os.environ:
        yield None
        return
    processes = Processes()
    with processes.ending_together():
        yield processes


def buckets(tensors: Sequence[Tensor], limit: int) -> Iterator[list[Tensor]]:
    """The tensors in groups of one type and about ``limit`` bytes, in their order."""
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        bucket: list[Tensor] = []
        size = 0
        for tensor in (t for t in tensors if t.dtype == dtype):
            bucket.append(tensor)
            size += tensor.nbytes
            if size >= limit:
                yield bucket
                bucket, size = [], 0
        if bucket:
            yield bucket


class Gather(torch.autograd.Function):
    """``Processes.gather`` for autograd."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, processes: Processes) -> Tensor:
        """[B,...] -> [world B,...] in rank order."""
        ctx.processes = processes
        return processes.gather(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """[world B,...] -> [B,...]."""
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        ctx.processes.sum(total)
        return total.chunk(ctx.processes.world)[ctx.processes.rank], None
