"""Weights over a whole set are those of a batch that is the whole set."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from facekit.core.errors import InputError
from facekit.weighting.action import action_size, weigh
from facekit.weighting.audit import Verdicts, by_scores
from facekit.weighting.base import Facts, View
from facekit.weighting.features import FEATURES, Features
from facekit.weighting.setweights import OF_A_SET, weights_of_set

CLASSES, IMAGES = 5, 200


def some() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.multinomial(torch.tensor([1.0, 2, 3, 4, 5]), IMAGES, True, generator=generator)
    return 2 * torch.randn(IMAGES, CLASSES, generator=generator), labels


@pytest.mark.parametrize(
    "names", [*((name,) for name in OF_A_SET), ("loss_norm", "entropy_norm", "label")], ids="+".join
)
@pytest.mark.parametrize("hidden", [0, 3])
def test_a_set_is_one_batch(names: tuple[str, ...], hidden: int) -> None:
    logits, labels = some()
    facts = Facts(IMAGES, labels.bincount(minlength=CLASSES), 1, 1, 0, torch.device("cpu"))
    features = Features(names)
    features.begin(facts)
    loss = cross_entropy(logits, labels, reduction="none")
    table = features.of(View(loss, logits, labels, torch.arange(IMAGES), 0, 1.0))
    action = torch.randn(action_size(len(names), hidden), generator=torch.Generator().manual_seed(1))
    found = weights_of_set(
        by_scores(logits.numpy(), labels.numpy()), labels.numpy(), names, tuple(action.tolist()), hidden
    )
    np.testing.assert_allclose(found, weigh(table, action, hidden).numpy(), rtol=1e-4, atol=1e-5)
    assert found.std() > 0.01


def test_what_nothing_can_be_said_of_has_no_weight_and_moves_no_other() -> None:
    logits, labels = some()
    all_of_them = by_scores(logits.numpy(), labels.numpy())
    extra = Verdicts(
        *(np.append(column, blank) for column, blank in zip(all_of_them, (np.nan, np.nan, -1), strict=True))
    )
    names, action = ("loss_norm", "entropy_norm"), (-1.0, 0.5, 0.2)
    alone = weights_of_set(all_of_them, labels.numpy(), names, action, 0)
    found = weights_of_set(extra, np.append(labels.numpy(), 7), names, action, 0)
    assert np.isnan(found[-1]) and np.array_equal(found[:-1], alone)


def test_features_of_a_course_of_training_are_refused() -> None:
    logits, labels = some()
    verdicts = by_scores(logits.numpy(), labels.numpy())
    assert set(FEATURES) - set(OF_A_SET) == {"loss_abs", "similarity"}
    with pytest.raises(InputError, match="reads loss_abs and similarity, and an audit of a whole set knows loss,"):
        weights_of_set(verdicts, labels.numpy(), ("loss_abs", "loss", "similarity"), (0.0,) * 4, 0)
