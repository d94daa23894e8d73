"""A verification set from a folder of people: which pairs to test.

As many genuine as impostor pairs in every fold; folds share no person, so an impostor pair is of two people of one
fold. No pair comes twice, and none compares a picture with its copy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facekit.core.errors import InputError
from facekit.data.protocol import Store


@dataclass(frozen=True)
class PairChoice:
    """P pairs, fold after fold, genuine and impostor ones in turn."""

    left: np.ndarray
    """int64 [P], position in the source"""
    right: np.ndarray
    """int64 [P]"""
    same: np.ndarray
    """bool [P]"""
    fold: np.ndarray
    """int64 [P]"""
    copies: int
    """Images left out as copies of another of the same person."""
    doubtful: int
    """Images left out because the same file shows two people."""
    limit: str | None
    """Why there are fewer pairs than asked for; None where there are as many."""


def choose_pairs(source: Store, *, pairs: int, folds: int, per_person: int, seed: int) -> PairChoice:
    """Choose at most ``pairs`` pairs, half of them of one person, at most ``per_person`` genuine pairs of each.

    Everybody's share is as equal as their images allow, and the folds are of one size. Raises InputError where the
    people do not suffice for the folds.
    """
    rng = np.random.default_rng(seed)
    rows, copies, doubtful = distinct_images(source)
    people = People.of(rows, source.labels[rows])
    inner = people.count * (people.count - 1) // 2
    capped = np.minimum(inner, per_person)
    fold_of = deal(capped, folds, rng)
    possible = [fold_capacity(people.count[fold_of == k], capped[fold_of == k]) for k in range(folds)]
    asked = pairs // (2 * folds)
    each = min(asked, *(min(p) for p in possible))
    if each == 0:
        raise InputError(
            f"{len(people.count)} people, {int((inner > 0).sum())} of them with two different images, are too few for "
            f"{folds} folds that share nobody: every fold needs two people, one of them with two images; "
            "lower --folds, or add people"
        )
    parts = [fold_pairs(people, np.flatnonzero(fold_of == k), capped, each, rng) for k in range(folds)]
    left, right = np.concatenate(parts).reshape(-1, 2).T
    swap = rng.random(len(left)) < 0.5  # else the left one would always be the earlier
    return PairChoice(
        left=np.where(swap, right, left),
        right=np.where(swap, left, right),
        same=np.tile([True, False], folds * each),
        fold=np.repeat(np.arange(folds), 2 * each),
        copies=copies,
        doubtful=doubtful,
        limit=None if each == asked else limit(inner, capped, per_person, possible),
    )


def limit(inner: np.ndarray, capped: np.ndarray, per_person: int, possible: list[tuple[int, int]]) -> str:
    """What there would have to be more of. ``inner``: genuine pairs of each person, ``capped``: those allowed."""
    single = int((inner == 0).sum())
    genuine, impostor = (min(kind) for kind in zip(*possible, strict=True))
    if impostor < genuine:
        return f"the people of one fold have images for {impostor} impostor pairs only; lower --folds, or add people"
    found = f"{len(inner)} people, {single} of them with one image only, have {int(capped.sum())} same-person pairs"
    if (inner > capped).any():
        return f"{found} at --per-person {per_person}; raise it, or add images of more people"
    return f"{found}; add images"


def distinct_images(source: Store) -> tuple[np.ndarray, int, int]:
    """(images worth comparing, int64 [n]; copies left out; doubtful ones left out).

    Of files with equal bytes the first counts; where they lie under two people at least one label is wrong, and none
    of them counts. Raises InputError where the files are gone.
    """
    digests = source.digests(np.arange(len(source))) if source.kind == "jpeg" else None
    if digests is None:
        raise InputError("the data holds pixels, its image files are gone; give the image files themselves")
    _, content = np.unique(np.ascontiguousarray(digests).view("V32").ravel(), return_inverse=True)
    order = np.lexsort((np.arange(len(content)), content))
    starts = np.flatnonzero(np.diff(content[order], prepend=-1))
    lowest, highest = (ufunc.reduceat(source.labels[order], starts) for ufunc in (np.minimum, np.maximum))
    clear = lowest == highest
    rows = np.sort(order[starts][clear])
    doubtful = int(np.diff(starts, append=len(order))[~clear].sum())
    return rows, len(content) - doubtful - len(rows), doubtful


@dataclass(frozen=True)
class People:
    """The images of each person, side by side."""

    rows: np.ndarray
    """int64 [n], position in the source"""
    start: np.ndarray
    """int64 [people], where a person's images begin in ``rows``"""
    count: np.ndarray
    """int64 [people]"""

    @staticmethod
    def of(rows: np.ndarray, labels: np.ndarray) -> People:
        """Group ``rows`` by their labels."""
        _, start, count = np.unique(np.sort(labels), return_index=True, return_counts=True)
        return People(rows[np.argsort(labels, kind="stable")], start, count)


def deal(capped: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Everybody's fold, int64 [people]: dealt to and fro, those with most genuine pairs first, equals in any order."""
    mixed = rng.permutation(len(capped))
    order = mixed[np.argsort(-capped[mixed], kind="stable")]
    lap, place = np.divmod(np.arange(len(order)), folds)
    fold = np.empty(len(order), np.int64)
    fold[order] = np.where(lap % 2, folds - 1 - place, place)
    return fold


def fold_capacity(count: np.ndarray, capped: np.ndarray) -> tuple[int, int]:
    """(genuine, impostor) pairs that the people of one fold can give."""
    return int(capped.sum()), int((count.sum() ** 2 - (count**2).sum()) // 2)


def fold_pairs(
    people: People, members: np.ndarray, capped: np.ndarray, each: int, rng: np.random.Generator
) -> np.ndarray:
    """``each`` genuine and ``each`` impostor pairs of a fold in turn, int64 [each,2,2]."""
    shares = share_out(each, capped[members], rng)
    genuine = [pairs_of_one(people, who, k, rng) for who, k in zip(members, shares, strict=True) if k]
    couples = len(members) * (len(members) - 1) // 2
    drawn = below_diagonal(rng.choice(couples, min(each, couples), replace=False))
    one, other = members[drawn[:, 0]], members[drawn[:, 1]]
    shares = share_out(each, people.count[one] * people.count[other], rng)
    impostor = [pairs_of_two(people, a, b, k, rng) for a, b, k in zip(one, other, shares, strict=True) if k]
    return np.stack([rng.permutation(np.concatenate(part)) for part in (genuine, impostor)], axis=1)


def pairs_of_one(people: People, who: int, k: int, rng: np.random.Generator) -> np.ndarray:
    """``k`` different pairs of images of one person, int64 [k,2]."""
    n = people.count[who]
    return people.rows[people.start[who] + below_diagonal(rng.choice(n * (n - 1) // 2, k, replace=False))]


def pairs_of_two(people: People, one: int, other: int, k: int, rng: np.random.Generator) -> np.ndarray:
    """``k`` different pairs of an image of one and an image of the other person, int64 [k,2]."""
    i, j = np.divmod(rng.choice(people.count[one] * people.count[other], k, replace=False), people.count[other])
    return people.rows[np.stack([people.start[one] + i, people.start[other] + j], axis=1)]


def share_out(total: int, capacity: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """``total`` items as equally as capacities allow, int64 [n]; who gets one more than others is drawn.

    5 items over capacities 1, 9, 9 are 1, 2, 2. The capacities hold ``total`` or more.
    """
    low, high = 0, int(capacity.max())
    while low < high:  # the highest level to which all can be filled
        level = (low + high + 1) // 2
        low, high = (level, high) if np.minimum(capacity, level).sum() <= total else (low, level - 1)
    shares = np.minimum(capacity, low)
    shares[rng.choice(np.flatnonzero(capacity > low), total - int(shares.sum()), replace=False)] += 1
    return shares


def below_diagonal(k: np.ndarray) -> np.ndarray:
    """The k-th of the pairs (0,1), (0,2), (1,2), (0,3) ..., int64 [n,2]."""
    b = ((1 + np.sqrt(8.0 * k + 1)) // 2).astype(np.int64)
    b -= b * (b - 1) // 2 > k  # the root may be rounded up or down
    b += b * (b + 1) // 2 <= k
    return np.stack([k - b * (b - 1) // 2, b], axis=1)
