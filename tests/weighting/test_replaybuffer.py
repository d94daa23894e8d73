"""The ring of transitions: what is kept, what a pass over it gives, what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Generator

from facekit.weighting.errors import OtherSearch
from facekit.weighting.replaybuffer import ReplayBuffer


def filled(count: int, capacity: int = 500, actions: int = 2) -> ReplayBuffer:
    """Transition i has reward i, and i + column in its state, action and following state; every third is a last one."""
    replay = ReplayBuffer(capacity, actions)
    for i in range(count):
        replay.add(
            i + torch.arange(4.0), i + torch.arange(float(actions)), float(i), -i + torch.arange(4.0), i % 3 == 2
        )
    return replay


def test_the_oldest_goes_first() -> None:
    replay = filled(500)
    assert len(replay) == 500
    assert sorted(replay.kept.reward.tolist()) == list(range(500))
    replay = filled(1_203)
    assert len(replay) == 500
    assert sorted(replay.kept.reward.tolist()) == list(range(703, 1_203))


def test_a_transition_stays_together() -> None:
    batches = list(filled(64).shuffled(32, Generator().manual_seed(0)))
    for batch in batches:
        for i, reward in enumerate(batch.reward.tolist()):
            assert batch.state[i].tolist() == [reward, reward + 1, reward + 2, reward + 3]
            assert batch.action[i].tolist() == [reward, reward + 1]
            assert batch.following[i].tolist() == [-reward, 1 - reward, 2 - reward, 3 - reward]
            assert batch.done[i] == (reward % 3 == 2)
    assert sorted(torch.cat([batch.reward for batch in batches]).tolist()) == list(range(64)), "each once"


@pytest.mark.parametrize(("count", "batches"), [(0, 0), (31, 0), (32, 1), (63, 1), (64, 2), (500, 15), (600, 15)])
def test_a_batch_that_is_not_full_is_left_out(count: int, batches: int) -> None:
    drawn = list(filled(count).shuffled(32, Generator().manual_seed(0)))
    assert [len(batch.reward) for batch in drawn] == [32] * batches
    assert len({reward for batch in drawn for reward in batch.reward.tolist()}) == 32 * batches


def test_every_pass_has_another_order_given_by_the_generator() -> None:
    replay, generator = filled(64), Generator().manual_seed(0)
    first, second = ([b.reward.tolist() for b in replay.shuffled(32, generator)] for _ in range(2))
    assert first != second
    assert first == [b.reward.tolist() for b in replay.shuffled(32, Generator().manual_seed(0))]


def test_a_restored_ring_goes_on_at_its_place() -> None:
    wanted, replay = filled(12, capacity=8), ReplayBuffer(8, 2)
    replay.load_state_dict(filled(12, capacity=8).state_dict())
    for ring in (wanted, replay):
        ring.add(torch.zeros(4), torch.zeros(2), 99.0, torch.zeros(4), False)
    assert replay.kept.reward.tolist() == wanted.kept.reward.tolist() == [8, 9, 10, 11, 99, 5, 6, 7]


@pytest.mark.parametrize(("capacity", "actions"), [(7, 2), (8, 3)])
def test_a_ring_of_other_sizes_is_refused_and_nothing_changes(capacity: int, actions: int) -> None:
    replay = filled(3, capacity=8)
    with pytest.raises(OtherSearch, match="this search needs") as error:
        replay.load_state_dict(filled(5, capacity, actions).state_dict())
    assert error.value.code == "AW-HASH"
    assert replay.added == 3
    assert replay.kept.reward.tolist() == [0, 1, 2, 0, 0, 0, 0, 0]
