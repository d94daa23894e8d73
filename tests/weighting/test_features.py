"""Features by hand, over a batch cut between processes, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from facekit.weighting.average import moving_average
from facekit.weighting.base import View
from facekit.weighting.errors import SmallBatch, UnknownWeighting
from facekit.weighting.features import FEATURES, Features, Known, rarity
from tests.weighting.views import facts, in_processes, view

KNOWN = Known(torch.tensor(2.0), torch.tensor([1.0, -1.0]))
LOGITS = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0], [0.0, -2.0]])
BY_HAND = View(torch.tensor([1.0, 2.0, 6.0]), LOGITS, torch.tensor([0, 1, 1]), torch.arange(3), step=0, rate=1.0)
QUARTER = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
AXES = torch.eye(2)[[0, 0, 1]]


def of(name: str, batch: View = BY_HAND) -> torch.Tensor:
    return FEATURES[name](batch, KNOWN)


def test_what_needs_one_sample_only() -> None:
    assert of("loss").tolist() == [1, 2, 6]
    assert of("loss_abs").tolist() == [-1, 0, 4]
    assert of("label").tolist() == [1, -1, -1]
    torch.testing.assert_close(of("probs")[:2], torch.tensor([0.5, 0.25]))
    torch.testing.assert_close(of("entropy")[:2], torch.tensor([math.log(2), QUARTER]))


def test_normalised_features_have_mean_0_and_deviation_1_with_ddof_1() -> None:
    # mean 3, squared deviations 4 + 1 + 9 over 2
    expected = torch.tensor([-2.0, -1.0, 3.0]) / (math.sqrt(7) + 1e-5)
    torch.testing.assert_close(of("loss_norm"), expected)
    for name in ("loss_norm", "entropy_norm"):
        values = of(name, view(size=50))
        assert abs(values.mean()) < 1e-6
        assert abs(values.std() - 1) < 1e-4


def test_equal_losses_are_no_deviation_apart() -> None:
    assert of("loss_norm", BY_HAND._replace(loss=torch.full((3,), 2.5))).tolist() == [0, 0, 0]


def test_similarity_leaves_the_sample_itself_out_of_the_sum_but_not_of_the_count() -> None:
    torch.testing.assert_close(of("similarity", BY_HAND._replace(logits=5 * AXES)), torch.tensor([1 / 3, 1 / 3, 0]))
    batch = view(size=9)
    units = torch.nn.functional.normalize(batch.logits)
    torch.testing.assert_close(of("similarity", batch), (units @ units.T).fill_diagonal_(0).mean(dim=1))


def test_a_class_is_as_rare_as_its_rank() -> None:
    counts = torch.tensor([5, 100, 20, 20])
    torch.testing.assert_close(rarity(counts), torch.tensor([1, -1] + 2 * [2 * math.log(2) / math.log(3) - 1]))
    assert rarity(torch.tensor([7, 7, 7])).tolist() == [0, 0, 0]


def test_the_average_of_the_loss_starts_at_ln_c_and_is_that_of_the_batches_before() -> None:
    features = Features(("loss_abs",))
    features.begin(facts(classes=2))
    torch.testing.assert_close(features.of(BY_HAND)[:, 0], BY_HAND.loss - math.log(2))
    torch.testing.assert_close(features.of(BY_HAND)[:, 0], BY_HAND.loss - (0.8 * math.log(2) + 0.2 * 3))


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_broken_batch_does_not_move_an_average(broken: float) -> None:
    assert moving_average(torch.tensor(2.0), torch.tensor(broken)) == 2


def test_two_processes_see_what_one_sees() -> None:
    names = tuple(FEATURES)
    batches = [view(seed=seed) for seed in range(3)]

    def third_batch(cuts: tuple[int, ...]) -> torch.Tensor:
        choices = [Features(names) for _ in cuts]
        for features in choices:
            features.begin(facts())
        offsets = [sum(cuts[:i]) for i in range(len(cuts))]
        for batch in batches:
            parts = in_processes(lambda part: choices[offsets.index(part.own.start)].of(part), batch, cuts)
        return torch.cat(parts)

    one = third_batch((16,))
    assert one.shape == (16, len(names))
    torch.testing.assert_close(third_batch((10, 6)), one, rtol=0, atol=1e-6)


def test_one_sample_in_all_processes_together_is_refused() -> None:
    alone = view(size=1)
    for name in ("loss_norm", "entropy_norm"):
        with pytest.raises(SmallBatch, match="--batch 2") as error:
            of(name, alone)
        assert error.value.code == "AW-BATCH"
    assert len(of("loss", alone)) == 1
    halves = in_processes(lambda part: of("loss_norm", part), view(size=2), (1, 1))  # one each is enough
    assert torch.cat(halves).isfinite().all()


@pytest.mark.parametrize(
    ("names", "said"),
    [(("loss_nrom",), "loss_norm"), (("loss", "loss"), "each once"), ((), "none")],
)
def test_names_that_are_none_are_refused(names: tuple[str, ...], said: str) -> None:
    with pytest.raises(UnknownWeighting, match=said) as error:
        Features(names)
    assert error.value.code == "AW-NAME"
