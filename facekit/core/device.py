"""Where and in which arithmetic networks run: the only file that names CUDA.

An explicit object handed down, never a singleton. With one process ``rank`` is 0, ``world`` is 1 and every exchange
with others is the identity: nothing is called.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from facekit.core.errors import UsageError
from facekit.core.processes import Processes

N = TypeVar("N", bound=nn.Module)
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def has_fast_bf16() -> bool:
    """True where the CPU multiplies bfloat16 in hardware; elsewhere bf16 is slower than fp32."""
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check() for check in checks if check is not None)


@dataclass(frozen=True)
class Device:
    """A device, its precision, and the other processes of the run."""

    torch_device: torch.device
    precision: str
    deterministic: bool = False
    compile: bool = False
    processes: Processes | None = None

    @property
    def rank(self) -> int:
        """Which of the ``world`` processes it is, from 0; process 0 alone writes files and speaks."""
        return self.processes.rank if self.processes else 0

    @property
    def world(self) -> int:
        """How many processes the run has."""
        return self.processes.world if self.processes else 1

    @staticmethod
    def pick(
        name: str = "auto",
        precision: str = "auto",
        *,
        threads: int | None = None,
        deterministic: bool | None = None,
        compile: bool = False,
        measuring: bool = False,
        processes: Processes | None = None,
    ) -> Device:
        """Choose a device and set the process-wide switches that belong to it.

        ``auto`` takes cuda, then mps, then cpu; precision ``auto`` is bf16 where the hardware has it, and fp32 when
        ``measuring``: reduced precision never enters a headline number unasked. Each of several ``processes`` takes
        the GPU of its number.
        Raises UsageError where the named device is not on this machine, or not for every process.
        """
        available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        kind = next(k for k, ok in available.items() if ok) if name == "auto" else name
        if not available.get(kind, False):
            usable = ", ".join(k for k, ok in available.items() if ok)
            raise UsageError(f"--device {name} is not usable on this machine; usable: auto, {usable}")
        if processes and kind == "mps":
            raise UsageError(f"{processes.world} processes cannot share mps; give --device cpu, or start one process")
        if precision == "auto":
            fast = torch.cuda.is_bf16_supported() if kind == "cuda" else kind == "cpu" and has_fast_bf16()
            precision = "bf16" if fast and not measuring else "fp32"
        if threads is not None:
            torch.set_num_threads(threads)
        exact = kind == "cpu" if deterministic is None else deterministic
        torch.use_deterministic_algorithms(exact)
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        if kind == "cuda":
            torch.backends.cudnn.allow_tf32 = precision == "tf32"
            # cuBLAS repeats bit for bit only with a fixed workspace, and reads this before its first call.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.backends.cudnn.benchmark = not exact
        place = own_gpu(processes) if processes and kind == "cuda" else torch.device(kind)
        return Device(place, precision, exact, compile, processes)

    def put(self, tensor: Tensor) -> Tensor:
        """Move a tensor here without waiting for the copy."""
        return tensor.to(self.torch_device, non_blocking=True)

    def module(self, net: N) -> N:
        """Move a network here in channels_last (the fast layout everywhere), compiled where asked."""
        net = net.to(self.torch_device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.compile:
            net.compile()
        return net

    def autocast(self) -> AbstractContextManager[Any]:
        """Reduced precision inside, or nothing for fp32 and tf32."""
        dtype = _DTYPES.get(self.precision)
        return nullcontext() if dtype is None else torch.autocast(self.torch_device.type, dtype=dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """Loss scaling, active for fp16 only."""
        return torch.amp.GradScaler(self.torch_device.type, enabled=self.precision == "fp16")

    def rng_state(self) -> dict[str, Tensor]:
        """Generator states of this process, for a bit-exact resume."""
        states = {"cpu": torch.get_rng_state()}
        if self.torch_device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.torch_device)
        return states

    def set_rng_state(self, states: dict[str, Tensor]) -> None:
        """Restore what ``rng_state`` returned; a state of a device that is absent here is left out."""
        torch.set_rng_state(states["cpu"])
        if self.torch_device.type == "cuda" and "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], self.torch_device)

    def seed(self, *words: int) -> None:
        """Start the generators anew, with other numbers on every process: dropout must not repeat itself."""
        text = ",".join(map(str, (*words, self.rank)))
        torch.manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]))

    def wait(self) -> None:
        """Wait until all queued work is done (for timing)."""
        if self.torch_device.type == "cuda":
            torch.cuda.synchronize(self.torch_device)

    def free_bytes(self) -> int | None:
        """Free memory of an accelerator, None on the CPU."""
        return int(torch.cuda.mem_get_info(self.torch_device)[0]) if self.torch_device.type == "cuda" else None

    # --- exchanges with the other processes: all call the same ones in the same order -----------------------

    def gather(self, tensor: Tensor) -> Tensor:
        """[B,...] of every process, one after the other in rank order: [world B,...]. Without gradient."""
        return self.processes.gather(tensor) if self.processes else tensor

    def gather_with_gradient(self, tensor: Tensor) -> Tensor:
        """As ``gather``; backward hands each process the gradient of its own rows, summed over all processes."""
        return self.processes.gather_with_gradient(tensor) if self.processes else tensor

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace every tensor by its mean over the processes."""
        if self.processes:
            self.processes.average(tensors)

    def collect(self, tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """The tensors of that name and shape of every process, in rank order."""
        if not self.processes:
            return [dict(tensors)]
        gathered = {name: self.processes.gather(tensor[None]) for name, tensor in tensors.items()}
        return [{name: rows[rank] for name, rows in gathered.items()} for rank in range(self.world)]

    def largest(self, numbers: Sequence[int]) -> list[int]:
        """Of each number the largest over the processes, without waiting for a GPU."""
        return self.processes.largest(numbers) if self.processes else list(numbers)

    def tell(self, value: Any) -> Any:
        """Process 0's value, of JSON's types, on every process; all wait until it is there."""
        return self.processes.tell(value) if self.processes else value

    def describe(self) -> dict[str, Any]:
        """What a result must record about where it was computed."""
        kind = self.torch_device.type
        name = torch.cuda.get_device_name(self.torch_device) if kind == "cuda" else kind
        return {
            "device": name,
            "precision": self.precision,
            "threads": torch.get_num_threads(),
            "deterministic": self.deterministic,
            "torch": torch.__version__,
            "processes": self.world,
        }


def own_gpu(processes: Processes) -> torch.device:
    """The GPU of this process's number, from now on the current one."""
    if processes.local_rank >= torch.cuda.device_count():
        raise UsageError(
            f"this machine has {torch.cuda.device_count()} GPUs, too few for process {processes.local_rank} (from 0); "
            "start as many processes as GPUs (--nproc-per-node), or give --device cpu"
        )
    place = torch.device("cuda", processes.local_rank)
    torch.cuda.set_device(place)
    processes.use_gpus()
    return place
