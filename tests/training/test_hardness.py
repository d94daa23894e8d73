"""Hardness against a fixture, against its definition written out, and where it must refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest

from facekit.core.errors import InputError, NonFinite, UsageError
from facekit.training import hardness as module
from facekit.training.answers import in_order
from facekit.training.hardness import (
    Answers,
    congruence,
    divergence,
    finite,
    hardness,
    misdirection,
    squared_difference,
)

Z = 4 * np.sin(0.9 * np.arange(20).reshape(4, 5))
STUDENT = 0.25 * Z
TEACHERS = [k / 4 * Z for k in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("direction", "tau", "wanted"),
    [
        ("kl_ts", 1.0, [0, 0.086241731687, 0.217853976615, 0.329174649981]),
        ("kl_st", 1.0, [0, 0.111040553940, 0.359735973550, 0.673673740622]),
        ("kl_ts", 4.0, [0, 0.1928709364989991, 0.714440016090165, 1.4680006914777808]),
    ],
)
def test_the_divergence_is_that_of_the_fixture(direction: str, tau: float, wanted: list[float]) -> None:
    found = [divergence(STUDENT, teacher, tau, direction) for teacher in TEACHERS]
    assert found == pytest.approx(wanted, abs=1e-12)


def test_blocks_do_not_change_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = divergence(STUDENT, TEACHERS[3]), misdirection(STUDENT, Z[::-1].copy()), squared_difference(STUDENT, Z)
    monkeypatch.setattr(module, "_BLOCK", 7)  # one row at a time
    pieces = divergence(STUDENT, TEACHERS[3]), misdirection(STUDENT, Z[::-1].copy()), squared_difference(STUDENT, Z)
    assert pieces == pytest.approx(whole, rel=1e-14)


def test_measures_of_embeddings_by_hand() -> None:
    student, teacher = np.array([[3.0, 4.0], [0.0, 2.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    assert misdirection(student, teacher) == pytest.approx((0.4 + 0.0) / 2)
    assert squared_difference(student, teacher) == pytest.approx((4 + 16 + 0 + 1) / 4)


def test_many_images_are_summed_in_float64() -> None:
    """In float32 a running sum of so many equal terms is off in the fourth digit."""
    student, teacher = np.zeros((300_000, 2), np.float32), np.full((300_000, 2), 0.1, np.float32)
    assert squared_difference(student, teacher) == pytest.approx(float(np.float32(0.1)) ** 2, rel=1e-12)


def test_classes_decide_which_measure_is_taken() -> None:
    with_classes = Answers(Z[:, :2], STUDENT), Answers(Z[:, 1:3], TEACHERS[2])
    assert hardness(*with_classes, "kl_st", 1.0) == divergence(STUDENT, TEACHERS[2], 1.0, "kl_st")
    assert hardness(with_classes[0], Answers(Z[:, 1:3])) == misdirection(Z[:, :2], Z[:, 1:3])


def test_congruence_says_what_exists() -> None:
    full = congruence(Answers(Z, STUDENT), Answers(Z + 1, TEACHERS[1]), 4.0)
    assert full == {
        "kd": divergence(STUDENT, TEACHERS[1], 4.0),
        "hint": pytest.approx(1.0),
        "mimic": misdirection(Z, Z + 1),
    }
    assert congruence(Answers(Z), Answers(Z[:, :3])) == {"kd": None, "hint": None, "mimic": None}


def test_scores_are_compared_class_by_class() -> None:
    teacher = Answers(Z, STUDENT)
    names = ("a", "b", "c", "d", "e")
    assert np.array_equal(in_order(teacher, names, names[::-1]).logits, STUDENT[:, ::-1])  # type: ignore[arg-type]
    assert np.array_equal(in_order(teacher, names, ("d", "b")).logits, STUDENT[:, [3, 1]])  # type: ignore[arg-type]
    assert in_order(teacher, names, ("d", "x")).logits is None and in_order(teacher, names, ()).logits is None
    assert in_order(Answers(Z), (), names) == Answers(Z)


def test_a_network_equals_itself() -> None:
    same = congruence(Answers(Z, Z), Answers(Z, Z))
    assert same == pytest.approx({"kd": 0.0, "hint": 0.0, "mimic": 0.0}, abs=1e-15)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_names_its_pair(value: float) -> None:
    assert finite([0.1, 0.2], 40, (40, 80)) == [0.1, 0.2]
    with pytest.raises(NonFinite, match=r"H\(40, 80\)"):
        finite([0.1, value], 40, (40, 80))
    assert issubclass(NonFinite, FloatingPointError)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InputError, match=r"\[4, 5\] and \[4, 3\]"):
        misdirection(Z, Z[:, :3])
    with pytest.raises(UsageError, match="--tau is 0"):
        divergence(Z, Z, 0.0)
    with pytest.raises(UsageError, match="Did you mean 'kl_ts'"):
        divergence(Z, Z, 1.0, "kl_tt")
