"""How closely a student follows its teacher, beyond being accurate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facekit.evaluation.statistics import spearman
from facekit.evaluation.verification import Scores, pair_cosines, tar_at_far


@dataclass(frozen=True)
class Agreement:
    """Numbers that compare two models on the same images; None where widths or counts do not allow them."""

    mean_cosine: float | None
    """Mean cosine between the two embeddings of an image; None where the widths differ."""
    spearman: float
    """Rank correlation of the two models' pair scores."""
    threshold_transfer: float | None
    """|FAR of the student at the teacher's threshold - the FAR that set it|; None where it cannot be measured."""


def agreement(
    student: np.ndarray, teacher: np.ndarray, left: np.ndarray, right: np.ndarray, same: np.ndarray, far: float = 1e-3
) -> Agreement:
    """Compare unit embeddings [N,D] of two models on the same images and pairs."""
    ours = pair_cosines(student, student, left, right)
    theirs = pair_cosines(teacher, teacher, left, right)
    alike = float(np.mean(np.sum(student * teacher, axis=1))) if student.shape == teacher.shape else None
    point = tar_at_far(Scores.of(theirs, same), far)
    transfer = None if point.threshold is None else abs(Scores.of(ours, same).far(point.threshold) - far)
    return Agreement(alike, spearman(ours, theirs), transfer)
