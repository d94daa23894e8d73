"""``--seeds``: several seeds of one training at once, each a run folder of its own when all are done. No verb."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, cast

from facekit.configs import DistillConfig, TrainConfig
from facekit.core.checkpoints import CheckpointStore, state_hash
from facekit.core.device import Device
from facekit.core.errors import UsageError
from facekit.core.loop import Task
from facekit.core.preprocess import Preprocess
from facekit.core.reporting import say
from facekit.core.runs import Run, new_record
from facekit.data.batches import Batches, SideBySide
from facekit.data.sources import Source
from facekit.engines.fitting import optimiser_of, seed_everything, train_to_end
from facekit.training.together import Member, Together


class Built(NamedTuple):
    """One training, ready for the loop."""

    task: Task
    batches: Batches
    preprocess: Preprocess
    meta: dict[str, Any]


def check_seeds(config: TrainConfig | DistillConfig) -> None:
    """Refuse what runs that share their steps cannot have each for itself."""
    if len(set(config.seeds)) != len(config.seeds):
        raise UsageError(f"--seeds names {max(config.seeds, key=config.seeds.count)} twice; each seed is a run")
    if not config.seeds:
        return
    for given, flag, instead in (
        (config.clip > 0, "--clip", "norms would be clipped together: give --clip 0"),
        (config.dev is not None, "--dev", "measure the runs with align-eval when they are done"),
        (config.accumulate > 1, "--accumulate", "give a larger --batch"),
        (not config.decay_norms, "--no-decay-norms", "give one seed at a time"),
        (config.init is not None, "--init", "give one seed at a time"),
        (config.seed != 0, "--seed", "name all seeds in --seeds"),
    ):
        if given:
            raise UsageError(f"{flag} does not go with --seeds: {instead}")


def train_together(
    config: TrainConfig | DistillConfig,
    run: Run,
    build: Callable[[int, Batches | None], Built],
    source: Source,
    device: Device,
    started: float,
) -> None:
    """Build a member for every seed, train all in one loop, and leave RUN/seed_<k> for each."""
    if device.world > 1:
        raise UsageError("--seeds shares one device, and torchrun started several processes: use one of the two")
    members: list[Built] = []
    for seed in config.seeds:
        seed_everything(seed)
        members.append(build(seed, members[0].batches if members else None))
    task = Together([cast(Member, member.task) for member in members], device, optimiser_of(config))
    first = members[0]
    meta = first.meta | {"architecture": first.meta["architecture"] | {"stacked": list(config.seeds)}}
    shared = replace(config, batch=config.batch * len(members))  # so that the journal counts all images
    batches = SideBySide([member.batches for member in members])
    train_to_end(shared, run, task, source, batches, first.preprocess, device, meta, started)
    if config.dry_run:
        return
    for k, (seed, member) in enumerate(zip(config.seeds, members, strict=True)):
        leave(run, config, seed, task.stacked.network(k), member)
    say("wrote", f"{len(members)} runs: {run.folder}/seed_{config.seeds[0]} and on")


def leave(run: Run, config: TrainConfig | DistillConfig, seed: int, weights: dict[str, Any], member: Built) -> None:
    """The run folder of one seed, as if it had been trained alone."""
    folder = run.folder / f"seed_{seed}"
    alone = {**run.config, "seed": seed, "seeds": [], "out": folder.as_posix()}
    described: dict[str, Any] = {
        k: run.record[k] for k in ("data", "environment", "images_seen", "seconds") if k in run.record
    }
    meta: dict[str, Any] = {
        **member.meta,
        **described,
        "preprocess": member.preprocess.to_dict(),
        "trained_with": list(config.seeds),
    }
    step = CheckpointStore(run.folder).load("last").meta["step"]
    CheckpointStore(folder).save("last", weights, {**meta, "verb": run.verb, "config": alone, "step": step})
    record = new_record(run.verb, alone) | meta | {"weights_sha256": state_hash(weights)}
    Run(folder, run.verb, alone, resuming=False, done=False, record=record).write("done", {})
