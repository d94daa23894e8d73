"""``facekit train``: a network on labelled images; ``facekit route-train record``: the same, its way kept."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from facekit.configs import RouteRecordConfig, TrainConfig
from facekit.core.device import Device
from facekit.core.errors import UsageError
from facekit.core.preprocess import Preprocess
from facekit.core.runs import Run
from facekit.data.batches import Batches
from facekit.data.sources import Source, choose_data
from facekit.engines.fitting import (
    augment_of,
    build_head,
    build_network,
    check_family,
    check_same,
    now,
    open_batches,
    open_training_data,
    open_training_run,
    opened_device,
    optimiser_of,
    seed_everything,
    start_from,
    train_to_end,
)
from facekit.engines.together import Built, check_seeds, train_together
from facekit.models import CLASSIFIERS
from facekit.models.records import classifier_input
from facekit.training.classes import Classes, MarginClasses, OwnClasses
from facekit.training.classify import Classify


def run(config: TrainConfig) -> None:
    """Train on one device, or as one of the processes that torchrun started."""
    with opened_device(config) as device:
        train("train", config, device)


def record(config: RouteRecordConfig) -> None:
    """Train and keep the states on the way: every 5 % of the epochs where --save-route says nothing."""
    if config.seeds:
        raise UsageError("--seeds trains several networks, and a route is that of one: give --seed")
    every = config.save_route or max(1, round(config.epochs / 20))
    with opened_device(config) as device:
        train("route-train record", replace(config, save_route=every), device)


def train(verb: str, config: TrainConfig, device: Device) -> None:
    """Build data, network and head; train; leave a run folder."""
    started = now()
    check_family(config, config.model, None if config.embedding == TrainConfig.embedding else config.embedding)
    check_seeds(config)
    if config.seeds and config.save_route:
        raise UsageError("--save-route keeps the way of one network: give --seed instead of --seeds")
    path = choose_data(config.data)
    run = open_training_run(verb, config, path, device)
    if run.done:
        return
    seed_everything(config.seed)
    source = open_training_data(config, path, need_labels=True)
    check_same(run, "data", "fingerprint", source.fingerprint)
    if config.seeds:
        train_together(config, run, partial(build, config, source, device), source, device, started)
        return
    built = build(config, source, device, config.seed, None, run)
    every = config.save_route
    train_to_end(
        config,
        run,
        built.task,
        source,
        built.batches,
        built.preprocess,
        device,
        built.meta,
        started,
        route_epochs=every,
    )


def build(
    config: TrainConfig, source: Source, device: Device, seed: int, others: Batches | None, run: Run | None = None
) -> Built:
    """Batches, network, head and task of one seed; pixels are shared with ``others``."""
    batches = open_batches(config, source, seed, device, others=others)
    model, architecture = build_network(config.model, config.embedding, config.dropout, source)
    if run:
        start_from(model, run)
    classes, about = classes_of(config, source, device)
    preprocess = input_of(config, source, architecture)
    task = Classify(model, classes, preprocess, device, optimiser_of(config), augment_of(config))
    meta = {
        "architecture": architecture,
        "parameters": sum(p.numel() for p in model.parameters()),
        "licence": "yours, as far as the training images allow",
        "head": about,
        **({"mask": {"share": config.mask}} if config.mask else {}),
    }
    return Built(task, batches, preprocess, meta)


def classes_of(config: TrainConfig, source: Source, device: Device) -> tuple[Classes, dict[str, object]]:
    """The class layer of the network itself, or a margin head; and what run.json says of it."""
    count = len(source.identities)
    if config.model in CLASSIFIERS:
        return OwnClasses(), {"name": "own", "identities": count}
    return MarginClasses(build_head(config, config.embedding, count, device)), {
        "name": config.head,
        "identities": count,
    }


def input_of(config: TrainConfig, source: Source, architecture: dict[str, object]) -> Preprocess:
    """Aligned faces for embedders; images as they are, without flip fusion, for closed sets."""
    side = config.resized_crop
    size, width = (side, side) if side else source.size, int(str(architecture["embedding"]))
    if "classes" in architecture:
        return classifier_input(width, size)
    return Preprocess(size=size, embedding=width)
