"""What class scores say of labels, against loops over single images and cases done by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from facekit.weighting import audit
from facekit.weighting.audit import SCALE, Verdicts, by_centres, by_scores


def rows_of(vectors: np.ndarray) -> audit.Rows:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return lambda at: unit[at]


def one_by_one(vectors: np.ndarray, labels: np.ndarray) -> Verdicts:
    """The definition, image by image: its centre is the mean of the others of its class."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    classes = sorted(set(labels.tolist()))
    found = []
    for i, label in enumerate(labels.tolist()):
        if (labels == label).sum() == 1:
            found.append((math.nan, math.nan, -1))
            continue
        logits = []
        for c in classes:
            others = [unit[j] for j in range(len(labels)) if labels[j] == c and j != i]
            centre = np.mean(others, axis=0)
            logits.append(SCALE * float(unit[i] @ centre / np.linalg.norm(centre)))
        p = np.exp(np.array(logits) - max(logits))
        p /= p.sum()
        found.append((-math.log(p[classes.index(label)]), -float((p * np.log(p)).sum()), classes[int(np.argmax(p))]))
    loss, entropy, favoured = zip(*found, strict=True)
    return Verdicts(np.array(loss), np.array(entropy), np.array(favoured))


def faces(people: int, width: int, seed: int, noise: float = 0.35) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings around random centres, and labels in mixed order; person 1 has a single image."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.concatenate([np.repeat(np.arange(people), 5), [people]]))
    centres = rng.normal(size=(people + 1, width))
    return centres[labels] / math.sqrt(width) + noise * rng.normal(size=(len(labels), width)) / math.sqrt(width), labels


@pytest.mark.parametrize("cells", [1, 40, audit._CELLS])
def test_scores_of_centres_are_the_definition(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_CELLS", cells * 512)
    vectors, labels = faces(7, 24, 0, noise=1.0)
    found, wanted = by_centres(rows_of(vectors), labels), one_by_one(vectors, labels)
    np.testing.assert_allclose(found.loss, wanted.loss, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.entropy, wanted.entropy, rtol=1e-9, atol=1e-9)
    assert np.array_equal(found.favoured, wanted.favoured)
    assert found.judged.sum() == len(labels) - 1
    assert 0 < (found.favoured != labels)[found.judged].sum() < len(labels), "some are favoured elsewhere, not all"


def test_an_image_does_not_vouch_for_itself() -> None:
    vectors = np.array([[1.0, 0], [0, 1], [0, 1], [0, 1]])
    found = by_centres(rows_of(vectors), np.array([0, 0, 1, 1]))
    # Of class 0, (1,0) has the centre (0,1) left, as class 1 has: equal scores, the lower class is named.
    assert found.loss[0] == pytest.approx(math.log(2)) and found.entropy[0] == pytest.approx(math.log(2))
    assert found.favoured.tolist() == [0, 1, 1, 1]
    assert found.loss[1] == pytest.approx(SCALE, rel=1e-9), "its own centre (1,0) has cosine 0, the other 1"
    assert found.loss[2] == pytest.approx(math.log1p(math.exp(SCALE * (math.sqrt(0.5) - 1))), rel=1e-6)


def test_labels_without_images_are_no_candidates() -> None:
    vectors, labels = faces(4, 16, 1)
    dense, spread = by_centres(rows_of(vectors), labels), by_centres(rows_of(vectors), 10 * labels)
    assert np.array_equal(dense.loss, spread.loss, equal_nan=True)
    assert np.array_equal(np.where(dense.judged, 10 * dense.favoured, -1), spread.favoured)


def test_embeddings_that_cancel_out_say_nothing_for_the_class() -> None:
    vectors = np.array([[1.0, 0], [1, 0], [-1, 0], [0, 1], [0, 1]])
    found = by_centres(rows_of(vectors), np.array([0, 0, 0, 1, 1]))
    # The others of image 0 are (1,0) and (-1,0): a centre of length 0, cosine 0, as to class 1.
    assert found.loss[0] == pytest.approx(math.log(2)) and np.isfinite(found.loss).all()


def test_a_networks_own_scores() -> None:
    scores = np.array([[0.0, 0.0, -np.inf], [3, 1, 2], [1e4, 0, 0]], np.float32)
    scores[0, 2] = -1e4
    found = by_scores(scores, np.array([1, 2, 1]))
    p = np.exp([0.0, -2, -1]) / np.exp([0.0, -2, -1]).sum()
    np.testing.assert_allclose(found.loss, [math.log(2), -math.log(p[2]), 1e4], rtol=1e-12)
    np.testing.assert_allclose(found.entropy, [math.log(2), -(p * np.log(p)).sum(), 0], rtol=1e-12, atol=1e-12)
    assert found.favoured.tolist() == [0, 0, 0]


def test_small_losses_are_told_apart() -> None:
    """In float32 both would be 0, and an order of the good images a tie."""
    loss = by_scores(np.array([[20.0, 0], [25, 0]], np.float32), np.array([0, 0])).loss
    np.testing.assert_allclose(loss, np.log1p(np.exp([-20.0, -25])), rtol=1e-5)
