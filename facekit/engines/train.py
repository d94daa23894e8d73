"""``facekit train``: a network on labelled faces."""

from __future__ import annotations

from facekit.configs import TrainConfig
from facekit.core.device import Device
from facekit.core.preprocess import Preprocess
from facekit.data.sources import choose_data
from facekit.engines.fitting import (
    build_head,
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
from facekit.models import build_backbone
from facekit.training.classify import Classify


def run(config: TrainConfig) -> None:
    """Train on one device, or as one of the processes that torchrun started."""
    with opened_device(config) as device:
        train(config, device)


def train(config: TrainConfig, device: Device) -> None:
    """Build data, network and head; train; leave a run folder."""
    started = now()
    path = choose_data(config.data)
    run = open_training_run("train", config, path, device)
    if run.done:
        return
    seed_everything(config.seed)
    source = open_training_data(config, path, need_labels=True)
    check_same(run, "data", "fingerprint", source.fingerprint)
    batches = open_batches(config, source, config.seed, device)
    model = build_backbone(config.model, config.embedding, config.dropout)
    start_from(model, run)
    head = build_head(config, config.embedding, len(source.identities), device)
    preprocess = Preprocess(size=source.size, embedding=config.embedding)
    task = Classify(model, head, preprocess, device, optimiser_of(config))
    meta = {
        "architecture": {"name": config.model, "embedding": config.embedding, "dropout": config.dropout},
        "parameters": sum(p.numel() for p in model.parameters()),
        "licence": "yours, as far as the training images allow",
        "head": {"name": config.head, "identities": len(source.identities)},
        **({"mask": {"share": config.mask}} if config.mask else {}),
    }
    train_to_end(config, run, task, source, batches, preprocess, device, meta, started, route_epochs=config.save_route)
