"""A data set of drawn people, owned by nobody: the embedded data of demo and tests."""

from __future__ import annotations

import math
import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facekit.core.errors import InputError, OutputExists
from facekit.core.files import explain_write, sync_folder, write_json
from facekit.data.decode import encode_jpeg
from facekit.data.faces import draw_person, draw_shots
from facekit.data.rendering import render

VERSION = 1
"""Raise it when the pictures change: recorded results name it."""
ROLES = ("train", "test", "dev", "train", "test", "train", "dev", "train", "test", "train")
"""By the last digit of a person's number: 50 % train, 20 % dev, 30 % test, whatever the number of people."""
PAIRS_PER_PERSON = 10
BLOCK = 8
"""Pictures rendered at once: an array takes 0.4 MB, so that a few stay in the processor's cache."""


@dataclass(frozen=True)
class Synthesis:
    """What was written."""

    identities: int
    images: int
    bytes: int
    people: dict[str, int]
    """role -> number of people"""
    pairs: dict[str, int]
    """list file -> number of pairs"""


def synthesise(
    out: Path,
    *,
    identities: int = 100,
    per_identity: int = 20,
    size: int = 112,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Synthesis:
    """Draw people into the folder ``out``, which must not exist or be empty.

    Writes ``images/<id>/<id>_NNNN.jpg``, ``pairs_dev.txt`` and ``pairs_test.txt`` (LFW's View-1 form, people disjoint
    from each other and from everybody on neither list, who are for training) and ``synth.json``. A person's pictures
    depend on the seed, the person's number and the picture's number alone. Raises OutputExists and WriteFailed.
    """
    if identities < 2 or per_identity < 2 or size < 32:
        raise InputError(
            f"{identities} people x {per_identity} images of {size} pixels: at least 2 x 2 of 32 are needed"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputExists(f"{out} exists already and is not an empty folder; name another --out")
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
    try:
        with explain_write(out):
            written = fill_folder(temporary, identities, per_identity, size, seed, progress or (lambda more: None))
            os.replace(temporary, out)
            sync_folder(out.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return written


def fill_folder(
    folder: Path, identities: int, per_identity: int, size: int, seed: int, report: Callable[[int], None]
) -> Synthesis:
    """Render everybody, then write the lists."""
    total = 0
    for number in range(identities):
        name = identity_name(number)
        (folder / "images" / name).mkdir(parents=True)
        for k, data in enumerate(pictures(seed, number, per_identity, size), 1):
            (folder / "images" / name / f"{name}_{k:04d}.jpg").write_bytes(data)
            total += len(data)
        report(per_identity)
    roles = {role: [n for n in range(identities) if ROLES[n % 10] == role] for role in ("train", "dev", "test")}
    pairs = {}
    for role in ("dev", "test"):
        text, count = pair_list(roles[role], per_identity, np.random.default_rng([seed, 4, len(role)]))
        if count:  # fewer than two people make no list
            (folder / f"pairs_{role}.txt").write_text(text)
            pairs[f"pairs_{role}.txt"] = count
    people = {role: len(members) for role, members in roles.items()}
    written = Synthesis(identities, identities * per_identity, total, people, pairs)
    write_json(
        folder / "synth.json",
        {"version": VERSION, "seed": seed, "size": size, "per_identity": per_identity, **written.__dict__},
    )
    return written


def identity_name(number: int) -> str:
    """``id_0001`` is the first."""
    return f"id_{number + 1:04d}"


def pictures(seed: int, number: int, count: int, size: int) -> Sequence[bytes]:
    """The person's pictures as JPEG."""
    person = draw_person(seed, number)
    shots = draw_shots(seed, number, count, person)
    encoded = []
    for first in range(0, count, BLOCK):
        part = shots.part(first, first + BLOCK)
        rngs = [np.random.default_rng([seed, number, 3, k]) for k in range(first, min(first + BLOCK, count))]
        noise = np.stack([rng.standard_normal((size, size, 3), np.float32) for rng in rngs])
        images = render(person, part, size, noise)
        encoded += [encode_jpeg(image, int(q)) for image, q in zip(images, part.quality, strict=True)]
    return encoded


def pair_list(members: Sequence[int], per_identity: int, rng: np.random.Generator) -> tuple[str, int]:
    """(text, pairs) of a View-1 list: N in the first line, N same pairs, N different ones, none twice."""
    people, inner = len(members), math.comb(per_identity, 2)
    between = math.comb(people, 2) * per_identity**2
    n = min(PAIRS_PER_PERSON * people, people * inner, between)
    if people < 2:
        return "", 0
    who, which = np.divmod(np.sort(rng.choice(people * inner, n, replace=False)), inner)
    first, second = (side[which] + 1 for side in np.triu_indices(per_identity, 1))
    lines = [f"{n}"]
    lines += [f"{identity_name(members[w])}\t{i}\t{j}" for w, i, j in zip(who, first, second, strict=True)]
    couple, which = np.divmod(np.sort(rng.choice(between, n, replace=False)), per_identity**2)
    left, right = (side[couple] for side in np.triu_indices(people, 1))
    for a, b, k in zip(left, right, which, strict=True):
        i, j = divmod(int(k), per_identity)
        lines.append(f"{identity_name(members[a])}\t{i + 1}\t{identity_name(members[b])}\t{j + 1}")
    return "\n".join(lines) + "\n", 2 * n
