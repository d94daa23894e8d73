"""From options to one ``fit``: what the training verbs share. No verb of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from facekit.configs import DataOptions, DistillConfig, FitOptions, TrainConfig
from facekit.core.checkpoints import state_hash
from facekit.core.device import Device
from facekit.core.errors import ArtefactMismatch, InputError
from facekit.core.loop import Progress, Saving, Task, fit
from facekit.core.preprocess import Preprocess
from facekit.core.reporting import Journal, say
from facekit.core.runs import Run, open_run
from facekit.core.schedule import Schedule
from facekit.data.batches import Batches
from facekit.data.pairs import PairSet, open_benchmark
from facekit.data.sources import Source, open_source
from facekit.evaluation.evaluator import tar_by_far
from facekit.models.loading import as_embedder, load_weights
from facekit.training.optimisers import build_optimiser

TrainingConfig = TrainConfig | DistillConfig
_DEV_FARS = (1e-3, 1e-2)


def open_training_data(options: DataOptions, path: Path, need_labels: bool) -> Source:
    """The training images, with people left out and small identities dropped as the options say."""
    source = open_source(
        path,
        images=options.images,
        exclude=options.exclude,
        min_images=options.min_images,
        need_labels=need_labels,
    )
    people = f"{len(source.identities):,} identities" if source.identities else "no labels"
    say("data", f"{path}: {len(source):,} images, {people}")
    return source


def open_batches(options: FitOptions, source: Source, seed: int, device: Device) -> Batches:
    """Training batches in seeded order."""
    if len(source) < options.batch * options.accumulate:
        raise InputError(
            f"the data has {len(source)} images, fewer than one step of --batch {options.batch} x --accumulate "
            f"{options.accumulate}; lower them or add images"
        )
    return Batches(source, batch=options.batch, seed=seed, flip=options.flip, put=device.put, cache=options.cache)


def optimiser_of(options: FitOptions) -> Callable[[list[nn.Module]], Optimizer]:
    """The optimiser a task builds over its modules."""

    def build(modules: list[nn.Module]) -> Optimizer:
        return build_optimiser(options.optimiser, modules, options.lr, options.weight_decay, options.decay_norms)

    return build


def start_from(model: nn.Module, init: Path | None) -> None:
    """--init: begin with stored weights of the same architecture."""
    if init is not None:
        load_weights(model, init)


def open_training_run(verb: str, config: TrainingConfig, data: Path) -> Run:
    """The run folder of a training verb; says so where it is finished already."""
    record = {**config.to_dict(), "data": data.as_posix()}
    run = open_run(verb, record, out=config.out, resume=config.resume, init=config.init, dry_run=config.dry_run)
    if run.done:
        say("done", f"{run.folder} is finished already")
    return run


def pick_device(config: TrainingConfig) -> Device:
    """The device a training verb was told to use."""
    return Device.pick(
        config.device,
        config.precision,
        threads=config.threads,
        deterministic=config.deterministic,
        compile=config.compile,
    )


def check_same(run: Run, what: str, key: str, now: str) -> None:
    """A resumed run must see the data and the teacher it started with: their hashes are in its run.json."""
    earlier = run.record.get(what, {}).get(key)
    if run.resuming and earlier and earlier != now:
        raise ArtefactMismatch(
            f"{run.folder} was started with another {what} ({key} {earlier[:12]} then, {now[:12]} now): "
            "restore it, or start a new run with another --out"
        )


def train_to_end(
    options: TrainingConfig,
    run: Run,
    task: Task,
    source: Source,
    batches: Batches,
    preprocess: Preprocess,
    device: Device,
    meta: Mapping[str, Any],
    started: float,
    route_epochs: int = 0,
) -> Progress:
    """Fit the task and keep run.json true about it, whatever way it ends."""
    schedule = Schedule(
        epochs=options.epochs,
        steps_per_epoch=batches.steps_per_epoch // options.accumulate,
        shape=options.schedule,
        warmup=options.warmup,
        milestones=options.milestones,
        accumulate=options.accumulate,
        clip=options.clip,
    )
    saving = Saving(
        minutes=options.save_minutes,
        steps=options.save_steps,
        keep=options.keep,
        route_epochs=route_epochs,
        deadline=started + options.budget_s if options.budget_s else None,
    )
    dry = options.dry_run
    data = {"fingerprint": source.fingerprint, "images": len(source), "identities": len(source.identities)}
    environment = device.describe()
    if run.resuming and run.record.get("environment", {}).get("threads") not in (None, environment["threads"]):
        say("note", "another number of threads than before: the resume is correct but not bit-identical")
    described = {**meta, "data": data, "preprocess": preprocess.to_dict()}
    if not dry:
        run.write("running", {**described, "environment": environment})
    journal = Journal(
        None if dry else run.folder, schedule.total_steps, options.batch * options.accumulate, options.tensorboard
    )
    validate = dev_validator(options, preprocess, device) if options.dev else None
    try:
        progress = fit(
            task,
            batches,
            schedule,
            None if dry else run.store,
            device,
            journal,
            meta={**described, "verb": run.verb, "config": dict(run.config)},
            saving=saving,
            log_every=1 if dry else options.log_every,
            validate=None if dry else validate,
            resume=run.resuming,
            max_steps=2 if dry else None,
        )
    except BaseException as error:
        if not dry:
            run.write("interrupted", {"reason": str(error)})
        raise
    if dry:
        say("dry run", "two steps ran; nothing was written")
        return progress
    model = task.modules["model"]
    run.record.pop("reason", None)
    facts = {
        "weights_sha256": state_hash(model.state_dict()),
        "images_seen": progress.images,
        "seconds": round(progress.seconds, 1),
        "best_dev": progress.best,
    }
    run.write("done", facts)
    rate = progress.images / max(progress.seconds, 1e-9)
    say("done", f"{progress.images:,} images in {progress.seconds / 60:.1f} min ({rate:,.0f} img/s)")
    say("wrote", str(run.folder))
    return progress


def dev_validator(
    options: FitOptions, preprocess: Preprocess, device: Device
) -> Callable[[nn.Module], dict[str, float]]:
    """Measure TAR on the dev benchmark after each epoch, in fp32, without flip fusion (half the cost)."""
    assert options.dev is not None
    pairs = open_benchmark(options.dev, options.dev_images)
    return partial(measure_dev, pairs, preprocess, device)


def measure_dev(pairs: PairSet, preprocess: Preprocess, device: Device, model: nn.Module) -> dict[str, float]:
    """TAR at the dev operating points that the list can measure; the first decides ``best``."""
    return tar_by_far(as_embedder(model, preprocess, device), pairs, _DEV_FARS)


def now() -> float:
    """The clock that --budget-s counts on."""
    return time.monotonic()


def seed_everything(seed: int) -> None:
    """One seed for initialisation and dropout; data order has its own, from the same number."""
    torch.manual_seed(seed)
