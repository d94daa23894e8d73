"""What a network says of held-out images, as hardness and congruence compare it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from facekit.core.device import Device
from facekit.data.embeddings import embed_source
from facekit.data.protocol import Source
from facekit.models.loading import Model
from facekit.training.hardness import Answers


def answers_of(
    model: Model,
    source: Source,
    device: Device,
    *,
    cache_dir: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Answers:
    """Embeddings, and class scores where the model has classes, of all images without augmentation, in one pass.

    With ``cache_dir`` they are kept on disk as the teacher's embeddings are.
    """
    width = model.preprocess.embedding

    def both(images: Tensor) -> Tensor:
        outputs = model.outputs_on_device(images)
        parts = [outputs.embedding] if outputs.logits is None else [outputs.embedding, outputs.logits]
        return torch.cat(parts, dim=1).cpu()

    key = model.cache_key() + "-answers" * bool(model.classes)
    table = embed_source(both, source, key=key, cache_dir=cache_dir, progress=progress, device=device)[:, 0]
    return Answers(table[:, :width], table[:, width:] if model.classes else None)


def in_order(answers: Answers, theirs: Sequence[str], ours: Sequence[str]) -> Answers:
    """Class scores of a network with the classes ``theirs`` for the classes ``ours``; none where one is missing."""
    if answers.logits is None or not ours or not set(ours) <= set(theirs):
        return Answers(answers.embedding)
    place = {name: column for column, name in enumerate(theirs)}
    return answers._replace(logits=answers.logits[:, [place[name] for name in ours]])
