"""The swap certificate's work after embedding, on made-up embeddings of the size of LFW's test people."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import numpy as np

from facekit.core.device import Device
from facekit.core.preprocess import Preprocess
from facekit.data.pairs import PairSet
from facekit.evaluation.page import Cost, render
from facekit.evaluation.results import command_line, describe_benchmark, describe_environment
from facekit.evaluation.swap import certify
from facekit.evaluation.verdict import judge
from facekit.models import build_backbone
from facekit.models.loading import Model, frozen_model

PEOPLE, IMAGES = 963, 2186


@dataclass
class MadeUpSource:
    """Images that nobody reads."""

    names: list[str] = field(default_factory=lambda: [f"{i}.jpg" for i in range(IMAGES)])
    labels: np.ndarray = field(default_factory=lambda: np.arange(IMAGES))
    identities: tuple[str, ...] = ()
    size: tuple[int, int] = (112, 112)
    fingerprint: str = "0" * 64

    def __len__(self) -> int:
        return IMAGES

    def read(self, index: np.ndarray) -> np.ndarray:
        """Never called: the embeddings exist already."""
        raise RuntimeError("nothing is embedded in this bench")


@cache
def benchmark() -> tuple[PairSet, np.ndarray, np.ndarray]:
    """All pairs of 963 people (half of them with one image), and two models' unit embeddings of them."""
    rng = np.random.default_rng(0)
    extra = rng.choice(PEOPLE // 2, IMAGES - PEOPLE)
    identity = np.sort(np.concatenate([np.arange(PEOPLE), extra]))
    left, right = (index.astype(np.int32) for index in np.triu_indices(IMAGES, 1))
    centres = rng.normal(size=(PEOPLE, 128))
    old = centres[identity] + 0.7 * rng.normal(size=(IMAGES, 128))
    new = old + 0.6 * rng.normal(size=(IMAGES, 128))
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (old, new)]
    same = identity[left] == identity[right]
    pairs = PairSet(
        "made-up", "made-up.txt", "0" * 64, MadeUpSource(), left, right, same, None, "none", identity, 0, ()
    )  # fmt: skip
    return pairs, units[0], units[1]


@cache
def models() -> tuple[Model, Model]:
    """Untrained networks for the cost lines."""
    device = Device.pick("cpu", "fp32")
    return tuple(  # type: ignore[return-value]
        frozen_model(
            build_backbone(name, 128), {"name": name, "embedding": 128}, Preprocess(embedding=128), device, "none", name
        )
        for name in ("mbf_s1", "mbf_half")
    )


def certificate_page() -> int:
    """Certificate, verdict, costs and page, written to memory; returns its bytes."""
    pairs, old, new = benchmark()
    certificate = certify(old, new, pairs, threshold=None, at_far=1e-3, tolerance=0.02, draws=1000, seed=0)
    costs = [
        Cost(role, model, 128, model.macs(), model.latency_ms(30))
        for role, model in zip(("old", "new"), models(), strict=True)
    ]
    environment = describe_environment(Device.pick("cpu", "fp32").describe())
    page = render(certificate, judge(certificate), costs, describe_benchmark(pairs), environment, command_line())
    return len(page.encode())
