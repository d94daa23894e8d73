"""``facekit distill``: a small student from a teacher."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from facekit.configs import DistillConfig
from facekit.core.device import Device
from facekit.core.errors import FacekitError, UsageError
from facekit.core.files import read_json
from facekit.core.preprocess import Preprocess
from facekit.core.reporting import image_progress, say
from facekit.data.embeddings import default_cache_dir, embed_source
from facekit.data.sources import Source, choose_data
from facekit.engines.fitting import (
    check_same,
    now,
    open_batches,
    open_training_data,
    open_training_run,
    optimiser_of,
    pick_device,
    seed_everything,
    start_from,
    train_to_end,
)
from facekit.losses import LOSSES, Dims
from facekit.models import HEADS, build_backbone
from facekit.models.loading import Model, load_model
from facekit.training.distill import Classifier, Distill, WeightedLoss
from facekit.training.teachers import CachedTeacher, LiveTeacher, Teacher, class_centres


@dataclass(frozen=True)
class Weights:
    """Weights of the distillation and the classification term."""

    method: float
    classification: float


# fcd: ours, from a sweep on dev people (docs/distill.md): its gradient is small, and in a network of BatchNorms a
# larger weight is a larger step. It needs no labels. kd: RepDistiller's pair, 0.1 CE + 0.9 KD.
DEFAULT_WEIGHTS = {"fcd": Weights(32.0, 0.0), "kd": Weights(0.9, 0.1)}


def run(config: DistillConfig) -> None:
    """Build teacher, data, student and losses; train; leave a run folder."""
    started = now()
    weights = choose_weights(config)
    needs_logits = "logits" in LOSSES[config.method].needs
    path = choose_data(config.data, teacher_data(config.teacher))
    run = open_training_run("distill", config, path)
    if run.done:
        return
    device = pick_device(config)
    exact = replace(device, precision="fp32", compile=False)  # the teacher's outputs are the target: never rounded
    teacher = load_model(config.teacher, device=exact, channels=config.channels, scaling=config.scaling)
    say("teacher", f"{teacher.name}: {teacher.parameters:,} parameters, licence: {teacher.licence}")
    source = open_training_data(config, path, need_labels=needs_logits or weights.classification > 0)
    check_same(run, "data", "fingerprint", source.fingerprint)
    check_same(run, "teacher", "sha256", teacher.sha256)
    table = teacher_table(config, teacher, source) if config.teacher_cache or needs_logits else None
    seed_everything(config.seed)
    embedding = config.embedding or teacher.preprocess.embedding
    student = build_backbone(config.student, embedding, config.dropout)
    start_from(student, config.init)
    preprocess = Preprocess(
        size=source.size, crop=teacher.preprocess.crop, flip=teacher.preprocess.flip, embedding=embedding
    )
    task = build_task(config, weights, student, teacher, table, source, preprocess, device, embedding)
    frozen = teacher.state_hash()
    meta = {
        "architecture": {"name": config.student, "embedding": embedding, "dropout": config.dropout},
        "parameters": sum(p.numel() for p in student.parameters()),
        "licence": student_licence(teacher),
        "teacher": {"name": teacher.name, "path": config.teacher.as_posix(), "sha256": teacher.sha256},
        "adapter": adapter_note(embedding, teacher.preprocess.embedding),
        "weights": {config.method: weights.method, "cls": weights.classification},
    }
    batches = open_batches(config, source, config.seed, device)
    train_to_end(config, run, task, source, batches, preprocess, device, meta, started)
    if teacher.state_hash() != frozen:
        raise FacekitError("the teacher changed during training: this is a bug in facekit, please report it")


def choose_weights(config: DistillConfig) -> Weights:
    """The weights in force: flags, else the method's defaults."""
    default = DEFAULT_WEIGHTS[config.method]
    chosen = Weights(
        default.method if config.weight is None else config.weight,
        default.classification if config.cls_weight is None else config.cls_weight,
    )
    if chosen.method == chosen.classification == 0:
        raise UsageError("--weight and --cls-weight are both 0: nothing would be learned; give one of them")
    return chosen


def teacher_data(teacher: Path) -> str | None:
    """The data path a teacher's run folder remembers."""
    file = teacher / "run.json"
    return read_json(file).get("config", {}).get("data") if file.is_file() else None


def teacher_table(config: DistillConfig, teacher: Model, source: Source) -> np.ndarray:
    """The teacher's embeddings of all images and views, float32 [N,V,D], from the disk cache or computed now."""
    views = (0, 1) if config.flip else (0,)
    with image_progress("teacher outputs", len(source)) as advance:
        return embed_source(
            teacher.embed,
            source,
            views=views,
            key=teacher.cache_key(),
            cache_dir=config.cache_dir or default_cache_dir(),
            progress=advance,
        )


def build_task(
    config: DistillConfig,
    weights: Weights,
    student: nn.Module,
    teacher: Model,
    table: np.ndarray | None,
    source: Source,
    preprocess: Preprocess,
    device: Device,
    embedding: int,
) -> Distill:
    """Put losses, head, adapter and teacher together."""
    width = teacher.preprocess.embedding
    classes = len(source.identities)
    needs_logits = "logits" in LOSSES[config.method].needs
    classifier = None
    if needs_logits or weights.classification > 0:
        centres: Tensor | None = None
        if needs_logits and table is not None:
            centres = class_centres(table, source.labels, classes)
        head = HEADS[config.head](embedding, classes, config.margin, config.logit_scale)
        classifier = Classifier(head, weights.classification, centres, config.logit_scale)
    adapter = nn.Linear(embedding, width, bias=False) if embedding != width and not needs_logits else None
    options = {"tau": config.tau} if "tau" in LOSSES[config.method].options else {}
    loss = LOSSES[config.method](Dims(width if adapter else embedding, width, classes), options, {})
    outputs: Teacher
    if table is not None and config.teacher_cache:
        outputs = CachedTeacher(table, device)
    else:
        outputs = LiveTeacher(teacher.embed_on_device, width, device)
    losses: dict[str, WeightedLoss] = {config.method: WeightedLoss(loss, weights.method)}
    return Distill(student, outputs, losses, preprocess, device, optimiser_of(config), classifier, adapter)


def student_licence(teacher: Model) -> str:
    """What the teacher's terms mean for the student: recorded, not judged."""
    return f"distilled from a teacher under: {teacher.licence}"


def adapter_note(student: int, teacher: int) -> str:
    """Say whether a linear adapter was trained, and that the shipped student does not use it."""
    if student == teacher:
        return "none: student and teacher have the same width"
    return f"linear {student} to {teacher} during training, not used at inference"
