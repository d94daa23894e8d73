"""From a teacher, data and options to a task that teaches a student: what distill and route-train share. No verb."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from facekit.configs import CongruenceOptions, LearningOptions, RelationOptions, flag_name
from facekit.core.device import Device
from facekit.core.errors import InputError, UsageError, unknown_name
from facekit.core.preprocess import Preprocess
from facekit.core.reporting import image_progress, say
from facekit.data.classes import matched_columns
from facekit.data.embeddings import default_cache_dir, embed_source
from facekit.data.sources import Source
from facekit.engines.fitting import augment_of, build_head, check_family, optimiser_of
from facekit.losses import CC_PRESETS, LOSSES, PRESETS, Dims, weight_warning
from facekit.models import CLASSIFIERS
from facekit.models.loading import Model, as_embedder
from facekit.training.artefacts import Artefacts, Files, open_artefacts
from facekit.training.classes import Classes, ClassTerm, MarginClasses, OwnClasses
from facekit.training.distill import Distill, WeightedLoss
from facekit.training.relations import most_similar, prototypes, random_neighbours
from facekit.training.teachers import CachedTeacher, LiveTeacher, OrderedTeacher, ScoredTeacher, Teacher, centred_scores
from facekit.training.weighing import Weighing

DEFAULT_WEIGHTS = {
    # Ours, chosen on dev people (docs/distill.md). In a network of BatchNorms a larger weight is a larger step.
    "fcd": 32.0,
    "rad": 100.0,
    "rad.inbatch": 100.0,
    # RepDistiller's: cls and kd are its pair, 25 and 50 add up to its RKD.
    "cls": 0.1,
    "kd": 0.9,
    "hint": 100.0,
    "sp.gram": 3000.0,
    "rkd.distance": 25.0,
    "rkd.angle": 50.0,
    # AberHu's for kernels of unit rows.
    "cc.taylor": 100.0,
    "cc.rbf": 100.0,
    "cc.bilinear": 100.0,
    "sp.feature": 100.0,
    **{name: preset.weight for name, preset in CC_PRESETS.items() if preset.weight is not None},
}
"""Weights of terms that have one; the others must be given."""
DEFAULT_NEIGHBOURS = 64
NEED_LABELS = {"cls", "rad"}
KERNELS = {"cc.taylor", "cc.rbf", "cc.bilinear", "cc.mmd"}
IN_BATCH = {term for term, loss in LOSSES.items() if loss.scope == "global"}


class Prepared(NamedTuple):
    """A student's training, ready for the loop."""

    task: Distill
    preprocess: Preprocess
    artefacts: Artefacts | None
    meta: dict[str, Any]
    """What a run's record and its checkpoints say of student, teacher and terms."""


# --- what is asked, and whether it makes sense --------------------------------------------------------------


def choose_weights(method: Sequence[str], given: Sequence[str]) -> dict[str, float]:
    """Term -> weight: presets spelled out, flags over defaults. A term of weight 0 is left out.

    >>> choose_weights(["coupleface"], ["rad=10"])
    {'fcd': 32.0, 'rad': 10.0}
    """
    terms = [term for name in method for term in PRESETS.get(name, (name,))]
    if repeated := {term for term in terms if terms.count(term) > 1}:
        spelled = ", ".join(f"{name} is {'+'.join(PRESETS[name])}" for name in method if name in PRESETS)
        raise UsageError(f"--method names {sorted(repeated)[0]!r} twice" + (f" ({spelled})" if spelled else ""))
    weights: dict[str, float] = {}
    for text in given:
        term, _, number = text.partition("=")
        if term not in terms:
            raise unknown_name("term in --weights", term, terms)
        try:
            weights[term] = float(number)
        except ValueError:
            raise UsageError(f"--weights has {text!r}; write it as {term}=30") from None
        if not 0 <= weights[term] < math.inf:
            raise UsageError(f"--weights has {text}, out of range: it must be a number >= 0")
    if missing := [term for term in terms if term not in weights and term not in DEFAULT_WEIGHTS]:
        raise UsageError(
            f"{missing[0]} has no default weight, its authors' scale is not known: add --weights {missing[0]}=X"
        )
    chosen = {term: weights.get(term, DEFAULT_WEIGHTS.get(term, 0.0)) for term in terms}
    if not any(chosen.values()):
        raise UsageError("all --weights are 0: nothing would be learned; give a term a weight")
    return {term: weight for term, weight in chosen.items() if weight > 0}


READERS = {
    **{field.name: {"rad"} for field in dataclasses.fields(RelationOptions)},
    **{field.name: KERNELS for field in dataclasses.fields(CongruenceOptions)},
    "gamma": {"cc.taylor", "cc.rbf"},
    "order": {"cc.taylor"},
    "hint_stage": {"hint"},
    "relation": {"rad", "rad.inbatch"},
    "local_relations": IN_BATCH,
    "head": {"cls", "kd"},
    "margin": {"cls", "kd"},
    "init_head": {"cls", "kd"},
    "tau": {"kd"},
}
"""Options that only some terms read."""


def check_readers(config: LearningOptions, weights: Mapping[str, float]) -> None:
    """Refuse options that nothing in this run would read."""
    check_family(config, config.student, config.embedding)
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
    for term, weight in weights.items():
        if term in LOSSES and (warning := weight_warning(term, term_options(term, config), weight)):
            say("note", warning)


def term_options(term: str, config: LearningOptions) -> dict[str, object]:
    """The options of one term, as its loss names them."""
    if term == "kd":
        return {"tau": config.tau}
    if term == "hint":
        return {"hint_stage": config.hint_stage}
    if term in KERNELS:
        kernel: dict[str, object] = {"reduction": config.cc_reduction}
        if term != "cc.mmd":
            kernel |= {"normalize": config.cc_rows == "unit", "center": config.cc_center}
        if term in READERS["gamma"]:
            kernel["gamma"] = config.gamma
        return kernel | ({"order": config.order} if term == "cc.taylor" else {})
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


def needs_labels(config: LearningOptions, weights: Mapping[str, float], teacher: Model) -> bool:
    """Whether the student, a term of the run or its sampler reads who is on an image."""
    kd_by_centres = "kd" in weights and not teacher.classes
    reads = bool(NEED_LABELS & set(weights)) or kd_by_centres
    return reads or config.student in CLASSIFIERS or config.sampler == "cur"


# --- the parts ------------------------------------------------------------------------------------------------


def prepare(
    config: LearningOptions,
    weights: Mapping[str, float],
    student: nn.Module,
    architecture: Mapping[str, Any],
    teacher: Model,
    source: Source,
    device: Device,
    weighing: Weighing | None = None,
) -> Prepared:
    """Losses, heads, adapter and the teacher's outputs around a student that is built already."""
    preprocess = student_input(config, architecture, teacher, source)
    table = teacher_table(config, teacher, source, device) if reads_table(config, weights, teacher) else None
    artefacts = open_relations(config, teacher, source, table) if "rad" in weights and table is not None else None
    classes = student_classes(config, weights, architecture, source, device)
    width, embedding = teacher.preprocess.embedding, preprocess.embedding
    needs_width = any(LOSSES[term].widths == "same" for term in weights if term in LOSSES)
    adapter = nn.Linear(embedding, width, bias=False) if embedding != width and needs_width else None
    tensors: dict[str, Tensor] = {}
    if artefacts:
        known = artefacts.tensors
        tensors = {"prototypes": known["proto"], "valid": known["valid"], "neighbours": known["nbr"]}
        if "ss" in config.relation:
            tensors["student_prototypes"] = student_prototypes(config, student, adapter, source, preprocess, device)
    losses = {
        term: WeightedLoss(
            LOSSES[term](
                dims_of(term, student, teacher, source, preprocess, adapter), term_options(term, config), tensors
            ),
            weight,
        )
        for term, weight in weights.items()
        if term != "cls"
    }
    task = Distill(
        student,
        teacher_outputs(config, weights, teacher, table, source, device),
        losses,
        preprocess,
        device,
        optimiser_of(config),
        ClassTerm(classes, weights.get("cls", 0.0)) if classes else None,
        adapter,
        config.local_relations,
        augment_of(config),
        weighing,
    )
    meta = {
        "architecture": dict(architecture),
        "parameters": sum(p.numel() for p in student.parameters()),
        "licence": student_licence(teacher),
        "teacher": {"name": teacher.name, "path": teacher.path, "sha256": teacher.sha256},
        "adapter": adapter_note(adapter),
        "weights": dict(weights),
        **({"artefacts": artefacts.describe()} if artefacts else {}),
        **({"mask": {"share": config.mask, "teacher_view": config.teacher_view}} if config.mask else {}),
    }
    return Prepared(task, preprocess, artefacts, meta)


def student_input(
    config: LearningOptions, architecture: Mapping[str, Any], teacher: Model, source: Source
) -> Preprocess:
    """The student takes crop and flip rule of its teacher, which makes the two comparable, and has its own scale."""
    side = config.resized_crop
    return Preprocess(
        size=(side, side) if side else source.size,
        crop=teacher.preprocess.crop,
        flip=teacher.preprocess.flip,
        embedding=int(architecture["embedding"]),
    )


def student_classes(
    config: LearningOptions,
    weights: Mapping[str, float],
    architecture: Mapping[str, Any],
    source: Source,
    device: Device,
) -> Classes | None:
    """The student's class scores, where a term reads them."""
    if not {"cls", "kd"} & set(weights):
        if "classes" in architecture:
            say("note", f"no term trains the class layer of {architecture['name']}: add cls or kd to --method")
        return None
    if "classes" in architecture:
        return OwnClasses()
    return MarginClasses(build_head(config, int(architecture["embedding"]), len(source.identities), device))


def dims_of(
    term: str,
    student: nn.Module,
    teacher: Model,
    source: Source,
    preprocess: Preprocess,
    adapter: nn.Module | None,
) -> Dims:
    """The sizes one term is built for; what maps there are is seen by looking at an image."""
    width = teacher.preprocess.embedding
    own = width if adapter and LOSSES[term].widths == "same" else preprocess.embedding
    dims = Dims(own, width, len(source.identities))
    if term != "hint":
        return dims
    image = torch.zeros(1, 3, *preprocess.size, dtype=torch.uint8)
    training = student.training
    with torch.no_grad():
        maps = student.eval()(preprocess(image)).features
    student.train(training)
    theirs = teacher.outputs_on_device(image).features
    return dims._replace(student_maps=tuple(m.shape[1] for m in maps), teacher_maps=tuple(m.shape[1] for m in theirs))


# --- the teacher's side ---------------------------------------------------------------------------------------


def caches_teacher(config: LearningOptions, weights: Mapping[str, float], teacher: Model) -> bool:
    """Whether the steps look the teacher's outputs up: only embeddings of the two views of a whole image are kept."""
    other_views = config.teacher_view == "same" or config.crop > 0 or config.resized_crop is not None
    unscored = bool(teacher.classes) and teacher.class_layer is None
    beyond = ("kd" in weights and unscored) or ("hint" in weights and config.hint_stage is not None)
    return config.teacher_cache and not other_views and not beyond


def reads_table(config: LearningOptions, weights: Mapping[str, float], teacher: Model) -> bool:
    """Whether the teacher's embeddings of all images are needed before training."""
    return caches_teacher(config, weights, teacher) or "rad" in weights or ("kd" in weights and not teacher.classes)


def teacher_outputs(
    config: LearningOptions,
    weights: Mapping[str, float],
    teacher: Model,
    table: np.ndarray | None,
    source: Source,
    device: Device,
) -> Teacher:
    """Cached where that is the same, live otherwise; with class scores where a term reads them."""
    outputs: Teacher
    if table is not None and caches_teacher(config, weights, teacher):
        outputs = CachedTeacher(table, device)
    else:
        masked = config.teacher_view == "same"
        outputs = LiveTeacher(teacher.outputs_on_device, device, augment_of(config), masked=masked)
    if "kd" not in weights:
        return outputs
    if teacher.classes:
        columns, note = matched_columns(source.identities, teacher.classes, f"the data for {teacher.name}")
        if note:
            say("note", note)
        if teacher.class_layer is not None:
            outputs = ScoredTeacher(outputs, teacher.class_layer)
        return OrderedTeacher(outputs, torch.from_numpy(columns), device)
    assert table is not None
    centres = prototypes(table, source.labels, len(source.identities)).proto
    return ScoredTeacher(outputs, centred_scores(device.put(centres), config.logit_scale))


def teacher_table(config: LearningOptions, teacher: Model, source: Source, device: Device) -> np.ndarray:
    """The teacher's embeddings of all images and views, float32 [N,V,D], from the disk cache or computed now.

    Of faces without masks: --mask changes what training sees, not who somebody is.
    """
    if teacher.preprocess.size != source.size:
        raise InputError(
            f"the images are {source.size[0]}x{source.size[1]} and the teacher {teacher.name} takes "
            f"{teacher.preprocess.size[0]}x{teacher.preprocess.size[1]}: give images of that size"
        )
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


def open_relations(config: LearningOptions, teacher: Model, source: Source, table: np.ndarray) -> Artefacts:
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


def student_prototypes(
    config: LearningOptions,
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


def adapter_note(adapter: nn.Linear | None) -> str:
    """Say whether a linear adapter was trained, and that the shipped student does not use it."""
    if adapter is None:
        return "none"
    return f"linear {adapter.in_features} to {adapter.out_features} during training, not used at inference"
