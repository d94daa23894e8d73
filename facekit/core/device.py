"""Where and in which arithmetic networks run: the only file that names CUDA.

An explicit object handed down, never a singleton. ``rank`` and ``world`` are the door for several
processes: with one process they are 0 and 1 and every collective is the identity.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from facekit.core.errors import UsageError

N = TypeVar("N", bound=nn.Module)
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def has_fast_bf16() -> bool:
    """True where the CPU multiplies bfloat16 in hardware; elsewhere bf16 is slower than fp32."""
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check() for check in checks if check is not None)


@dataclass(frozen=True)
class Device:
    """A device, its precision and this process's place among others."""

    torch_device: torch.device
    precision: str
    deterministic: bool = False
    compile: bool = False
    rank: int = 0
    world: int = 1

    @staticmethod
    def pick(
        name: str = "auto",
        precision: str = "auto",
        *,
        threads: int | None = None,
        deterministic: bool | None = None,
        compile: bool = False,
        measuring: bool = False,
    ) -> Device:
        """Choose a device and set the process-wide switches that belong to it.

        ``auto`` takes cuda, then mps, then cpu; precision ``auto`` is bf16 where the hardware has it, and fp32 when
        ``measuring``: reduced precision never enters a headline number unasked.
        Raises UsageError where the named device is not on this machine.
        """
        available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        kind = next(k for k, ok in available.items() if ok) if name == "auto" else name
        if not available.get(kind, False):
            usable = ", ".join(k for k, ok in available.items() if ok)
            raise UsageError(f"--device {name} is not usable on this machine; usable: auto, {usable}")
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
        return Device(torch.device(kind), precision, exact, compile)

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

    def wait(self) -> None:
        """Wait until all queued work is done (for timing)."""
        if self.torch_device.type == "cuda":
            torch.cuda.synchronize(self.torch_device)

    def free_bytes(self) -> int | None:
        """Free memory of an accelerator, None on the CPU."""
        return int(torch.cuda.mem_get_info(self.torch_device)[0]) if self.torch_device.type == "cuda" else None

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
