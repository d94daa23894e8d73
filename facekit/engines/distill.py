"""``facekit distill``: a small student from a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from facekit.configs import DistillConfig
from facekit.core.device import Device
from facekit.core.errors import FacekitError, UsageError
from facekit.core.files import read_json
from facekit.core.reporting import say
from facekit.core.runs import Run
from facekit.data.batches import Batches
from facekit.data.sources import Source, choose_data
from facekit.engines.distilling import Prepared, check_readers, choose_weights, needs_labels, prepare
from facekit.engines.fitting import (
    build_network,
    check_same,
    now,
    open_batches,
    open_training_data,
    open_training_run,
    opened_device,
    seed_everything,
    start_from,
    train_to_end,
)
from facekit.engines.together import Built, check_seeds, train_together
from facekit.engines.weighing import BESIDE, leave_weights, rule_of, weighing_of
from facekit.models.loading import Model, load_model
from facekit.training.artefacts import Artefacts
from facekit.training.distill import Distill
from facekit.weighting import WEIGHTERS


def run(config: DistillConfig) -> None:
    """Distil on one device, or as one of the processes that torchrun started."""
    with opened_device(config) as device:
        distill(config, device)


def distill(config: DistillConfig, device: Device) -> None:
    """Build teacher, data, student and losses; train; leave a run folder."""
    started = now()
    weights = choose_weights(config.method, config.weights)
    check_readers(config, weights)
    check_seeds(config)
    rule = check_rule(config, weights)
    path = choose_data(config.data, teacher_data(config.teacher))
    run = open_training_run("distill", config, path, device)
    if run.done:
        return
    exact = replace(device, precision="fp32", compile=False)  # the teacher's outputs are the target: never rounded
    teacher = load_model(config.teacher, device=exact, channels=config.channels, scaling=config.scaling)
    say("teacher", f"{teacher.name}: {teacher.parameters:,} parameters, licence: {teacher.licence}")
    source = open_training_data(config, path, need_labels=needs_labels(config, weights, teacher))
    check_same(run, "data", "fingerprint", source.fingerprint)
    check_same(run, "teacher", "sha256", teacher.sha256)
    if config.teacher_view == "same":
        say("teacher", "sees the masks too (--teacher-view same): it runs in every step, its outputs are not cached")
    frozen = teacher.state_hash()
    if config.seeds:
        train_together(
            config,
            run,
            lambda seed, others: build_one(config, weights, teacher, source, device, seed, others, None)[0],
            source,
            device,
            started,
        )
    else:
        seed_everything(config.seed)
        built, prepared = build_one(config, weights, teacher, source, device, config.seed, None, run)
        if prepared.artefacts:
            check_same(run, "artefacts", "manifest", prepared.artefacts.manifest)
        task, preprocess = prepared.task, built.preprocess

        def finish() -> dict[str, Any]:
            assert task.cls  # check_rule has seen to it
            model = task.modules["model"]
            return leave_weights(config, rule, run, task.weighing, model, task.cls.classes, source, preprocess, device)

        train_to_end(
            config,
            run,
            task,
            source,
            built.batches,
            preprocess,
            device,
            built.meta,
            started,
            finish=None if rule == "uniform" else finish,
        )
        if prepared.artefacts and not config.dry_run:
            report_bank(run, prepared.task, prepared.artefacts, device)
    if teacher.state_hash() != frozen:
        raise FacekitError("the teacher changed during training: this is a bug in facekit, please report it")


def build_one(
    config: DistillConfig,
    weights: Mapping[str, float],
    teacher: Model,
    source: Source,
    device: Device,
    seed: int,
    others: Batches | None,
    run: Run | None,
) -> tuple[Built, Prepared]:
    """Student, task and batches of one seed; pixels are shared with ``others``."""
    width = config.embedding or teacher.preprocess.embedding
    student, architecture = build_network(config.student, width, config.dropout, source)
    if run:
        start_from(student, run)
    batches = open_batches(config, source, seed, device, clusters_by=teacher, others=others)
    weighing = weighing_of(config, rule_of(config), source, batches, device, seed)
    prepared = prepare(config, weights, student, architecture, teacher, source, device, weighing)
    meta = prepared.meta | {"teacher": prepared.meta["teacher"] | {"path": config.teacher.as_posix()}}
    return Built(prepared.task, batches, prepared.preprocess, meta), prepared


def check_rule(config: DistillConfig, weights: Mapping[str, float]) -> str:
    """The rule that weighs samples. Raises UsageError for what a distillation cannot do."""
    rule = rule_of(config)
    if rule in BESIDE:
        raise UsageError(f"--weighter {rule} is for facekit train; to distil choose among {', '.join(WEIGHTERS)}")
    if rule != "uniform" and "cls" not in weights:
        raise UsageError(
            f"--weighter {rule} judges samples by their classification loss, and the terms of this run are "
            f"{'+'.join(weights)}: add cls to --method"
        )
    return rule


def teacher_data(teacher: Path) -> str | None:
    """The data path a teacher's run folder remembers."""
    file = teacher / "run.json"
    return read_json(file).get("config", {}).get("data") if file.is_file() else None


def report_bank(run: Run, task: Distill, artefacts: Artefacts, device: Device) -> None:
    """How many identities' features are not their prototypes any more: for few images each, refreshing does little."""
    rows = task.losses["rad"].loss.get_buffer("teacher_bank.rows").cpu()
    valid = artefacts.tensors["valid"]
    slots = len(rows) // len(valid)
    kept = (rows.view(len(valid), slots, -1) == artefacts.tensors["proto"].unsqueeze(1)).all(dim=2).all(dim=1)
    moved = float((~kept)[valid].float().mean())
    say("bank", f"{moved:.1%} of the identities' features moved from their prototypes")
    if device.rank == 0:
        run.write("done", {"bank_moved": moved})
