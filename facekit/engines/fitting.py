"""From options to one ``fit``: what the training verbs share. No verb of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from facekit.configs import DataOptions, DistillConfig, FitOptions, TrainConfig
from facekit.core.augment import LEAST_SIDE
from facekit.core.checkpoints import state_hash
from facekit.core.device import Device
from facekit.core.errors import ArtefactMismatch, InputError, ProcessLost, UsageError
from facekit.core.loop import Progress, Saving, Task, fit
from facekit.core.preprocess import Preprocess
from facekit.core.processes import processes_of_this_run
from facekit.core.reporting import Journal, hush, say
from facekit.core.runs import Run, open_run
from facekit.core.schedule import Schedule
from facekit.data.batches import Batches
from facekit.data.pairs import PairSet, open_benchmark
from facekit.data.sources import Source, open_source
from facekit.evaluation.evaluator import Embed, tar_by_far
from facekit.evaluation.verification import support
from facekit.models import HEADS
from facekit.models.heads import MarginHead
from facekit.models.loading import as_embedder, load_weights
from facekit.models.shards import load_head
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
    for note in source.notes:
        say("note", note)
    return source


def open_batches(options: FitOptions, source: Source, seed: int, device: Device) -> Batches:
    """Training batches in seeded order."""
    if len(source) < options.batch * options.accumulate:
        raise InputError(
            f"the data has {len(source)} images, fewer than one step of --batch {options.batch} x --accumulate "
            f"{options.accumulate}; lower them or add images"
        )
    if options.mask and min(source.size) < LEAST_SIDE:
        raise InputError(
            f"--mask draws masks on faces of {LEAST_SIDE} pixels or more, and these images are "
            f"{source.size[0]}x{source.size[1]}; leave it out, or give larger images"
        )
    return Batches(
        source,
        batch=options.batch,
        seed=seed,
        flip=options.flip,
        put=device.put,
        cache=options.cache,
        mask=options.mask,
        rank=device.rank,
        world=device.world,
    )


def optimiser_of(options: FitOptions) -> Callable[[list[nn.Module]], Optimizer]:
    """The optimiser a task builds over its modules."""

    def build(modules: list[nn.Module]) -> Optimizer:
        return build_optimiser(options.optimiser, modules, options.lr, options.weight_decay, options.decay_norms)

    return build


def start_from(model: nn.Module, run: Run) -> None:
    """--init: begin with stored weights of the same architecture, also after a resume before the first saved state."""
    if run.init is not None:
        load_weights(model, run.init)


def build_head(options: TrainingConfig, embedding: int, classes: int, device: Device) -> MarginHead:
    """The margin head of a training verb, with class centres from --init-head where given."""
    head = HEADS[options.head](embedding, classes, options.margin, options.logit_scale, device.gather)
    if options.init_head is not None:
        load_head(head, options.init_head)
    return head


@contextmanager
def opened_device(config: TrainingConfig) -> Iterator[Device]:
    """The device a training verb was told to use, and with it the processes that torchrun started, until they end."""
    with processes_of_this_run() as processes:
        if processes and processes.rank > 0:
            hush()
        device = Device.pick(
            config.device,
            config.precision,
            threads=config.threads,
            deterministic=config.deterministic,
            compile=config.compile,
            processes=processes,
        )
        if config.batch % device.world:
            raise UsageError(
                f"--batch {config.batch} images cannot be cut into equal slices for {device.world} processes; "
                f"give a multiple of {device.world}"
            )
        yield device


def open_training_run(verb: str, config: TrainingConfig, data: Path, device: Device) -> Run:
    """The run folder of a training verb; says so where it is finished already. Process 0 decides for all."""
    record = {**config.to_dict(), "data": data.as_posix()}
    run = None
    if device.rank == 0:
        run = open_run(verb, record, out=config.out, resume=config.resume, init=config.init, dry_run=config.dry_run)
    known = device.tell(run and [str(run.folder), run.resuming, run.done, run.record])
    if run is None:
        folder, resuming, done, earlier = known
        run = Run(Path(folder), verb, record, resuming, done, earlier)
    if run.done:
        say("done", f"{run.folder} is finished already")
    return run


def check_same(run: Run, what: str, key: str, now: str) -> None:
    """A resumed run must see the data and the teacher it started with: their hashes are in its run.json."""
    earlier = run.record.get(what, {}).get(key)
    if run.resuming and earlier and earlier != now:
        raise ArtefactMismatch(
            f"{run.folder} was started with another {what} ({key} {earlier[:12]} then, {now[:12]} now): "
            "restore it, or start a new run with another --out"
        )


@contextmanager
def recorded(run: Run, described: Mapping[str, Any], device: Device, dry: bool) -> Iterator[None]:
    """run.json says that the run goes on, and why where it stops. Process 0 writes for all, a dry run nothing."""
    writes = not dry and device.rank == 0
    environment = device.describe()
    for what in ("threads", "processes"):
        if run.resuming and run.record.get("environment", {}).get(what) not in (None, environment[what]):
            say("note", f"another number of {what} than before: the resume is correct but not bit-identical")
    if writes:
        run.write("running", {**described, "environment": environment})
    try:
        yield
    except BaseException as error:
        if writes:
            run.write("interrupted", {"reason": str(error), "error": type(error).__name__})
        if isinstance(error, ProcessLost) and not dry:
            raise ProcessLost(f"{error}; the last saved state is in {run.folder}; run again with --resume") from error
        raise
    for explanation in ("reason", "error"):
        run.record.pop(explanation, None)


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
    """Fit the task and keep run.json true about it, whatever way it ends. Process 0 writes for all."""
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
    writes = not dry and device.rank == 0
    data = {"fingerprint": source.fingerprint, "images": len(source), "identities": len(source.identities)}
    described = {**meta, "data": data, "preprocess": preprocess.to_dict()}
    journal = Journal(
        run.folder if writes else None, schedule.total_steps, options.batch * options.accumulate, options.tensorboard
    )
    validate = dev_validator(options, preprocess, device) if options.dev else None
    with recorded(run, described, device, dry):
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
            seed=options.seed,
        )
    if dry:
        say("dry run", "two steps ran; nothing was written")
        return progress
    model = task.modules["model"]
    facts = {
        "weights_sha256": state_hash(model.state_dict()),
        "images_seen": progress.images,
        "seconds": round(progress.seconds, 1),
        "best_dev": progress.best,
    }
    if writes:
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
    limits = [support(far, int((~pairs.same).sum())) for far in _DEV_FARS]
    if all(status == "not_measurable" for status, _ in limits):
        raise InputError(f"--dev {options.dev} is too small to choose by: {limits[-1][1]}; give a larger list")
    return partial(measure_dev, pairs, preprocess, device)


def measure_dev(pairs: PairSet, preprocess: Preprocess, device: Device, model: nn.Module) -> dict[str, float]:
    """TAR at the dev operating points that the list can measure; the first decides ``best``."""
    return tar_by_far(shared(as_embedder(model, preprocess, device), device), pairs, _DEV_FARS)


def shared(embed: Embed, device: Device) -> Embed:
    """``embed`` for images that all processes have: each embeds its share of them, and all get the whole."""
    if device.world == 1:
        return embed

    def share(images: Tensor) -> Tensor:
        rows = -(-len(images) // device.world)
        own = torch.arange(device.rank * rows, (device.rank + 1) * rows).clamp(max=len(images) - 1)
        return device.gather(embed(images[own]))[: len(images)]

    return share


def now() -> float:
    """The clock that --budget-s counts on."""
    return time.monotonic()


def seed_everything(seed: int) -> None:
    """One seed for initialisation and dropout; data order has its own, from the same number."""
    torch.manual_seed(seed)
