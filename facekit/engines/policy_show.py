"""``facekit autoweight show``: what a weighting policy does, stage by stage, as figures and as a table."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from rich.table import Table

from facekit.configs import PolicyShowConfig
from facekit.core.errors import InputError
from facekit.core.files import plain
from facekit.core.reporting import printable, result_screen, say
from facekit.evaluation.screen import plain_table
from facekit.evaluation.weightfigures import PolicyDrawing, StageMap, write_policy_figures
from facekit.weighting.action import weigh
from facekit.weighting.policy import Moment, Policy, read_policy

SCHEMA = "facekit.policy-show/1"
GRID = np.linspace(-3, 3, 61)
"""Of both axes: standard deviations where a feature is normalised."""
POINTS = (-1.0, 0.0, 1.0, 2.0)
"""Of the first feature, where the table tells the weight."""
MOST_PARTS = 6
"""Numbers of an action that fit into a table."""


def run(config: PolicyShowConfig) -> None:
    """Draw and tell."""
    policy = read_policy(config.policy)
    if not policy.trace:
        raise InputError(f"{config.policy} has no trace of its actions; search again to have something to show")
    folder = config.out or config.policy.parent / "show"
    files = write_policy_figures(drawing_of(policy), folder)
    say("wrote", f"{folder}: {', '.join(file.name for file in files)}")
    content = document(config, policy) | {"figures": [file.as_posix() for file in files]}
    if config.json:
        print(json.dumps(plain(content), indent=1, allow_nan=False))
        return
    tell(policy, content)


def moments(policy: Policy) -> dict[int, Moment]:
    """Stage -> what was seen and done at its start, in the order of the stages."""
    return {round(moment.state[0]): moment for moment in policy.trace}


def drawing_of(policy: Policy) -> PolicyDrawing:
    """Maps over the first two features, the others at 0."""
    acting = moments(policy)
    stages = (stage_map(policy, stage, acting.get(stage)) for stage in range(policy.stages))
    return PolicyDrawing(tuple(stages), policy.features, parts_of(policy), GRID)


def stage_map(policy: Policy, stage: int, moment: Moment | None) -> StageMap:
    """The weights of one stage over the grid."""
    if moment is None:
        return StageMap(stage, None, None)
    columns = [GRID, GRID if len(policy.features) > 1 else np.zeros(1)]
    first, second = np.meshgrid(*columns)
    weight = weights(policy, moment, first.ravel(), second.ravel())
    return StageMap(stage, np.array(moment.action), weight.reshape(first.shape))


def weights(policy: Policy, moment: Moment, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Weights [n] at values [n] of the first two features, the others 0."""
    table = torch.zeros(len(first), len(policy.features))
    for column, values in zip(range(len(policy.features)), (first, second), strict=False):
        table[:, column] = torch.from_numpy(values)
    return weigh(table, torch.tensor(moment.action), policy.hidden).numpy()


def parts_of(policy: Policy) -> tuple[str, ...]:
    """What the numbers of an action are: the features' slopes and the bias, or numbers of a small network."""
    if policy.hidden:
        return tuple(f"number {i + 1}" for i in range(len(policy.trace[0].action)))
    return (*policy.features, "bias")


def document(config: PolicyShowConfig, policy: Policy) -> dict[str, Any]:
    """What --json prints."""
    at = np.array(POINTS)
    return {
        "schema": SCHEMA,
        "policy": config.policy,
        "features": policy.features,
        "hidden": policy.hidden,
        "stages": policy.stages,
        "warm_up": policy.warm_up,
        "profile": policy.profile,
        "bound": policy.bound,
        "reward": policy.reward,
        "source": policy.source,
        "trace": [
            {
                "stage": stage + 1,
                "loss": moment.state[1],
                "mean_weight": moment.state[2],
                "rate": moment.state[3],
                "action": dict(zip(parts_of(policy), moment.action, strict=True)),
                "weight_at": dict(zip(map(str, POINTS), weights(policy, moment, at, 0 * at).tolist(), strict=True)),
            }
            for stage, moment in moments(policy).items()
        ],
    }


def tell(policy: Policy, content: dict[str, Any]) -> None:
    """Where it comes from, then a line for each stage."""
    screen = result_screen()
    screen.print()
    warm = f"{policy.warm_up} of them warm-up with weights 1" if policy.warm_up else "no warm-up"
    screen.print(f"{policy.stages} stages, {warm}; profile {policy.profile}; best reward {policy.reward:+.3f}")
    screen.print(f"reads {', '.join(policy.features)}" + (f", hidden layer of {policy.hidden}" * bool(policy.hidden)))
    for name, value in policy.source.items():
        screen.print(printable(f"{name}: {value}"), soft_wrap=True)
    screen.print(stages_table(policy, content["trace"]))
    others = f", the other feature{'s' * (len(policy.features) > 2)} at 0" if len(policy.features) > 1 else ""
    screen.print(
        f"Loss in units of ln C, rate as a share of its start, both as seen at the start of the stage. Weights lie "
        f"between 0 and 2: here at values of {policy.features[0]}{others}.",
        soft_wrap=True,
    )


def stages_table(policy: Policy, trace: list[dict[str, Any]]) -> Table:
    """State, action, and the weights at some values of the first feature."""
    parts = parts_of(policy) if len(parts_of(policy)) <= MOST_PARTS else ()
    grid = plain_table(
        "stage", "loss", "rate", *parts, *(f"weight\nat {x:+g}" if x else "weight\nat 0" for x in POINTS)
    )
    for row in trace:
        numbers = [f"{row['loss']:.2f}", f"{row['rate']:.3g}", *(f"{row['action'][part]:+.2f}" for part in parts)]
        grid.add_row(str(row["stage"]), *numbers, *(f"{weight:.2f}" for weight in row["weight_at"].values()))
    return grid
