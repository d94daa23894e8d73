"""From --weighter to a rule at work in a training, and what is left of it afterwards. No verb."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from facekit.configs import DistillConfig, SeveralOptions, TrainConfig, Weighting, WeightingOptions, choices_of
from facekit.core.device import Device
from facekit.core.errors import UsageError, unknown_name
from facekit.core.files import write_atomic
from facekit.core.preprocess import Preprocess
from facekit.core.reporting import say
from facekit.core.runs import Run
from facekit.data.batches import Batches
from facekit.data.overlap import shared_images
from facekit.data.relabelled import truth_of
from facekit.data.sources import Source, open_source
from facekit.models.loading import as_it_is_now
from facekit.training.classes import Classes, FocalClasses
from facekit.training.coteaching import CoTeaching
from facekit.training.replay import CleanBatches
from facekit.training.weighing import Weighing
from facekit.weighting import WEIGHTERS
from facekit.weighting.base import Facts, Weighter
from facekit.weighting.errors import NeedsClean, NeedsTruth, UnknownWeighting
from facekit.weighting.naming import build_weighter, parse, typed_settings
from facekit.weighting.small_loss import SmallLoss


def focal(gamma: float = 2.0) -> float:
    """The settings of the focal loss."""
    return gamma


BESIDE: dict[str, Callable[..., Any]] = {"focal": focal, "coteaching": SmallLoss}
"""Rules that are no weighters: a loss, and two networks with a weighter each. Their settings are of these."""
TABLE = "weights.csv"


# --- what is asked -----------------------------------------------------------------------------------------


def rule_of(options: WeightingOptions) -> str:
    """The name of the rule. Raises UnknownWeighting and UsageError for what flags alone decide."""
    name, settings = parse(options.weighter)
    names = choices_of(Weighting)
    if name not in names:
        raise UnknownWeighting(str(unknown_name("weighter", name, names)))
    typed_settings(name, settings, BESIDE.get(name) or WEIGHTERS[name])
    if isinstance(options, SeveralOptions) and options.seeds and name != "uniform":
        raise UsageError(f"--weighter {name} does not go with --seeds: give one --seed at a time")
    if "clean" in needs_of(name):
        if options.clean is None:
            raise NeedsClean(f"--weighter {name} looks at images with trusted labels: add --clean PATH")
    elif options.clean is not None:
        raise UsageError(f"--clean is for {' and '.join(reading_clean())}, and --weighter is {name}; leave it out")
    return name


def needs_of(name: str) -> frozenset[str]:
    """What a rule is given beyond the batch."""
    if name == "coteaching":
        return frozenset({"peer"})
    return WEIGHTERS[name].needs if name in WEIGHTERS else frozenset()


def reading_clean() -> list[str]:
    """The rules that train with clean images."""
    return [name for name, kind in WEIGHTERS.items() if "clean" in kind.needs]


# --- at work -------------------------------------------------------------------------------------------------


def weighted_classes(options: WeightingOptions, name: str, classes: Classes) -> Classes:
    """The classes, with the focal factor where that is the rule."""
    if name != "focal":
        return classes
    return FocalClasses(classes, focal(**typed_settings(name, parse(options.weighter)[1], focal)))


def weighing_of(
    config: TrainConfig | DistillConfig, name: str, source: Source, batches: Batches, device: Device, seed: int
) -> Weighing | None:
    """The rule at work in one training; None where every sample weighs the same."""
    if name in ("uniform", "focal"):
        return None
    seen = batches.steps_per_epoch // config.accumulate * config.accumulate  # the loop leaves out an epoch's rest
    facts = facts_of(source, config.epochs, seen, seed, device)
    weighter: Weighter
    if name == "coteaching":
        weighter = SmallLoss(**typed_settings(name, parse(config.weighter)[1], SmallLoss))
    else:
        weighter = build_weighter(config.weighter)
    if "truth" in weighter.needs and facts.truth is None:
        raise NeedsTruth(f"--weighter {name} must know the true labels: give the --noise-plan that made wrong ones")
    clean = clean_batches(config, source, device, seed) if "clean" in weighter.needs else None
    return Weighing(weighter, facts, device, clean)


def facts_of(source: Source, epochs: int, steps_per_epoch: int, seed: int, device: Device) -> Facts:
    """What rules are told of a training."""
    truth = truth_of(source)
    counts = np.bincount(source.labels, minlength=len(source.identities))
    return Facts(
        images=len(source),
        class_count=device.put(torch.from_numpy(counts)),
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        seed=seed,
        device=device.torch_device,
        truth=None if truth is None else device.put(torch.from_numpy(truth == source.labels)),
    )


def clean_batches(config: TrainConfig | DistillConfig, source: Source, device: Device, seed: int) -> CleanBatches:
    """The images with trusted labels; refused where they are training images too."""
    assert config.clean is not None
    clean = open_source(config.clean, need_labels=True, take=config.clean_take)
    refuse_shared(clean, str(config.clean), source, "training images")
    found = CleanBatches(
        clean,
        config.clean_batch,
        seed,
        device.put,
        source.identities,
        str(config.clean),
        flip=config.flip,
        mask=config.mask,
        crops=config.crop > 0 or config.resized_crop is not None,
        free_bytes=device.free_bytes(),
    )
    say("clean", f"{config.clean}: {len(clean):,} images with trusted labels")
    if found.note:
        say("note", found.note)
    return found


def refuse_shared(clean: Source, name: str, others: Source, what: str) -> None:
    """Raise NeedsClean where clean images are among the ``others``."""
    if shared := shared_images(clean, others):
        raise NeedsClean(
            f"{len(shared)} of the {len(clean)} images of {name} are also {what}, such as {shared[0][0]}: what is "
            "called clean must be images of its own; leave them out of one of the two"
        )


# --- afterwards ----------------------------------------------------------------------------------------------


def leave_weights(
    config: WeightingOptions,
    name: str,
    run: Run,
    weighing: Weighing | None,
    network: nn.Module,
    classes: Classes,
    source: Source,
    preprocess: Preprocess,
    device: Device,
) -> dict[str, Any]:
    """Write weights.csv where samples were weighed; what run.json says of the rule and of the noise it met.

    Process 0 writes, all take part.
    """
    truth = truth_of(source)
    found: dict[str, Any] = {"rule": config.weighter, "needs": sorted(needs_of(name))}
    if truth is not None:
        wrong = truth != source.labels
        found["mislabelled"] = float(wrong.mean())
        found |= memory(predictions(network, classes, source, preprocess, device), truth, source.labels)
    if weighing is not None:
        found |= weighing.summary()
        if equal := [row["epoch"] for row in found["epochs"] if row["least"] == row["most"]]:
            of = f"{len(equal)} of {len(found['epochs'])} epochs"
            say("note", f"all weights were equal in {of}: there {config.weighter} was the same as uniform")
        if device.rank == 0:
            write_table(run, weighing.table(), source, truth)
    return {"weighting": found}


def write_table(run: Run, table: Mapping[str, np.ndarray], source: Source, truth: np.ndarray | None) -> None:
    """weights.csv: a row per image, its mean weight in the whole training and in the last epoch."""
    names = source.identities
    columns: list[Sequence[Any]] = [
        range(len(source)),
        source.names,
        [names[label] for label in source.labels],
        written(table["weight"]),
        written(table["last_weight"]),
    ]
    titles = ["index", "name", "label", "weight", "last"]
    if truth is not None:
        titles.append("true_label")
        columns.append([names[label] if label >= 0 else "" for label in truth])
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(titles)
    writer.writerows(zip(*columns, strict=True))
    write_atomic(run.folder / TABLE, stream.getvalue().encode())


def written(values: np.ndarray) -> list[str]:
    """Six digits; empty for an image that was never seen."""
    return ["" if np.isnan(value) else f"{value:.6g}" for value in values]


@torch.no_grad()
def predictions(
    network: nn.Module, classes: Classes, source: Source, preprocess: Preprocess, device: Device
) -> np.ndarray:
    """The class that the network, as it is now, would give every training image, int64 [N]."""
    outputs = as_it_is_now(network, preprocess, device)
    found: list[np.ndarray] = []
    for first in range(0, len(source), 256):
        rows = np.arange(first, min(first + 256, len(source)))
        images = torch.from_numpy(source.read(rows)).permute(0, 3, 1, 2)
        found.append(classes.logits(outputs(images)).argmax(dim=1).cpu().numpy())
    return np.concatenate(found)


def memory(predicted: np.ndarray, truth: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """``memorised``: share of mislabelled samples that are predicted as their wrong label; ``seen_through``: as their
    true one.

    >>> memory(np.array([1, 0, 2]), np.array([0, 0, 2]), np.array([1, 2, 2]))
    {'memorised': 0.5, 'seen_through': 0.5}
    """
    wrong = truth != labels
    if not wrong.any():
        return {"memorised": None, "seen_through": None}
    return {
        "memorised": float((predicted == labels)[wrong].mean()),
        "seen_through": float((predicted == truth)[wrong].mean()),
    }


def keep_peer(run: Run, task: CoTeaching, meta: Mapping[str, Any]) -> None:
    """Co-teaching's second network as a checkpoint of its own, ``peer``, to be measured beside the first."""
    run.store.save("peer", task.modules["peer"].state_dict(), meta)
