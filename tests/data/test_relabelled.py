"""A source under the labels of a plan: all that is not a label is the source's own, and only its own plan fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from facekit.core.errors import ArtefactMismatch
from facekit.data.batches import Batches
from facekit.data.fingerprint import fingerprint
from facekit.data.noise import make_plan
from facekit.data.noiseplan import UnknownImages, read_plan, write_plan
from facekit.data.packing import write_pack
from facekit.data.relabelled import NO_CLASS, Relabelled, relabelled, truth_of
from facekit.data.sources import open_source, select


@pytest.fixture(params=["folder", "jpeg", "uint8", "subset", "rec"])
def clean(request: pytest.FixtureRequest, people: Path, tmp_path: Path) -> Any:
    """Sources of every build: files, packs of both kinds, a selection, records."""
    if request.param == "folder":
        return open_source(people)
    if request.param == "rec":
        return open_source(request.getfixturevalue("faces_rec"))
    write_pack(open_source(people), tmp_path / "pack", kind="jpeg" if request.param == "subset" else request.param)
    return open_source(tmp_path / "pack", min_images=2 if request.param == "subset" else 1)


def noisy(source: Any, kind: str = "sym") -> Relabelled:
    return relabelled(source, make_plan(source, kind, 0.8, 1, exclude_self=kind == "sym", imbalance=3))


def test_only_the_labels_change(clean: Any) -> None:
    for kind in ("sym", "longtail"):
        seen = noisy(clean, kind)
        rows = seen.plan.sample_id
        assert list(seen.names) == [clean.names[i] for i in rows] and len(seen) == len(rows)
        assert (seen.read(np.arange(len(seen))) == clean.read(rows)).all()
        assert [seen.encoded(i) for i in range(len(seen))] == [clean.encoded(i) for i in rows.tolist()]
        assert (seen.size, seen.kind, seen.broken, seen.identities) == (
            clean.size, clean.kind, clean.broken, clean.identities,
        )  # fmt: skip
        assert (seen.labels == seen.plan.noisy_label).all() and (seen.truth == clean.labels[rows]).all()
        mine, parents = seen.digests(np.arange(len(seen))), clean.digests(rows)
        assert (mine is None and parents is None) or (mine == parents).all()
        assert seen.notes == (*clean.notes, seen.plan.describe())
    assert (noisy(clean).labels != clean.labels).any()


def test_the_fingerprint_is_that_of_the_labels_shown(clean: Any) -> None:
    seen = noisy(clean)
    assert seen.fingerprint != clean.fingerprint
    other = relabelled(clean, make_plan(clean, "sym", 0.8, 2, exclude_self=True))
    assert other.fingerprint not in (seen.fingerprint, clean.fingerprint)
    digests = seen.digests(np.arange(len(seen)))
    if digests is not None:
        assert seen.fingerprint == fingerprint(clean.names, seen.labels, digests)


def test_classes_keep_their_numbers_and_names_when_one_is_empty(people: Path) -> None:
    source = open_source(people)
    tail = relabelled(source, make_plan(source, "longtail", imbalance=100))
    assert np.bincount(tail.labels, minlength=4).tolist() == [3, 0, 0, 0]
    assert tail.identities == ("Ann", "Bob", "Cy", "Di")


def test_a_part_of_it_still_knows_the_truth(clean: Any) -> None:
    seen = noisy(clean)
    assert truth_of(clean) is None and truth_of(seen) is seen.truth
    rows = np.arange(len(seen))[::2]
    part = select(seen, rows)
    truth = truth_of(part)
    assert truth is not None
    name = {**dict(enumerate(part.identities)), NO_CLASS: None}
    there = set(part.identities)
    assert [name[t] for t in truth.tolist()] == [
        clean.identities[t] if clean.identities[t] in there else None for t in seen.truth[rows].tolist()
    ]
    assert ((truth == part.labels) == ~seen.plan.wrong[rows]).all()
    nested = truth_of(select(part, np.arange(len(part))[1:]))
    assert nested is not None
    assert ((nested == select(part, np.arange(len(part))[1:]).labels) == ~seen.plan.wrong[rows][1:]).all()
    assert truth_of(select(clean, rows)) is None


def test_a_true_class_without_a_number_is_no_label(people: Path) -> None:
    source = open_source(people)
    plan = replace(make_plan(source, "sym", 0.0), noisy_label=np.where(source.labels == 0, 3, source.labels))
    part = select(relabelled(source, plan), np.array([0, 3, 9]))
    assert part.identities == ("Bob", "Di") and part.labels.tolist() == [1, 0, 1]
    truth = truth_of(part)
    assert truth is not None and truth.tolist() == [NO_CLASS, 0, 1]
    again = truth_of(select(part, np.array([0, 2])))
    assert again is not None and again.tolist() == [NO_CLASS, 0]


def test_batches_carry_the_labels_of_the_plan(clean: Any) -> None:
    def stay(tensor: Tensor) -> Tensor:
        return tensor

    seen = noisy(clean)
    for cache in ("ram", "none"):
        for batch in Batches(seen, batch=2, seed=1, flip=False, put=stay, cache=cache).epoch(0):
            rows = batch.index.numpy()
            assert (batch.labels.numpy() == seen.labels[rows]).all()
            assert (batch.images.permute(0, 2, 3, 1) == torch.from_numpy(clean.read(rows))).all()


def test_a_pack_of_it_holds_the_labels_shown(clean: Any, tmp_path: Path) -> None:
    seen = noisy(clean)
    write_pack(seen, tmp_path / "noisy", kind=clean.kind)
    packed = open_source(tmp_path / "noisy")
    assert (packed.labels == seen.labels).all() and packed.identities == clean.identities
    assert packed.fingerprint == seen.fingerprint and truth_of(packed) is None


def test_a_plan_fits_the_same_images_in_any_packing(people: Path, tmp_path: Path) -> None:
    write_plan(tmp_path / "plan.npz", make_plan(open_source(people), "sym", 0.8, 1))
    write_pack(open_source(people), tmp_path / "pack", kind="uint8")
    plan = read_plan(tmp_path / "plan.npz")
    folder, pack = (relabelled(open_source(path), plan) for path in (people, tmp_path / "pack"))
    assert (folder.labels == pack.labels).all() and list(folder.names) == list(pack.names)


def test_a_plan_of_a_filtered_source_fits_nothing_else(people: Path) -> None:
    sources = {
        "whole": open_source(people),
        "min": open_source(people, min_images=2),
        "take": open_source(people, take="0:2"),
    }
    plans = {name: make_plan(source, "sym", 0.5) for name, source in sources.items()}
    for name, source in sources.items():
        for made_for, plan in plans.items():
            if made_for == name:
                assert len(relabelled(source, plan)) == len(source)
                continue
            with pytest.raises(ArtefactMismatch, match="made for other images or labels") as refused:
                relabelled(source, plan)
            assert refused.value.code == "AW-HASH"


def test_another_order_or_other_labels_are_refused(people: Path, tmp_path: Path) -> None:
    lines = [f"{name}\t{label}" for name, label in zip(*listed(people), strict=True)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    (tmp_path / "b.txt").write_text("\n".join(lines[::-1]))
    one, turned = (open_source(tmp_path / name, images=people) for name in ("a.txt", "b.txt"))
    assert one.fingerprint == turned.fingerprint, "a fingerprint does not see the order"
    plan = make_plan(one, "sym", 0.5)
    with pytest.raises(ArtefactMismatch, match="the same images in another order") as refused:
        relabelled(turned, plan)
    assert refused.value.code == "AW-HASH"
    (tmp_path / "c.txt").write_text("\n".join([lines[0].replace("\t0", "\t1"), *lines[1:]]))
    with pytest.raises(ArtefactMismatch, match="other images or labels"):
        relabelled(open_source(tmp_path / "c.txt", images=people), plan)


def listed(people: Path) -> tuple[list[str], list[int]]:
    source = open_source(people)
    return list(source.names), source.labels.tolist()


def test_a_forged_plan_is_refused(people: Path) -> None:
    source = open_source(people)
    plan = make_plan(source, "sym", 0.5)
    for forged in (
        replace(plan, true_label=plan.true_label[::-1].copy()),
        replace(plan, noisy_label=plan.noisy_label + 4),
        replace(plan, noisy_label=plan.noisy_label - 4),
    ):
        with pytest.raises(ArtefactMismatch, match="not those of the data"):
            relabelled(source, forged)
    with pytest.raises(UnknownImages, match="names image 10 and there are 10"):
        relabelled(source, replace(plan, sample_id=plan.sample_id + 1))
