"""Train a student from a teacher: weighted distillation terms, with or without a classification head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, normalize
from torch.optim import Optimizer

from facekit.core.augment import mirror
from facekit.core.device import Device
from facekit.core.loop import Phase, Terms
from facekit.core.preprocess import Preprocess
from facekit.core.types import Batch, Outputs
from facekit.losses import Loss
from facekit.training.teachers import Teacher


class WeightedLoss(NamedTuple):
    """One distillation term and its weight in the sum."""

    loss: Loss
    weight: float


class Classifier(NamedTuple):
    """The student's margin head and the teacher's counterpart, where a term needs class scores."""

    head: nn.Module
    weight: float  # of the classification term; 0 leaves it out
    teacher_centres: Tensor | None  # [C,D] unit rows; None where no term reads the teacher's logits
    scale: float


class Distill:
    """One phase: the student's loss terms against the teacher's outputs.

    ``adapter`` is a linear map from the student's width to the teacher's where they differ; it is trained with
    the student and kept in the training state, and the shipped student does not use it.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher,
        losses: Mapping[str, WeightedLoss],
        preprocess: Preprocess,
        device: Device,
        optimiser: Callable[[list[nn.Module]], Optimizer],
        classifier: Classifier | None = None,
        adapter: nn.Module | None = None,
    ) -> None:
        self.modules: dict[str, nn.Module] = {"model": device.module(student)}
        if classifier:
            self.modules["head"] = device.module(classifier.head)
        if adapter:
            self.modules["adapter"] = device.module(adapter)
        self.optimisers = {"main": optimiser(list(self.modules.values()))}
        self.modules |= {f"loss_{name}": device.module(term.loss) for name, term in losses.items()}
        self.teacher, self.losses, self.classifier = teacher, losses, classifier
        self.adapter, self.preprocess, self.device = adapter, preprocess, device
        self.centres = None
        if classifier and classifier.teacher_centres is not None:
            self.centres = device.put(classifier.teacher_centres)

    def phases(self, batch: Batch) -> Iterator[Phase]:
        """One update of student, head and adapter together."""

        def terms() -> Terms:
            teacher = self.teacher_outputs(batch)
            images = self.preprocess(mirror(batch.images, batch.view))
            with self.device.autocast():
                outputs: Outputs = self.modules["model"](images)
            return self.terms(outputs._replace(embedding=outputs.embedding.float()), teacher, batch)

        yield "main", terms

    def terms(self, outputs: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        """The named, weighted terms of one batch."""
        student = self.adapted(outputs)
        result: Terms = {}
        for name, (loss, weight) in self.losses.items():
            value = loss(student, teacher, batch)
            result[name] = weight * (value.mean() if loss.kind == "pointwise" else value)
        if self.classifier and self.classifier.weight > 0:
            logits = self.classifier.head(outputs.embedding, batch.labels)
            result["cls"] = self.classifier.weight * cross_entropy(logits, batch.labels)
        return result

    @torch.no_grad()
    def teacher_outputs(self, batch: Batch) -> Outputs:
        """The teacher's side of a batch, without gradient."""
        embedding = self.teacher(batch)
        if self.centres is None or self.classifier is None:
            return Outputs(embedding)
        return Outputs(embedding, logits=self.classifier.scale * linear(normalize(embedding), self.centres))

    def adapted(self, outputs: Outputs) -> Outputs:
        """The student's side as the losses see it: at the teacher's width, with logits where they are needed."""
        logits = None
        if self.classifier and self.centres is not None:
            logits = self.classifier.head.cosine_logits(outputs.embedding)  # type: ignore[operator]
        embedding = self.adapter(outputs.embedding) if self.adapter else outputs.embedding
        return outputs._replace(embedding=embedding, logits=logits)

    def after_step(self, batch: Batch) -> None:
        """Let the losses refresh their banks."""
        if any(type(term.loss).after_step is not Loss.after_step for term in self.losses.values()):
            teacher = self.teacher_outputs(batch)
            for term in self.losses.values():
                term.loss.after_step(teacher, batch)

    def state_dict(self) -> dict[str, Any]:
        """Modules and optimisers are all there is; banks live in the losses."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""
