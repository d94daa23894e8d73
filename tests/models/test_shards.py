"""PartialFC shards: who holds which rows, there and back bit for bit, and a run that really goes on elsewhere."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from facekit.core.checkpoints import read_tensors, write_tensors, write_torch
from facekit.core.errors import CorruptFile, InputError, MissingFile
from facekit.models import HEADS
from facekit.models.shards import load_head, merge, read_rows, rows_of, shards


@given(classes=st.integers(1, 400), world=st.integers(1, 40))
def test_rows_of_all_ranks_are_partialfcs(classes: int, world: int) -> None:
    end = 0
    for rank in range(world):
        part = rows_of(classes, world, rank)
        # partial_fc_v2.py: num_local and class_start
        assert part.stop - part.start == classes // world + int(rank < classes % world)
        assert part.start == classes // world * rank + min(rank, classes % world) == end
        end = part.stop
    assert end == classes


def head_rows(classes: int = 23, width: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    names = ("weight", "momentum_buffer")
    return {name: torch.randn(classes, width, generator=generator) for name in names}


def bare_shards(folder: Path, weight: Tensor, world: int) -> list[Path]:
    """softmax_fc_gpu_{r}.pt as earlier versions of arcface_torch wrote them."""
    parts = torch.split(weight, [len(weight) // world + (r < len(weight) % world) for r in range(world)])
    folder.mkdir()
    for rank, part in enumerate(parts):
        torch.save({"weight": part.clone()}, folder / f"softmax_fc_gpu_{rank}.pt")
    return [folder / f"softmax_fc_gpu_{rank}.pt" for rank in range(world)]


def write_all(folder: Path, head: dict[str, Tensor], world: int, frame: Mapping[str, Any] | None = None) -> list[Path]:
    return [write_torch(folder / name, content) for name, content in shards(head, world, frame)]


# --- there and back --------------------------------------------------------------------------------------


def test_three_shards_to_eight_and_back_are_bit_equal_in_any_order(tmp_path: Path) -> None:
    weight = head_rows()["weight"]
    paths = bare_shards(tmp_path / "three", weight, 3)
    random.Random(0).shuffle(paths)
    head = merge(paths)
    assert list(head) == ["weight"] and torch.equal(head["weight"], weight)
    eight = write_all(tmp_path / "eight", head, 8)
    assert [p.name for p in eight] == [f"softmax_fc_gpu_{r}.pt" for r in range(8)]
    assert torch.equal(merge(eight)["weight"], weight)
    one = write_tensors(tmp_path / "head.safetensors", head)
    assert torch.equal(read_rows(one)["weight"], weight)


def test_rank_ten_comes_after_rank_nine(tmp_path: Path) -> None:
    weight = head_rows(classes=25)["weight"]
    paths = bare_shards(tmp_path / "many", weight, 12)
    assert torch.equal(merge(sorted(paths, key=str))["weight"], weight)


def test_shards_are_what_partialfc_loads_and_no_larger_than_their_rows(tmp_path: Path) -> None:
    class PartialFC(nn.Module):
        def __init__(self, rows: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(rows, 64))

    head = {"weight": torch.randn(1000, 64)}
    paths = write_all(tmp_path, head, 8)
    assert all(p.stat().st_size < 125 * 64 * 4 + 2000 for p in paths)  # a view would be saved with all 1000 rows
    for rank, path in enumerate(paths):
        module = PartialFC(125)
        module.load_state_dict(torch.load(path, weights_only=True))
        assert torch.equal(module.weight, head["weight"][rows_of(1000, 8, rank)])


# --- whole checkpoints -----------------------------------------------------------------------------------


class Run:
    """One rank of arcface_torch in small: a network and its rows of the head, one optimiser, the head last."""

    def __init__(self, rows: Tensor, optimiser: str = "sgd") -> None:
        torch.manual_seed(3)
        self.backbone, self.head = nn.Linear(4, 4), nn.Module()
        self.head.weight = nn.Parameter(rows.clone())
        groups = [{"params": self.backbone.parameters()}, {"params": self.head.parameters()}]
        self.optimiser: torch.optim.Optimizer
        if optimiser == "sgd":
            self.optimiser = torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=5e-4)
        else:
            self.optimiser = torch.optim.AdamW(groups, lr=0.1)

    def step(self, gradient: Tensor) -> None:
        """The same gradient of the network on all ranks, as DDP gives; of the head its own rows."""
        self.backbone(torch.ones(1, 4)).sum().backward()
        self.head.weight.grad = gradient.clone()  # type: ignore[union-attr]
        self.optimiser.step()
        self.optimiser.zero_grad()

    def state(self) -> dict[str, Any]:
        return {
            "epoch": 2,
            "global_step": 7,
            "state_dict_backbone": self.backbone.state_dict(),
            "state_dict_softmax_fc": self.head.state_dict(),
            "state_optimizer": self.optimiser.state_dict(),
            "state_lr_scheduler": {"max_steps": 100, "_last_lr": [0.1, 0.1]},
        }

    def load(self, state: dict[str, Any]) -> None:
        self.backbone.load_state_dict(state["state_dict_backbone"])
        self.head.load_state_dict(state["state_dict_softmax_fc"])
        self.optimiser.load_state_dict(state["state_optimizer"])


def trained_ranks(weight: Tensor, gradient: Tensor, world: int, optimiser: str) -> list[Run]:
    parts = [rows_of(len(weight), world, rank) for rank in range(world)]
    ranks = [Run(weight[part], optimiser) for part in parts]
    for run, part in zip(ranks, parts, strict=True):
        run.step(gradient[part])
    return ranks


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_a_run_on_three_gpus_goes_on_on_five(optimiser: str, tmp_path: Path) -> None:
    weight, gradient = head_rows().values()
    three = trained_ranks(weight, gradient, 3, optimiser)
    paths = []
    for rank, run in enumerate(three):
        paths.append(tmp_path / f"checkpoint_gpu_{rank}.pt")
        torch.save(run.state(), paths[-1])
    head = merge(paths)
    assert set(head) == {"weight"} | ({"momentum_buffer"} if optimiser == "sgd" else {"exp_avg", "exp_avg_sq"})
    frame, _ = read_tensors(paths[1])
    five = []
    for rank, path in enumerate(write_all(tmp_path / "five", head, 5, frame)):
        assert path.name == f"checkpoint_gpu_{rank}.pt"
        state = torch.load(path, weights_only=True)
        assert state["epoch"] == 2 and state["state_lr_scheduler"] == {"max_steps": 100, "_last_lr": [0.1, 0.1]}
        run = Run(torch.zeros_like(weight[rows_of(23, 5, rank)]), optimiser)
        run.load(state)
        run.step(gradient[rows_of(23, 5, rank)].flip(1))
        five.append(run)
    for rank, run in enumerate(three):
        run.step(gradient[rows_of(23, 3, rank)].flip(1))
    assert torch.equal(torch.cat([r.head.weight for r in five]), torch.cat([r.head.weight for r in three]))  # type: ignore[misc]
    assert torch.equal(five[4].backbone.weight, three[0].backbone.weight)


def test_before_the_first_step_there_is_nothing_to_move(tmp_path: Path) -> None:
    run = Run(torch.ones(4, 4))
    torch.save(run.state(), tmp_path / "checkpoint_gpu_0.pt")
    assert list(merge([tmp_path / "checkpoint_gpu_0.pt"])) == ["weight"]
    ((_, content),) = shards({"weight": torch.zeros(4, 4)}, 1, run.state())
    assert not content["state_dict_softmax_fc"]["weight"].any() and content["state_optimizer"]["state"] == {}


def test_an_optimiser_that_is_not_torchs_is_left_where_it_is(tmp_path: Path) -> None:
    for stored in (None, [], {"state": {}}, {"state": {}, "param_groups": []}, {"state": 3, "param_groups": [1]}):
        state = {**Run(torch.ones(4, 4)).state(), "state_optimizer": stored}
        torch.save(state, tmp_path / "checkpoint_gpu_0.pt")
        assert list(read_rows(tmp_path / "checkpoint_gpu_0.pt")) == ["weight"]
        with pytest.raises(InputError, match="no state_optimizer"):
            list(shards({"weight": torch.ones(4, 4)}, 2, state))


# --- refusals --------------------------------------------------------------------------------------------


def test_missing_double_and_nameless_ranks_are_explained(tmp_path: Path) -> None:
    paths = bare_shards(tmp_path / "three", head_rows()["weight"], 3)
    with pytest.raises(InputError, match="not rank 1: give the shards of all ranks"):
        merge([paths[0], paths[2]])
    with pytest.raises(InputError, match="are both rank 1"):
        merge([*paths, tmp_path / "elsewhere" / "checkpoint_gpu_1.pt"])
    with pytest.raises(InputError, match="does not name its rank"):
        merge([tmp_path / "head.pt"])
    with pytest.raises(MissingFile):
        merge([tmp_path / "softmax_fc_gpu_0.pt"])


def test_shards_that_do_not_fit_are_explained(tmp_path: Path) -> None:
    weight = head_rows(classes=11)["weight"]
    four = bare_shards(tmp_path / "four", weight, 4)  # 3 + 3 + 3 + 2 rows
    torch.save({"weight": weight[:1].clone()}, four[2])
    with pytest.raises(InputError, match=r"gpu_1.pt holds 3 rows, but of 7 classes rank 1 of 3 has 2: a shard is"):
        merge(four[:3])
    torch.save({"weight": torch.zeros(3, 5)}, four[2])
    with pytest.raises(InputError, match="5 wide"):
        merge(four)
    run = Run(weight[:3])
    run.step(weight[:3])
    torch.save(run.state(), four[2])
    with pytest.raises(InputError, match="holds momentum_buffer, weight, but .* weight: not of one save"):
        merge(four)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"fc.weight": torch.zeros(3, 4)}, "no weight"),
        ({"weight": torch.zeros(3)}, r"a weight of shape \[3\]"),
        ({"weight": torch.zeros(0, 4)}, r"a weight of shape \[0, 4\]"),
        ({"weight": "x"}, "no weight"),
        ({"state_dict_softmax_fc": 3}, "no weight"),
        ({"weight": torch.zeros(1, 1).expand(10**9, 512)}, "holds fewer values"),
        ({"weight": torch.full((3, 4), float("nan"))}, "not finite"),
        ({"weight": torch.zeros(3, 4).to_sparse()}, "not a plain dense tensor"),
    ],
)
def test_what_is_no_head_is_refused(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "softmax_fc_gpu_0.pt"
    torch.save(content, path)
    with pytest.raises(InputError, match=message):
        read_rows(path)


def test_hostile_and_broken_files_are_refused(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            import os

            return os.system, ("exit 1",)

    path = tmp_path / "softmax_fc_gpu_0.pt"
    torch.save({"weight": Runs()}, path)
    with pytest.raises(InputError, match="not a plain file of weights"):
        read_rows(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CorruptFile):
        read_rows(path)


def test_more_ranks_than_classes_and_a_foreign_frame_are_refused() -> None:
    head = {"weight": torch.zeros(3, 4)}
    with pytest.raises(InputError, match="3 classes cannot be cut into 4"):
        list(shards(head, 4))
    with pytest.raises(InputError, match="no state_dict_softmax_fc of width 4"):
        list(shards(head, 2, {"state_dict_backbone": {}}))
    with pytest.raises(InputError, match="no state_dict_softmax_fc of width 4"):
        list(shards(head, 2, Run(torch.zeros(3, 5)).state()))


# --- a head to train -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(HEADS))
def test_a_head_starts_from_stored_rows_if_they_fit(name: str, tmp_path: Path) -> None:
    rows = head_rows(classes=5, width=8)
    path = write_tensors(tmp_path / "head.safetensors", rows)
    head = HEADS[name](8, 5)
    load_head(head, path)
    assert torch.equal(head.weight, rows["weight"]) and head.weight.requires_grad
    for wrong in (HEADS[name](8, 6), HEADS[name](4, 5)):
        before = wrong.weight.detach().clone()
        with pytest.raises(InputError, match=r"5 classes of width 8, but this run has \d identities"):
            load_head(wrong, path)
        assert torch.equal(wrong.weight, before)
