"""A network on labelled images, its samples weighed or not: what train, record and autoweight share. No verb."""

from __future__ import annotations

from functools import partial
from typing import Any

from facekit.configs import PolicySearchConfig, TrainConfig
from facekit.core.device import Device
from facekit.core.errors import UsageError
from facekit.core.preprocess import Preprocess
from facekit.core.runs import Run
from facekit.data.batches import Batches
from facekit.data.relabelled import truth_of
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
    optimiser_of,
    seed_everything,
    start_from,
    train_to_end,
)
from facekit.engines.together import Built, check_seeds, train_together
from facekit.engines.weighing import keep_peer, leave_weights, rule_of, weighing_of, weighted_classes
from facekit.models import CLASSIFIERS
from facekit.models.records import classifier_input
from facekit.training.classes import Classes, MarginClasses, OwnClasses
from facekit.training.classify import Classify
from facekit.training.coteaching import CoTeaching


def train(verb: str, config: TrainConfig, device: Device) -> None:
    """Build data, network and head; train; leave a run folder."""
    started = now()
    check_family(config, config.model, None if config.embedding == TrainConfig.embedding else config.embedding)
    check_seeds(config)
    rule = rule_of(config)
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
    task = built.task
    assert isinstance(task, Classify | CoTeaching)

    def finish() -> dict[str, Any]:
        if isinstance(task, CoTeaching) and device.rank == 0:
            keep_peer(run, task, {**built.meta, "preprocess": built.preprocess.to_dict()})
        classes = task.classes[0] if isinstance(task, CoTeaching) else task.classes
        model = task.modules["model"]
        return leave_weights(config, rule, run, task.weighing, model, classes, source, built.preprocess, device)

    train_to_end(
        config,
        run,
        task,
        source,
        built.batches,
        built.preprocess,
        device,
        built.meta,
        started,
        route_epochs=config.save_route,
        finish=finish if rule != "uniform" or truth_of(source) is not None else None,
    )


def build(
    config: TrainConfig, source: Source, device: Device, seed: int, others: Batches | None, run: Run | None = None
) -> Built:
    """Batches, network, head and task of one seed; pixels are shared with ``others``."""
    batches = open_batches(config, source, seed, device, others=others)
    model, architecture = build_network(config.model, config.embedding, config.dropout, source)
    if run:
        start_from(model, run)
    rule = rule_of(config)
    classes, about = classes_of(config, source, device)
    classes = weighted_classes(config, rule, classes)
    preprocess = input_of(config, source, architecture)
    weighing = weighing_of(config, rule, source, batches, device, seed)
    learning = optimiser_of(config), augment_of(config)
    task: Classify | CoTeaching
    if rule == "coteaching":
        peer, _ = build_network(config.model, config.embedding, config.dropout, source)
        peer_classes = classes_of(config, source, device)[0]
        its_own = weighing_of(config, rule, source, batches, device, seed)
        assert weighing and its_own
        task = CoTeaching(model, peer, (classes, peer_classes), (weighing, its_own), preprocess, device, *learning)
    else:
        task = Classify(model, classes, preprocess, device, *learning, weighing=weighing)
    meta = {
        "architecture": architecture,
        "parameters": sum(p.numel() for p in model.parameters()),
        "licence": "yours, as far as the training images allow",
        "head": about,
        **({"mask": {"share": config.mask}} if config.mask else {}),
    }
    return Built(task, batches, preprocess, meta)


def classes_of(
    config: TrainConfig | PolicySearchConfig, source: Source, device: Device
) -> tuple[Classes, dict[str, object]]:
    """The class layer of the network itself, or a margin head; and what run.json says of it."""
    count = len(source.identities)
    if config.model in CLASSIFIERS:
        return OwnClasses(), {"name": "own", "identities": count}
    return MarginClasses(build_head(config, config.embedding, count, device)), {
        "name": config.head,
        "identities": count,
    }


def input_of(config: TrainConfig | PolicySearchConfig, source: Source, architecture: dict[str, object]) -> Preprocess:
    """Aligned faces for embedders; images as they are, without flip fusion, for closed sets."""
    side = config.resized_crop
    size, width = (side, side) if side else source.size, int(str(architecture["embedding"]))
    if "classes" in architecture:
        return classifier_input(width, size)
    return Preprocess(size=size, embedding=width)
