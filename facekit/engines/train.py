"""``facekit train``: a network on labelled faces."""

from __future__ import annotations

from facekit.configs import TrainConfig
from facekit.core.preprocess import Preprocess
from facekit.data.sources import choose_data
from facekit.engines.fitting import (
    check_same,
    now,
    open_batches,
    open_training_data,
    open_training_run,
    optimiser_of,
    pick_device,
    seed_everything,
    start_from,
    train_to_end,
)
from facekit.models import HEADS, build_backbone
from facekit.training.classify import Classify


def run(config: TrainConfig) -> None:
    """Build data, network and head; train; leave a run folder."""
    started = now()
    path = choose_data(config.data)
    run = open_training_run("train", config, path)
    if run.done:
        return
    device = pick_device(config)
    seed_everything(config.seed)
    source = open_training_data(config, path, need_labels=True)
    check_same(run, "data", "fingerprint", source.fingerprint)
    batches = open_batches(config, source, config.seed, device)
    model = build_backbone(config.model, config.embedding, config.dropout)
    start_from(model, config.init)
    head = HEADS[config.head](config.embedding, len(source.identities), config.margin, config.logit_scale)
    preprocess = Preprocess(size=source.size, embedding=config.embedding)
    task = Classify(model, head, preprocess, device, optimiser_of(config))
    meta = {
        "architecture": {"name": config.model, "embedding": config.embedding, "dropout": config.dropout},
        "parameters": sum(p.numel() for p in model.parameters()),
        "licence": "yours, as far as the training images allow",
        "head": {"name": config.head, "identities": len(source.identities)},
    }
    train_to_end(config, run, task, source, batches, preprocess, device, meta, started, route_epochs=config.save_route)
