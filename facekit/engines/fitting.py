"""From options to one ``fit``: what the training verbs share. No verb of its own."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from facekit.configs import (
    DataOptions,
    FitOptions,
    HeadOptions,
    LearningOptions,
    PolicySearchConfig,
    TrainConfig,
    flag_name,
)
from facekit.core.augment import LEAST_SIDE, Augment
from facekit.core.checkpoints import state_hash
from facekit.core.device import Device
from facekit.core.errors import ArtefactMismatch, InputError, ProcessLost, UsageError
from facekit.core.loop import Progress, Saving, Task, TrainingBatches, fit
from facekit.core.preprocess import Preprocess
from facekit.core.processes import processes_of_this_run
from facekit.core.reporting import Journal, hush, image_progress, say
from facekit.core.runs import Run, open_run
from facekit.core.schedule import Schedule
from facekit.data.batches import Batches, Order
from facekit.data.classes import ClassSet, open_classes
from facekit.data.embeddings import default_cache_dir, embed_source
from facekit.data.noiseplan import read_plan
from facekit.data.pairs import PairSet, open_benchmark
from facekit.data.relabelled import relabelled
from facekit.data.samplers import class_uniform
from facekit.data.sources import Source, open_source
from facekit.evaluation.classification import class_accuracy, class_scores, require_classes
from facekit.evaluation.evaluator import Embed, tar_by_far
from facekit.evaluation.scoring import Classifier
from facekit.evaluation.verification import support
from facekit.models import CLASSIFIERS, HEADS, build_backbone, build_classifier
from facekit.models.heads import MarginHead
from facekit.models.loading import Model, as_classifier, as_embedder, load_model, load_weights
from facekit.models.records import classifier_record
from facekit.models.shards import load_head
from facekit.training.artefacts import open_artefacts
from facekit.training.optimisers import build_optimiser
from facekit.training.superclasses import default_count, superclasses

LearningConfig = TrainConfig | LearningOptions | PolicySearchConfig
_DEV_FARS = (1e-3, 1e-2)
CLASSES = "classes:"
"""What a --dev of a closed set begins with."""


def open_images(options: DataOptions, path: Path, need_labels: bool = False, one_size: bool = True) -> Source:
    """The images at ``path``, with people left out and images chosen as the options say, then seen through the plan."""
    source = open_source(
        path,
        images=options.images,
        exclude=options.exclude,
        min_images=options.min_images,
        need_labels=need_labels,
        take=options.take,
        one_size=one_size,
    )
    return source if options.noise_plan is None else relabelled(source, read_plan(options.noise_plan))


def open_training_data(options: DataOptions, path: Path, need_labels: bool) -> Source:
    """The training images; says what they are."""
    source = open_images(options, path, need_labels)
    people = f"{len(source.identities):,} identities" if source.identities else "no labels"
    say("data", f"{path}: {len(source):,} images, {people}")
    for note in source.notes:
        say("note", note)
    return source


def open_batches(
    options: LearningConfig,
    source: Source,
    seed: int,
    device: Device,
    clusters_by: Model | None = None,
    others: Batches | None = None,
) -> Batches:
    """Training batches in seeded order; pixels are shared with ``others``.

    ``clusters_by``: whose embeddings --sampler sur clusters by default.
    """
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
    order = order_of(options, source, seed, device, clusters_by)
    if others is not None:
        return others.reseeded(seed, order)
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
        order=order,
        crops=augment_of(options).crops,
        free_bytes=device.free_bytes(),
    )


def order_of(
    options: LearningConfig, source: Source, seed: int, device: Device, clusters_by: Model | None
) -> Order | None:
    """Which images meet in a batch; None is any."""
    if options.sampler == "uniform":
        for name, default in (("per_class", 4), ("superclasses", None), ("cluster_by", None)):
            if getattr(options, name) != default:
                raise UsageError(f"--{name.replace('_', '-')} belongs to --sampler cur or sur, and none was asked for")
        return None
    if options.sampler == "cur":
        if options.superclasses is not None or options.cluster_by is not None:
            raise UsageError(
                "--superclasses and --cluster-by belong to --sampler sur; cur takes the classes as they are"
            )
        groups = source.labels
    else:
        groups = superclasses_of(options, source, seed, device, clusters_by)
    return class_uniform(groups, options.batch, options.per_class, seed, device.world)


def superclasses_of(
    options: LearningConfig, source: Source, seed: int, device: Device, clusters_by: Model | None
) -> np.ndarray:
    """The cluster of every image's embedding, int64 [N], kept on disk as an artefact."""
    model = clusters_by
    if options.cluster_by is not None:
        model = load_model(options.cluster_by, device=replace(device, precision="fp32", compile=False))
    if model is None:
        raise UsageError("--sampler sur clusters embeddings: name the model that gives them as --cluster-by MODEL")
    cache = getattr(options, "cache_dir", None) or default_cache_dir()
    with image_progress("superclasses", len(source)) as advance:
        table = embed_source(
            model.embed, source, key=model.cache_key(), cache_dir=cache, progress=advance, device=device
        )
    count = options.superclasses or default_count(options.batch, options.per_class, len(source.identities))
    about = {
        "artefact": "superclasses",
        "model_sha256": model.sha256,
        "key": model.cache_key(),
        "data_fingerprint": source.fingerprint,
        "seed": seed,
        "sizes": {"superclasses": count, "width": table.shape[2], "images": len(source)},
    }
    found = open_artefacts(cache / "superclasses", about, lambda: superclasses(table[:, 0], count, seed).files())
    say("sampler", f"{count} superclasses by {model.name}")
    return found.tensors["cluster"].long().numpy()


def augment_of(options: FitOptions) -> Augment:
    """What the device does to training images."""
    return Augment(pad=options.crop, resized=options.resized_crop or 0)


def build_network(name: str, embedding: int, dropout: float, source: Source) -> tuple[nn.Module, dict[str, Any]]:
    """A new network and the record of its architecture: an embedder, or a classifier of the classes of the data.

    Raises InputError where a classifier has no classes to tell apart.
    """
    if name not in CLASSIFIERS:
        return build_backbone(name, embedding, dropout), {"name": name, "embedding": embedding, "dropout": dropout}
    if len(source.identities) < 2:
        raise InputError(f"{name} tells classes apart, and the data has {len(source.identities)}; two are needed")
    net = build_classifier(name, len(source.identities), dropout)
    return net, classifier_record(name, net, source.identities, dropout)


def check_family(options: HeadOptions, name: str, width: int | None) -> None:
    """Refuse options of embedders for a network that has classes of its own."""
    if name not in CLASSIFIERS:
        return
    given = [f for f in dataclasses.fields(HeadOptions) if getattr(options, f.name) != f.default]
    if given:
        raise UsageError(
            f"{flag_name(given[0])} is for embedders, and {name} has a class layer of its own; leave it out"
        )
    if width is not None:
        raise UsageError(f"--embedding is {width}, and the width of {name} is fixed; leave it out")


def optimiser_of(options: FitOptions) -> Callable[[list[nn.Module]], Optimizer]:
    """The optimiser a task builds over its modules."""

    def build(modules: list[nn.Module]) -> Optimizer:
        return build_optimiser(options.optimiser, modules, options.lr, options.weight_decay, options.decay_norms)

    return build


def start_from(model: nn.Module, run: Run) -> None:
    """--init: begin with stored weights of the same architecture, also after a resume before the first saved state."""
    if run.init is not None:
        load_weights(model, run.init)


def build_head(options: HeadOptions, embedding: int, classes: int, device: Device) -> MarginHead:
    """The margin head of a training verb, with class centres from --init-head where given."""
    head = HEADS[options.head](embedding, classes, options.margin, options.logit_scale, device.gather)
    if options.init_head is not None:
        load_head(head, options.init_head)
    return head


@contextmanager
def opened_device(config: LearningConfig) -> Iterator[Device]:
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


def open_training_run(verb: str, config: LearningConfig, data: Path, device: Device) -> Run:
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
        if isinstance(error, ProcessLost) and not dry and "--resume" not in str(error):
            raise ProcessLost(f"{error}; the last saved state is in {run.folder}; run again with --resume") from error
        raise
    for explanation in ("reason", "error"):
        run.record.pop(explanation, None)


def train_to_end(
    options: LearningConfig,
    run: Run,
    task: Task,
    source: Source,
    batches: TrainingBatches,
    preprocess: Preprocess,
    device: Device,
    meta: Mapping[str, Any],
    started: float,
    route_epochs: int = 0,
    schedule: Schedule | None = None,
    finish: Callable[[], Mapping[str, Any]] | None = None,
) -> Progress:
    """Fit the task and keep run.json true about it, whatever way it ends. Process 0 writes for all.

    ``schedule`` where it is not that of the options. ``finish`` is called when all is trained: more facts for run.json.
    """
    schedule = schedule or schedule_of(options, batches.steps_per_epoch)
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
    validate = dev_validator(options, preprocess, device, meta["architecture"]) if options.dev else None
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
        more = finish() if finish and not dry else {}
    if dry:
        say("dry run", "two steps ran; nothing was written")
        return progress
    model = task.modules["model"]
    facts = {
        **more,
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


def schedule_of(options: LearningConfig, steps_per_epoch: int) -> Schedule:
    """The learning rate over a run of ``steps_per_epoch`` batches an epoch."""
    return Schedule(
        epochs=options.epochs,
        steps_per_epoch=steps_per_epoch // options.accumulate,
        shape=options.schedule,
        warmup=options.warmup,
        milestones=options.milestones,
        accumulate=options.accumulate,
        clip=options.clip,
    )


def dev_validator(
    options: FitOptions, preprocess: Preprocess, device: Device, architecture: Mapping[str, Any]
) -> Callable[[nn.Module], dict[str, float]]:
    """Measure TAR or accuracy on the dev benchmark after each epoch, in fp32, without flip fusion (half the cost)."""
    assert options.dev is not None
    if options.dev.startswith(CLASSES):
        classes = open_classes(Path(options.dev.removeprefix(CLASSES)), options.dev_images)
        return partial(measure_classes_on_dev, classes, tuple(architecture.get("classes", ())), preprocess, device)
    pairs = open_benchmark(options.dev, options.dev_images)
    limits = [support(far, int((~pairs.same).sum())) for far in _DEV_FARS]
    if all(status == "not_measurable" for status, _ in limits):
        raise InputError(f"--dev {options.dev} is too small to choose by: {limits[-1][1]}; give a larger list")
    return partial(measure_dev, pairs, preprocess, device)


def measure_dev(pairs: PairSet, preprocess: Preprocess, device: Device, model: nn.Module) -> dict[str, float]:
    """TAR at the dev operating points that the list can measure; the first decides ``best``."""
    return tar_by_far(shared(as_embedder(model, preprocess, device), device), pairs, _DEV_FARS)


def measure_classes_on_dev(
    dev: ClassSet, names: tuple[str, ...], preprocess: Preprocess, device: Device, model: nn.Module
) -> dict[str, float]:
    """top1 and, with more than 5 classes, top5; top1 decides ``best``."""
    logits = as_classifier(model, preprocess, device)
    scores = partial(class_scores, logits, size=preprocess.size, device=device)
    return class_accuracy(require_classes(Classifier(names, scores) if names else None, dev), dev)


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
