"""What is said of real files while a codec is trained."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from facekit.codec.arch import Arch
from facekit.codec.coder import Coder
from facekit.codec.export import exported
from facekit.codec.mixture import Mixture
from facekit.codec.networks import Codec
from facekit.core.device import Device
from facekit.training import codecfiles
from facekit.training.codecfiles import coded_facts, entropy

CPU = Device(torch.device("cpu"), "fp32", deterministic=True)


def images(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (64, 80, 3), np.uint8) for _ in range(count)]


def codec() -> Codec:
    torch.manual_seed(0)
    return Codec(Arch(4, 4))


def test_files_are_the_coders_and_as_large_as_estimated() -> None:
    net, given = codec(), images(2)
    found = coded_facts(net, given, CPU)
    files = [Coder(exported(net, {})).encode(image) for image in given]
    assert found["file_bpp"] == pytest.approx(np.mean([8 * len(data) / (64 * 80) for data in files]))
    assert abs(found["gap"]) < codecfiles.LARGEST_GAP and found["clipped"] == 0
    assert 1 <= found["levels"] <= 64 and 0 < found["mixture_entropy"] <= math.log2(3) + 1e-9


def test_a_coder_that_charges_too_much_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    bits = codecfiles.estimated
    monkeypatch.setattr(codecfiles, "estimated", lambda *a: bits(*a)._replace(bits_y=bits(*a).bits_y / 2))
    assert coded_facts(codec(), images(1), CPU)["gap"] > 0.1


def test_no_more_images_than_agreed() -> None:
    seen: list[int] = []

    def walked() -> object:
        for i, image in enumerate(images(codecfiles.IMAGES + 3)):
            seen.append(i)
            yield image

    coded_facts(codec(), walked(), CPU)  # type: ignore[arg-type]
    assert seen == list(range(codecfiles.IMAGES))


def test_entropy_by_hand() -> None:
    weight = np.array([[4096, 2048], [0, 2048]], np.uint16)
    assert entropy(Mixture(np.zeros_like(weight, np.int16), np.zeros_like(weight, np.uint8), weight)) == 0.5
