"""A weighter as text becomes that weighter, or a sentence that says what there is."""

from __future__ import annotations

import inspect
from typing import ClassVar

import pytest
import torch

from facekit import weighting
from facekit.weighting.base import Weighter
from facekit.weighting.errors import OutOfRange, UnknownWeighting
from facekit.weighting.fixed import Fixed
from facekit.weighting.naming import build_weighter, parse, read, typed_settings
from facekit.weighting.random_schedule import RandomSchedule


class Rule(Weighter):
    """One setting of every type."""

    seen: ClassVar[tuple[object, ...]] = ()

    def __init__(
        self,
        path: str,
        tau: float = 0.4,
        epochs: int = 10,
        hard: bool = True,
        action: tuple[float, ...] = (),
        widths: tuple[int, ...] = (),
    ) -> None:
        self.seen = (path, tau, epochs, hard, action, widths)


@pytest.fixture
def rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(weighting.WEIGHTERS, "rule", Rule)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("uniform", ("uniform", {})),
        ("small_loss:tau=0.3,epochs=10", ("small_loss", {"tau": "0.3", "epochs": "10"})),
        ("fixed:action=-2/0/0", ("fixed", {"action": "-2/0/0"})),
        ("law:runs/a=b,c/policy.json", ("law", {"policy": "runs/a=b,c/policy.json"})),
        ("law:policy=C:/p.json", ("law", {"policy": "C:/p.json"})),
        ("rule:path=a=b", ("rule", {"path": "a=b"})),
    ],
)
def test_names_and_settings(text: str, expected: tuple[str, dict[str, str]]) -> None:
    assert parse(text) == expected


def test_every_type_of_setting(rule: None) -> None:
    built = build_weighter("rule:path=x y,tau=1e-3,epochs=7,hard=false,action=-2/0/0.5,widths=16/32")
    assert isinstance(built, Rule)
    assert built.seen == ("x y", 0.001, 7, False, (-2.0, 0.0, 0.5), (16, 32))


def test_what_is_not_given_keeps_its_default(rule: None) -> None:
    built = build_weighter("rule:path=p")
    assert isinstance(built, Rule)
    assert built.seen == ("p", 0.4, 10, True, (), ())


def test_settings_reach_the_real_rules() -> None:
    fixed = build_weighter("fixed:action=1/2,features=entropy,warm_up=0.25")
    assert isinstance(fixed, Fixed)
    assert (fixed.chosen.tolist(), fixed.features.names, fixed.warm_up) == ([1, 2], ("entropy",), 0.25)
    drawn = build_weighter("random:seed=3,stages=5,features=loss_norm/label")
    assert isinstance(drawn, RandomSchedule)
    assert torch.equal(drawn.schedule, RandomSchedule(3, 5, features=("loss_norm", "label")).schedule)


@pytest.mark.parametrize("name", weighting.WEIGHTERS)
def test_every_setting_of_every_weighter_can_be_written(name: str) -> None:
    examples = {int: "3", float: "0.3", bool: "true", str: "a", tuple[float, ...]: "1/2", tuple[str, ...]: "a/b"}
    for setting, parameter in inspect.signature(weighting.WEIGHTERS[name], eval_str=True).parameters.items():
        read(name, setting, examples[parameter.annotation], parameter.annotation)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("unifrom", "Did you mean 'uniform'.*Choose from: uniform, clean_only"),
        ("", "Choose from: uniform"),
        ("rule:path=p,tua=1", "Did you mean 'tau'.*path, tau, epochs, hard, action, widths"),
        ("uniform:tau=1", "uniform: it has no settings"),
        ("rule:tau=1", "rule needs path"),
        ("law", "law needs policy"),
        ("law:", "law needs policy"),
        ("rule:path", "'path' is no setting.*rule:NAME=VALUE"),
        ("rule:", "is no setting"),
        ("rule:path=p,path=q", "'path' is given twice"),
    ],
)
def test_names_that_do_not_exist_are_refused(text: str, said: str, rule: None) -> None:
    with pytest.raises(UnknownWeighting, match=said) as error:
        build_weighter(text)
    assert (error.value.code, error.value.exit_code) == ("AW-NAME", 2)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("epochs=1.5", "a whole number"),
        ("tau=much", "tau is 'much', expected a number"),
        ("hard=1", "true or false"),
        ("action=1/", "numbers as"),
        ("widths=1/x", "whole numbers as"),
    ],
)
def test_values_of_another_type_are_refused(setting: str, said: str, rule: None) -> None:
    with pytest.raises(OutOfRange, match=said) as error:
        build_weighter(f"rule:path=p,{setting}")
    assert (error.value.code, error.value.exit_code) == ("AW-RANGE", 2)


def test_settings_of_anything_that_is_built() -> None:
    def focal(network: torch.nn.Module, gamma: float = 2.0) -> None:
        """Not a weighter, and not built from text alone."""

    assert typed_settings("focal", {"gamma": "1"}, focal) == {"gamma": 1.0}
    assert typed_settings("focal", {}, focal) == {}
    with pytest.raises(UnknownWeighting, match=r"unknown setting 'network'.*Choose from: gamma\."):
        typed_settings("focal", {"network": "r50"}, focal)
