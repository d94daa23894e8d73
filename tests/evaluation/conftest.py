"""Toy benchmarks: images are their own embeddings, so that every number can be computed another way."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from facekit.core.preprocess import Preprocess
from facekit.data.folds import contiguous_tenths
from facekit.data.pairs import PairSet


@dataclass
class ToySource:
    """N grey-ish 8x8 images in memory."""

    pixels: np.ndarray
    labels: np.ndarray
    size: tuple[int, int] = (8, 8)
    fingerprint: str = "f" * 64
    reads: list[int] = field(default_factory=list)

    @property
    def names(self) -> Sequence[str]:
        return [f"{i}.png" for i in range(len(self))]

    @property
    def identities(self) -> tuple[str, ...]:
        return tuple(str(i) for i in range(int(self.labels.max()) + 1))

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: np.ndarray) -> np.ndarray:
        self.reads += index.tolist()
        return self.pixels[index]


def toy_source(people: int, per_person: int, seed: int = 0, noise: float = 40.0) -> ToySource:
    rng = np.random.default_rng(seed)
    faces = rng.uniform(67, 187, (people, 8, 8, 3))
    labels = np.repeat(np.arange(people), per_person)
    pixels = np.clip(faces[labels] + rng.normal(0, noise, (len(labels), 8, 8, 3)), 0, 255).astype(np.uint8)
    return ToySource(pixels, labels)


def all_pairs(people: int = 30, per_person: int = 4, seed: int = 0, noise: float = 75.0) -> PairSet:
    source = toy_source(people, per_person, seed, noise)
    left, right = (side.astype(np.int32) for side in np.triu_indices(len(source), 1))
    same = source.labels[left] == source.labels[right]
    return PairSet(
        "allpairs:toy", "toy/pairs.txt", "a" * 64, source, left, right, same, None, "no folds", source.labels, 0, ()
    )


def pair_list(pairs: int = 200, seed: int = 0, known: bool = True, noise: float = 75.0) -> PairSet:
    """Genuine and impostor pairs in turn; ten contiguous folds."""
    source = toy_source(60, 4, seed, noise)
    rng = np.random.default_rng(seed)
    same = np.arange(pairs) % 2 == 0
    person = rng.integers(0, 60, pairs)
    other = np.where(same, person, (person + rng.integers(1, 60, pairs)) % 60)
    left, right = person * 4, other * 4 + rng.integers(1, 4, pairs)
    return PairSet(
        name="toy",
        path="toy.csv",
        sha256="b" * 64,
        source=source,
        left=left.astype(np.int32),
        right=right.astype(np.int32),
        same=same,
        fold=contiguous_tenths(pairs),
        fold_rule="contiguous tenths",
        identity=source.labels if known else None,
        failed=3,
        notes=("3 images cannot be used",),
    )


def pixels_as_embedding(images: Tensor) -> Tensor:
    """The centred pixels themselves, [n, 192]."""
    return (images.float() - 127.5).flatten(1)


@dataclass
class ToyModel:
    """What engines need of a model."""

    name: str = "toy"
    seed: int = 0
    blur: float = 0.0
    width: int = 192
    preprocess: Preprocess = field(default_factory=lambda: Preprocess(size=(8, 8), flip="none", embedding=192))
    licence: str = "unknown"
    size_bytes: int = 1000
    parameters: int = 250
    path: str = "toy.pt"
    calls: int = 0
    classes: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        return f"{self.seed}{int(100 * self.blur)}".ljust(64, "0")

    @property
    def architecture(self) -> dict[str, Any]:
        return {"name": self.name}

    def embed(self, images: Tensor) -> Tensor:
        self.calls += len(images)
        clean = pixels_as_embedding(images)
        # Noise that depends on the image alone, so that an image always gets the same embedding.
        noise = torch.sin(clean * 12.9898 + self.seed) * 74.0
        return (clean + self.blur * noise)[:, : self.width]

    def logits(self, images: Tensor) -> Tensor:
        """Inner products with the faces of ``toy_source(len(classes), ..., seed=0)``."""
        faces = np.random.default_rng(0).uniform(67, 187, (len(self.classes), 8, 8, 3)).transpose(0, 3, 1, 2)
        return self.embed(images) @ torch.from_numpy(faces - 127.5).float().flatten(1).T / 1e4

    def macs(self) -> int:
        return 12_345

    def latency_ms(self, repeats: int = 30) -> float:
        return 1.5

    def cache_key(self) -> str:
        return f"{self.sha256}-{self.preprocess.hash()}-fp32"


@pytest.fixture
def make_all_pairs() -> Callable[..., PairSet]:
    return all_pairs


@pytest.fixture
def make_pair_list() -> Callable[..., PairSet]:
    return pair_list


@pytest.fixture
def toy_model() -> type[ToyModel]:
    return ToyModel


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """24 people x 4 PNGs of 8x8 with an InsightFace-like list of 96 pairs, ``pairs.txt`` in LFW form."""
    from PIL import Image

    source = toy_source(24, 4, noise=60.0)
    for i, pixels in enumerate(source.pixels):
        file = tmp_path / "images" / f"P{source.labels[i]:02d}" / f"P{source.labels[i]:02d}_{i % 4 + 1:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    same = [f"P{p:02d}\t{a}\t{a + 1}" for p in range(24) for a in (1, 3)]
    different = [f"P{p:02d}\t{a}\tP{(p + 1 + 5 * a) % 24:02d}\t{a}" for p in range(24) for a in (1, 2)]
    (tmp_path / "pairs.txt").write_text("\n".join(["48", *same, *different]) + "\n")
    return tmp_path


VOID = {"meta", "br", "img", "link", "hr", "input"}


class Page(HTMLParser):
    """Checks nesting, collects attributes, ids and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    def check_that_it_is_whole_and_fetches_nothing(self) -> None:
        text = re.sub(r"data:image/jpeg;base64,[A-Za-z0-9+/=]*", "data:", self.source)
        assert self.open == []
        assert "http" not in text and "//" not in re.sub(r"</?\w", "", text).replace("<!--", "")
        assert not [k for k, _ in self.attributes if k in ("srcset", "onload", "onclick")]
        assert all((v or "").startswith("data:image/jpeg;base64,") for k, v in self.attributes if k == "src")
        assert all((v or "").startswith("#") for k, v in self.attributes if k in ("href", "xlink:href"))
        assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
        ids = [v for k, v in self.attributes if k == "id"]
        assert len(ids) == len(set(ids)) and ids
        assert set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", text)) <= set(ids)


@pytest.fixture
def parse_page() -> type[Page]:
    return Page
