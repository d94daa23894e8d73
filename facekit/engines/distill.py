"""``facekit distill``: a small student from a teacher."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from facekit.configs import DistillConfig, RelationOptions, flag_name
from facekit.core.device import Device
from facekit.core.errors import FacekitError, UsageError, unknown_name
from facekit.core.files import read_json
from facekit.core.preprocess import Preprocess
from facekit.core.reporting import image_progress, say
from facekit.core.runs import Run
from facekit.data.embeddings import default_cache_dir, embed_source
from facekit.data.sources import Source, choose_data
from facekit.engines.fitting import (
    build_head,
    check_same,
    now,
    open_batches,
    open_training_data,
    open_training_run,
    opened_device,
    optimiser_of,
    seed_everything,
    start_from,
    train_to_end,
)
from facekit.losses import LOSSES, PRESETS, Dims
from facekit.models import build_backbone
from facekit.models.loading import Model, as_embedder, load_model
from facekit.training.artefacts import Artefacts, Files, open_artefacts
from facekit.training.distill import Classifier, Distill, WeightedLoss
from facekit.training.relations import most_similar, prototypes, random_neighbours
from facekit.training.teachers import CachedTeacher, LiveTeacher, Teacher

# Ours, chosen on dev people (docs/distill.md); cls and kd: RepDistiller's pair. In a network of BatchNorms a larger
# weight is a larger step.
DEFAULT_WEIGHTS = {"cls": 0.1, "fcd": 32.0, "kd": 0.9, "rad": 100.0, "rad.inbatch": 100.0}
DEFAULT_NEIGHBOURS = 64
NEED_LABELS = {"cls", "kd", "rad"}


def run(config: DistillConfig) -> None:
    """Distil on one device, or as one of the processes that torchrun started."""
    with opened_device(config) as device:
        distill(config, device)


def distill(config: DistillConfig, device: Device) -> None:
    """Build teacher, data, student and losses; train; leave a run folder."""
    started = now()
    weights = choose_weights(config.method, config.weights)
    check_readers(config, weights)
    path = choose_data(config.data, teacher_data(config.teacher))
    run = open_training_run("distill", config, path, device)
    if run.done:
        return
    exact = replace(device, precision="fp32", compile=False)  # the teacher's outputs are the target: never rounded
    teacher = load_model(config.teacher, device=exact, channels=config.channels, scaling=config.scaling)
    say("teacher", f"{teacher.name}: {teacher.parameters:,} parameters, licence: {teacher.licence}")
    source = open_training_data(config, path, need_labels=bool(NEED_LABELS & set(weights)))
    check_same(run, "data", "fingerprint", source.fingerprint)
    check_same(run, "teacher", "sha256", teacher.sha256)
    if config.teacher_view == "same":
        say("teacher", "sees the masks too (--teacher-view same): it runs in every step, its outputs are not cached")
    needs_table = caches_teacher(config) or bool({"kd", "rad"} & set(weights))
    table = teacher_table(config, teacher, source, device) if needs_table else None
    artefacts = open_relations(config, teacher, source, table) if "rad" in weights and table is not None else None
    if artefacts:
        check_same(run, "artefacts", "manifest", artefacts.manifest)
    seed_everything(config.seed)
    embedding = config.embedding or teacher.preprocess.embedding
    student = build_backbone(config.student, embedding, config.dropout)
    start_from(student, run)
    preprocess = Preprocess(
        size=source.size, crop=teacher.preprocess.crop, flip=teacher.preprocess.flip, embedding=embedding
    )
    task = build_task(config, weights, student, teacher, table, artefacts, source, preprocess, device)
    frozen = teacher.state_hash()
    meta = {
        "architecture": {"name": config.student, "embedding": embedding, "dropout": config.dropout},
        "parameters": sum(p.numel() for p in student.parameters()),
        "licence": student_licence(teacher),
        "teacher": {"name": teacher.name, "path": config.teacher.as_posix(), "sha256": teacher.sha256},
        "adapter": adapter_note(embedding, teacher.preprocess.embedding),
        "weights": weights,
        **({"artefacts": artefacts.describe()} if artefacts else {}),
        **({"mask": {"share": config.mask, "teacher_view": config.teacher_view}} if config.mask else {}),
    }
    batches = open_batches(config, source, config.seed, device)
    train_to_end(config, run, task, source, batches, preprocess, device, meta, started)
    if artefacts and not config.dry_run:
        report_bank(run, task, artefacts, device)
    if teacher.state_hash() != frozen:
        raise FacekitError("the teacher changed during training: this is a bug in facekit, please report it")


def choose_weights(method: Sequence[str], given: Sequence[str]) -> dict[str, float]:
    """Term -> weight: presets spelled out, flags over defaults. A term of weight 0 is left out.

    >>> choose_weights(["coupleface"], ["rad=10"])
    {'fcd': 32.0, 'rad': 10.0}
    """
    terms = [term for name in method for term in PRESETS.get(name, (name,))]
    if repeated := {term for term in terms if terms.count(term) > 1}:
        raise UsageError(
            f"--method names {sorted(repeated)[0]!r} twice (coupleface is {'+'.join(PRESETS['coupleface'])})"
        )
    weights = {term: DEFAULT_WEIGHTS[term] for term in terms}
    for text in given:
        term, _, number = text.partition("=")
        if term not in weights:
            raise unknown_name("term in --weights", term, weights)
        try:
            weights[term] = float(number)
        except ValueError:
            raise UsageError(f"--weights has {text!r}; write it as {term}=30") from None
        if not 0 <= weights[term] < math.inf:
            raise UsageError(f"--weights has {text}, out of range: it must be a number >= 0")
    if not any(weights.values()):
        raise UsageError("all --weights are 0: nothing would be learned; give a term a weight")
    return {term: weight for term, weight in weights.items() if weight > 0}


READERS = {
    **{field.name: {"rad"} for field in dataclasses.fields(RelationOptions)},
    "relation": {"rad", "rad.inbatch"},
    "local_relations": {"rad.inbatch"},
    "head": {"cls", "kd"},
    "margin": {"cls", "kd"},
    "init_head": {"cls", "kd"},
    "tau": {"kd"},
}
"""Options that only some terms read."""


def check_readers(config: DistillConfig, weights: Mapping[str, float]) -> None:
    """Refuse options that nothing in this run would read."""
    for field in dataclasses.fields(config):
        wanted = READERS.get(field.name)
        if wanted and getattr(config, field.name) != field.default and not wanted & set(weights):
            raise UsageError(
                f"{flag_name(field)} belongs to {' or '.join(sorted(wanted))}, and the terms of this run are "
                f"{'+'.join(weights)}; name the term in --method, or leave the option out"
            )
    if config.slot == "all" and config.slots == 1:
        raise UsageError("--slot all averages over several features of an identity: give --slots 2 or more")
    if config.teacher_view == "same" and not config.mask:
        raise UsageError("--teacher-view same lets the teacher see the masks of --mask: give it a share, as --mask 0.3")


def caches_teacher(config: DistillConfig) -> bool:
    """Whether the steps look the teacher's outputs up. Of masks, drawn anew in every epoch, there are none to keep."""
    return config.teacher_cache and config.teacher_view == "clean"


def teacher_data(teacher: Path) -> str | None:
    """The data path a teacher's run folder remembers."""
    file = teacher / "run.json"
    return read_json(file).get("config", {}).get("data") if file.is_file() else None


def teacher_table(config: DistillConfig, teacher: Model, source: Source, device: Device) -> np.ndarray:
    """The teacher's embeddings of all images and views, float32 [N,V,D], from the disk cache or computed now.

    Of faces without masks: --mask changes what training sees, not who somebody is.
    """
    views = (0, 1) if config.flip else (0,)
    with image_progress("teacher outputs", len(source)) as advance:
        return embed_source(
            teacher.embed,
            source,
            views=views,
            key=teacher.cache_key(),
            cache_dir=config.cache_dir or default_cache_dir(),
            progress=advance,
            device=device,
        )


def open_relations(config: DistillConfig, teacher: Model, source: Source, table: np.ndarray) -> Artefacts:
    """Prototypes and neighbours of the identities, from disk or computed now."""
    classes = len(source.identities)
    known = prototypes(table, source.labels, classes)
    k = config.neighbours or max(1, min(DEFAULT_NEIGHBOURS, int(known.valid.sum()) - 1))
    about = {
        "artefact": "relations",
        "teacher_sha256": teacher.sha256,
        "preprocess": teacher.preprocess.to_dict(),
        "key": teacher.cache_key(),
        "data_fingerprint": source.fingerprint,
        "views": table.shape[1],
        "mining": config.mining,
        "seed": config.seed if config.mining == "random" else None,
        "sizes": {"identities": classes, "width": table.shape[2], "neighbours": k, "images": len(source)},
    }

    def build() -> Files:
        found = most_similar(known, k) if config.mining == "topk" else random_neighbours(known, k, config.seed)
        return {
            "prototypes.safetensors": {"proto": known.proto, "count": known.images, "valid": known.valid},
            "neighbours.safetensors": {"nbr": found.ids, "sim": found.similarity},
        }

    artefacts = open_artefacts((config.cache_dir or default_cache_dir()) / "relations", about, build)
    similarity = artefacts.tensors["sim"][artefacts.tensors["valid"]]
    say(
        "mining",
        f"{k} {config.mining} neighbours of {classes:,} identities, mean cosine {float(similarity.mean()):.3f}",
    )
    return artefacts


def build_task(
    config: DistillConfig,
    weights: Mapping[str, float],
    student: nn.Module,
    teacher: Model,
    table: np.ndarray | None,
    artefacts: Artefacts | None,
    source: Source,
    preprocess: Preprocess,
    device: Device,
) -> Distill:
    """Put losses, head, adapter and teacher together."""
    embedding, width, classes = preprocess.embedding, teacher.preprocess.embedding, len(source.identities)
    classifier = None
    if {"cls", "kd"} & set(weights):
        centres = prototypes(table, source.labels, classes).proto if "kd" in weights and table is not None else None
        head = build_head(config, embedding, classes, device)
        classifier = Classifier(head, weights.get("cls", 0.0), centres, config.logit_scale)
    reads_embedding = any("embedding" in LOSSES[term].needs for term in weights if term != "cls")
    adapter = nn.Linear(embedding, width, bias=False) if embedding != width and reads_embedding else None
    dims = Dims(width if adapter else embedding, width, classes)
    tensors: dict[str, Tensor] = {}
    if artefacts:
        known = artefacts.tensors
        tensors = {"prototypes": known["proto"], "valid": known["valid"], "neighbours": known["nbr"]}
        if "ss" in config.relation:
            tensors["student_prototypes"] = student_prototypes(config, student, adapter, source, preprocess, device)
    losses = {
        term: WeightedLoss(LOSSES[term](dims, term_options(term, config), tensors), weight)
        for term, weight in weights.items()
        if term != "cls"
    }
    outputs: Teacher
    if table is not None and caches_teacher(config):
        outputs = CachedTeacher(table, device)
    else:
        outputs = LiveTeacher(teacher.embed_on_device, width, device, masked=config.teacher_view == "same")
    return Distill(
        student, outputs, losses, preprocess, device, optimiser_of(config), classifier, adapter, config.local_relations
    )


def term_options(term: str, config: DistillConfig) -> dict[str, object]:
    """The options of one term, as its loss names them."""
    if term == "kd":
        return {"tau": config.tau}
    if term == "rad.inbatch":
        return {"relation": config.relation}
    if term == "rad":
        return {
            "relation": config.relation,
            "norm": config.rad_norm,
            "slots": config.slots,
            "slot": config.slot,
            "momentum": config.bank_momentum,
            "refresh": config.refresh,
            "seed": config.seed,
        }
    return {}


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


def student_prototypes(
    config: DistillConfig,
    student: nn.Module,
    adapter: nn.Module | None,
    source: Source,
    preprocess: Preprocess,
    device: Device,
) -> Tensor:
    """The untrained student's mean direction of each identity, in the width of the losses: one pass in eval mode."""
    embed = as_embedder(student.to(device.torch_device), preprocess, replace(device, precision="fp32", compile=False))
    with image_progress("student bank", len(source)) as advance:
        table = embed_source(embed, source, progress=advance, device=device)
    if adapter is not None:
        with torch.no_grad():
            table = adapter(torch.from_numpy(table)).numpy()
    student.train()
    return prototypes(table, source.labels, len(source.identities)).proto


def student_licence(teacher: Model) -> str:
    """What the teacher's terms mean for the student: recorded, not judged."""
    return f"distilled from a teacher under: {teacher.licence}"


def adapter_note(student: int, teacher: int) -> str:
    """Say whether a linear adapter was trained, and that the shipped student does not use it."""
    if student == teacher:
        return "none: student and teacher have the same width"
    return f"linear {student} to {teacher} during training, not used at inference"
