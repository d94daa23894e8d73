"""Train a student from a teacher: weighted distillation terms, with or without a classification head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from facekit.core.augment import Augment
from facekit.core.device import Device
from facekit.core.loop import Phase, Terms
from facekit.core.preprocess import Preprocess
from facekit.core.types import Batch, Outputs
from facekit.losses import Loss
from facekit.losses.base import in_relation_precision
from facekit.training.classes import ClassTerm
from facekit.training.replay import Learner
from facekit.training.teachers import Teacher
from facekit.training.weighing import Weighing, reduced


class WeightedLoss(NamedTuple):
    """One distillation term and its weight in the sum."""

    loss: Loss
    weight: float


class Distill:
    """One phase: the student's loss terms against the teacher's outputs.

    ``adapter`` is a linear map from the student's width to the teacher's where they differ; it is trained with
    the student and kept in the training state, and the shipped student does not use it. ``weighing`` judges samples by
    the term ``cls`` and weighs every pointwise term; relational ones stay as they are.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher,
        losses: Mapping[str, WeightedLoss],
        preprocess: Preprocess,
        device: Device,
        optimiser: Callable[[list[nn.Module]], Optimizer],
        cls: ClassTerm | None = None,
        adapter: nn.Module | None = None,
        local_relations: bool = False,
        augment: Augment = Augment(),
        weighing: Weighing | None = None,
    ) -> None:
        if weighing and not (cls and cls.weight > 0):
            raise ValueError("samples are weighed by their classification loss: a term cls with a weight is needed")
        self.modules: dict[str, nn.Module] = {"model": device.module(student)}
        if cls:
            self.modules |= {name: device.module(module) for name, module in cls.classes.modules.items()}
        if adapter:
            self.modules["adapter"] = device.module(adapter)
        self.modules |= {f"loss_{name}": term.loss.to(device.torch_device) for name, term in losses.items()}
        self.optimisers = {"main": optimiser(list(self.modules.values()))}
        self.teacher, self.losses, self.cls = teacher, losses, cls
        self.adapter, self.preprocess, self.device, self.augment = adapter, preprocess, device, augment
        self.weighing = weighing
        self.spans_processes = device.world > 1 and not local_relations
        self.refreshed = [t.loss for t in losses.values() if type(t.loss).after_step is not Loss.after_step]
        self.seen: list[tuple[Outputs, Outputs]] = []  # of the batches of the step, for the losses that remember
        self.norms: dict[str, Tensor] = {}

    def phases(self, batch: Batch) -> Iterator[Phase]:
        """One update of student, head and adapter together."""

        def terms() -> Terms:
            images = self.view(batch)
            with self.device.autocast():
                outputs: Outputs = self.modules["model"](images)
            return self.terms(outputs, batch)

        yield "main", terms

    def view(self, batch: Batch) -> Tensor:
        """What the student is shown."""
        return self.preprocess(self.augment(batch))

    def terms(self, outputs: Outputs, batch: Batch) -> Terms:
        """The named, weighted terms of what the student and the teacher say of it."""
        teacher = self.teacher(batch)
        values: dict[str, tuple[float, Tensor]] = {}
        outputs = outputs._replace(embedding=in_relation_precision(outputs.embedding))
        for name, (loss, weight) in self.losses.items():
            student = self.adapted(self.watched(name, outputs), loss)
            values[name] = weight, loss(*self.in_scope(loss, student, teacher, batch))
        if self.cls and self.cls.weight > 0:
            values["cls"] = self.cls.weight, self.cls.classes.loss(self.watched("cls", outputs), batch.labels)
        shares: Tensor | None = None
        if self.weighing and self.cls:
            learner = Learner(self.modules["model"], self.cls.classes, self.view, self.optimisers["main"])
            shares = self.weighing.shares(values["cls"][1], outputs, batch, learner)
        result = {
            name: weight * (value if value.ndim == 0 else reduced(value, shares))
            for name, (weight, value) in values.items()
        }
        if self.refreshed:
            with torch.no_grad():
                self.seen.append((self.adapted(outputs, self.refreshed[0]), teacher))
        return result

    def watched(self, name: str, outputs: Outputs) -> Outputs:
        """The student's outputs as one term sees them: the gradient it sends back is measured on its way."""

        def view(tensor: Tensor) -> Tensor:
            seen = tensor.view_as(tensor)
            if seen.requires_grad:
                seen.register_hook(partial(self.note_gradient, name))
            return seen

        logits = None if outputs.logits is None else view(outputs.logits)
        return Outputs(view(outputs.embedding), tuple(map(view, outputs.features)), logits)

    def note_gradient(self, name: str, gradient: Tensor) -> None:
        """Keep the norm of a term's gradient with respect to what it reads, in this process."""
        norm = gradient.detach().norm() / self.device.world**0.5
        earlier = self.norms.get(name)
        self.norms[name] = norm if earlier is None else torch.hypot(earlier, norm)

    def measured(self) -> Mapping[str, Tensor]:
        """Gradient norm of each term with respect to what it reads, since the last call, still on the device."""
        norms, self.norms = self.norms, {}
        return norms

    def in_scope(self, loss: Loss, student: Outputs, teacher: Outputs, batch: Batch) -> tuple[Outputs, Outputs, Batch]:
        """What a loss is called with: the batch of this process, or of all where relations span it."""
        if loss.scope == "local" or not self.spans_processes:
            return student, teacher, batch
        whole = student._replace(embedding=self.device.gather_with_gradient(student.embedding))
        return whole, *self.gathered(teacher, batch)

    def gathered(self, teacher: Outputs, batch: Batch) -> tuple[Outputs, Batch]:
        """Teacher embeddings and all but the images of the global batch, in rank order."""
        gather = self.device.gather
        labels, index, view, position = (gather(t) for t in (batch.labels, batch.index, batch.view, batch.position))
        return Outputs(gather(teacher.embedding)), Batch(batch.images, labels, index, view, position)

    def adapted(self, outputs: Outputs, loss: Loss) -> Outputs:
        """The student's side as a loss sees it: at the teacher's width, with logits, where it reads them."""
        if self.cls and "logits" in loss.needs:
            outputs = outputs._replace(logits=self.cls.classes.logits(outputs))
        if self.adapter and loss.widths == "same":
            outputs = outputs._replace(embedding=self.adapter(outputs.embedding))
        return outputs

    def after_step(self, batch: Batch) -> None:
        """Let the weighter remember, and the losses refresh their banks."""
        if self.weighing:
            self.weighing.after_step()
        if self.refreshed:
            self.refresh(batch)

    @torch.no_grad()
    def refresh(self, batch: Batch) -> None:
        """The banks, with the global batch."""
        student, teacher = self.seen.pop(0)
        if self.device.world > 1:
            student = student._replace(embedding=self.device.gather(student.embedding))
            teacher, batch = self.gathered(teacher, batch)
        for loss in self.refreshed:
            loss.after_step(student, teacher, batch)

    def state_dict(self) -> dict[str, Any]:
        """The weighter's, beyond modules and optimisers; banks live in the losses."""
        return {"weighing": self.weighing.state_dict()} if self.weighing else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        if self.weighing:
            self.weighing.load_state_dict(state["weighing"])
