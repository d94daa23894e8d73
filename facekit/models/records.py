"""What run.json says of a network: its architecture, and the input that a classifier of ours is fed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from facekit.core.errors import InputError
from facekit.core.preprocess import Preprocess
from facekit.models import Classifier, build_backbone, build_classifier


def classifier_record(name: str, net: Classifier, classes: Sequence[str], dropout: float = 0.0) -> dict[str, Any]:
    """The ``architecture`` of a classifier; ``classes`` are the names of its classes in the order of the logits.

    Raises ValueError where there are more or fewer names than logits.
    """
    if len(classes) != net.classes:
        raise ValueError(f"{len(classes)} class names for a network of {net.classes} classes")
    return {"name": name, "embedding": net.embedding, "dropout": dropout, "classes": list(classes)}


def classifier_input(embedding: int, size: tuple[int, int]) -> Preprocess:
    """The input table of classifiers of ours: whole images, x/127.5 - 1, no second view."""
    return Preprocess(size=size, crop="none", flip="none", embedding=embedding)


def class_names(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of a network's classes in the order of its logits, () for a face embedder.

    Raises InputError where the record holds something else than different names.
    """
    names = record.get("classes", [])
    if not isinstance(names, list) or not all(isinstance(n, str) and n for n in names) or len(set(names)) < len(names):
        raise InputError("its architecture does not describe a network: classes must be a list of different names")
    return tuple(names)


def network_of(record: Mapping[str, Any]) -> nn.Module:
    """The network that an ``architecture`` describes, laid out without memory: ``adopt`` gives it its weights.

    Raises InputError for a record that describes none, UsageError for a name that is not known.
    """
    try:
        name, width, dropout = str(record["name"]), int(record["embedding"]), float(record["dropout"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"its architecture does not describe a network: {error!r}") from error
    if seeds := record.get("stacked"):
        raise InputError(
            f"it holds several networks that were trained together; give one of them: seed_{seeds[0]} and on"
        )
    classes = class_names(record)
    with torch.device("meta"):
        if not classes:
            return build_backbone(name, width, dropout)
        net = build_classifier(name, len(classes), dropout)
    if net.embedding != width:
        raise InputError(f"its architecture does not describe a network: the width of {name} is not {width}")
    return net
