"""RAD and its banks against values computed another way (float64), and the identities that must hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from facekit.core.errors import UsageError
from facekit.core.types import Batch, Outputs
from facekit.losses import LOSSES, Dims
from facekit.losses.bank import FeatureBank
from facekit.losses.fcd import feature_consistency
from facekit.losses.rad import RelationAware, drawn_slots, relations
from tests.losses.fixture import BATCH, INDEX, LABELS, NEIGHBOURS, REFLECTION, RELATIONS, P, S, T, close


def rad(neighbours: Tensor = NEIGHBOURS, bank: Tensor = P, **options: Any) -> RelationAware:
    artefacts = {**RELATIONS, "neighbours": neighbours, "prototypes": bank}
    loss = LOSSES["rad"](Dims(8, 8, 5), options, artefacts)
    assert isinstance(loss, RelationAware)
    return loss


def value(loss: torch.nn.Module, student: Tensor = S, teacher: Tensor = T, batch: Batch = BATCH) -> Tensor:
    result: Tensor = loss(Outputs(student), Outputs(teacher), batch)
    return result.mean()


def refreshed(batch: Batch = BATCH, teacher: Tensor = T, **options: Any) -> RelationAware:
    loss = rad(**options)
    loss.after_step(Outputs(S), Outputs(teacher), batch)
    return loss


@pytest.mark.parametrize(
    "options, wanted",
    [
        ({}, 0.353289673534853),
        ({"norm": "l1"}, 0.497559445489712),
        ({"norm": "smooth_l1"}, 0.1744223169465323),
        ({"relation": "ss"}, 0.31856650747783455),
        ({"relation": "st+ss"}, 0.6718561810126877),
    ],
)
def test_rad_values(options: dict[str, Any], wanted: float) -> None:
    assert close(value(rad(**options)), wanted)


def test_rad_with_one_and_with_all_neighbours() -> None:
    assert close(value(rad(NEIGHBOURS[:, :1])), 0.47564960373869675)
    everyone = torch.tensor([[j for j in range(5) if j != i] for i in range(5)])
    assert close(value(rad(everyone)), 0.333792979692941)


def test_in_batch_relations() -> None:
    for relation, wanted in (("ss", 1.5680740891789529), ("st", 0.9008307855472796)):
        assert close(value(LOSSES["rad.inbatch"](Dims(8, 8), {"relation": relation}, {})), wanted)
    with pytest.raises(ValueError, match="at least 2 samples"):
        value(LOSSES["rad.inbatch"](Dims(8, 8), {}, {}), S[:1], T[:1])


@pytest.mark.parametrize(
    "options, wanted",
    [
        ({}, 1.086924917371207),  # the first duplicate would give 0.7439537555610775
        ({"momentum": 0.5}, 0.8808367875806112),
        ({"slots": 2, "slot": "all"}, 0.7362953080307695),
    ],
)
def test_rad_after_one_refresh(options: dict[str, Any], wanted: float) -> None:
    assert close(value(refreshed(**options)), wanted)


def test_a_frozen_bank_stays_as_it_was() -> None:
    assert close(value(refreshed(refresh=False)), 0.353289673534853)


def test_the_ring_moves_and_its_first_slot_holds_the_first_duplicate() -> None:
    bank = refreshed(slots=2, slot="all").teacher_bank
    assert bank.pointer.tolist() == [0, 0, 1, 0, 1]
    assert close(value(rad(bank=bank.rows[::2])), 0.7439537555610775)


def test_refreshing_depends_on_positions_not_on_the_order_of_rows() -> None:
    order = torch.tensor([3, 0, 5, 1, 4, 2])  # as if other processes had held these rows
    moved = Batch(BATCH.images, LABELS[order], INDEX[order], BATCH.view, INDEX[order])
    for options in ({}, {"momentum": 0.5}, {"slots": 2}, {"slots": 3}):
        one = refreshed(**options).teacher_bank
        other = refreshed(moved, T[order], **options).teacher_bank
        assert torch.equal(one.rows, other.rows) and torch.equal(one.pointer, other.pointer)


def test_more_duplicates_than_slots_leave_the_last_ones() -> None:
    bank = FeatureBank(P, 2, 0.0)
    new = normalize(torch.eye(8, dtype=torch.float64)[:5])
    bank.refresh(new, torch.zeros(5, dtype=torch.int64), torch.arange(5))
    assert torch.equal(bank.rows[:2], new[[4, 3]]) and bank.pointer[0] == 1


def test_bank_rows_stay_unit_and_absent_identities_bit_identical() -> None:
    for options in ({}, {"momentum": 0.9}, {"slots": 4}):
        bank = refreshed(**options).teacher_bank
        torch.testing.assert_close(bank.rows.norm(dim=1), torch.ones(len(bank.rows), dtype=torch.float64))
        slots = bank.slots
        assert torch.equal(bank.rows[3 * slots : 4 * slots], P[3].expand(slots, 8))


def test_gradient_formula_norm_and_nothing_for_bank_or_teacher() -> None:
    loss, student, teacher = rad(), S.clone().requires_grad_(), T.clone().requires_grad_()
    value(loss, student, teacher).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None and close(student.grad.norm(), 0.17613202142572984)
    s, t, rows = normalize(S), normalize(T), P[NEIGHBOURS[LABELS]]
    difference = torch.einsum("bd,bkd->bk", s - t, rows)
    g = 2 / (6 * 2) * torch.einsum("bk,bkd->bd", difference, rows)
    formula = (g - (g * s).sum(1, keepdim=True) * s) / S.norm(dim=1, keepdim=True)
    assert float((student.grad - formula).abs().max()) <= 1e-15
    assert teacher.grad is None and not list(loss.parameters()) and loss.teacher_bank.rows.grad is None


def test_invariances() -> None:
    assert close(value(rad(), S @ REFLECTION), 0.4704428121597641)
    assert close(value(rad(bank=P @ REFLECTION), S @ REFLECTION, T @ REFLECTION), 0.353289673534853)
    assert close(value(rad(), S * (1 + INDEX[:, None])), 0.353289673534853)


def test_rad_is_bounded_by_twice_fcd_and_zero_for_equal_networks() -> None:
    assert float(value(rad())) <= 2 * float(feature_consistency(S, T).mean())
    assert float(value(rad(), T, T)) <= 1e-12


def test_the_memory_saving_form_gives_the_same() -> None:
    index = NEIGHBOURS[LABELS]
    plain, saving = relations(S, P, index), relations(S, P, index, limit=0)
    torch.testing.assert_close(plain, saving, rtol=1e-14, atol=1e-14)


def test_slots_are_drawn_anew_evenly_and_repeatably() -> None:
    index, place = torch.arange(500).unsqueeze(1), torch.arange(40)
    first = drawn_slots(index, place, torch.tensor(0), 0) % 4
    assert torch.equal(first, drawn_slots(index, place, torch.tensor(0), 0) % 4)
    for other in (drawn_slots(index, place, torch.tensor(1), 0), drawn_slots(index, place, torch.tensor(0), 1)):
        assert 0.2 < float((first == other % 4).double().mean()) < 0.3  # a quarter meet by chance
    for part in (first, first[::2], first[:, ::3]):
        assert all(abs(float((part == slot).double().mean()) - 0.25) < 0.03 for slot in range(4))
    moving = rad(slots=2)
    assert value(moving) == value(moving)
    moving.refreshed = False
    moving.teacher_bank.rows[1::2] = P.roll(1, 0)
    seen = set()
    for _ in range(4):
        seen.add(float(value(moving)))
        moving.after_step(Outputs(S), Outputs(T), BATCH)
    assert len(seen) > 1


def test_the_student_bank_follows_the_student() -> None:
    loss = rad(relation="ss")
    loss.after_step(Outputs(S), Outputs(T), BATCH)
    assert loss.student_bank is not None
    assert torch.equal(loss.student_bank.rows[0], normalize(S)[1])
    assert torch.equal(loss.teacher_bank.rows[0], normalize(T)[1])


def test_the_bank_is_state_and_the_artefacts_are_not() -> None:
    state = refreshed(slots=2).state_dict()
    assert sorted(state) == ["drawn", "teacher_bank.pointer", "teacher_bank.rows"]
    other = rad(slots=2)
    other.load_state_dict(state)
    assert close(value(other), float(value(refreshed(slots=2))))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"relation": "ts"}, "unknown relation of rad 'ts'"),
        ({"norm": "l3"}, "unknown norm of rad 'l3'"),
        ({"slot": "some"}, "unknown slot of rad 'some'"),
        ({"slots": 0}, "0 bank slots"),
        ({"momentum": 1.0}, "momentum is 1"),
    ],
)
def test_unusable_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rad(**options)


def test_unusable_labels_and_widths_are_named() -> None:
    for label in (-1, 5):
        with pytest.raises(ValueError, match=f"label {label} is outside 0..4"):
            value(rad(), batch=BATCH._replace(labels=torch.tensor([0, 0, 1, 1, 2, label])))
    loss = rad()
    loss.valid = torch.tensor([True, True, False, True, True])
    with pytest.raises(ValueError, match="label 2 has no prototype"):
        value(loss)
    for name in ("rad", "rad.inbatch"):
        with pytest.raises(UsageError, match="widths 4 .student. and 8 .teacher."):
            LOSSES[name](Dims(4, 8, 5), {}, RELATIONS)
    with pytest.raises(UsageError, match=r"unknown relation of rad.inbatch 'st\+ss'"):
        LOSSES["rad.inbatch"](Dims(8, 8, 5), {"relation": "st+ss"}, {})
