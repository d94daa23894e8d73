"""``facekit head merge | slice``: class centres between arcface_torch's PartialFC shards and one file."""

from __future__ import annotations

from facekit.configs import HeadMergeConfig, HeadSliceConfig
from facekit.core.checkpoints import read_tensors, write_tensors, write_torch
from facekit.core.errors import OutputExists, UsageError
from facekit.core.reporting import say
from facekit.models.shards import Rows, merge, read_rows, shards


def merge_shards(config: HeadMergeConfig) -> None:
    """Write the shards of all ranks as one head."""
    if config.out.suffix != ".safetensors":
        raise UsageError(f"--out {config.out} must end in .safetensors")
    head = merge(config.shard)
    write_tensors(config.out, head)
    say("wrote", f"{config.out}: {describe(head)}, from {len(config.shard)} shards")


def slice_head(config: HeadSliceConfig) -> None:
    """Write one head as the shards of ``world`` ranks, each whole before it has its name."""
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise OutputExists(f"{config.out} is in use, and shards of two worlds must not mix; choose another --out")
    head = read_rows(config.head)
    frame = read_tensors(config.checkpoint)[0] if config.checkpoint else None
    for name, content in shards(head, config.world, frame):
        write_torch(config.out / name, content)
    say("wrote", f"{config.out}: {config.world} shards of {describe(head)}")


def describe(head: Rows) -> str:
    """Sizes, and what of the optimiser moved along."""
    classes, width = head["weight"].shape
    others = ", ".join(name for name in head if name != "weight")
    return f"{classes:,} classes x {width}" + (f" with {others}" if others else ", no optimiser state")
