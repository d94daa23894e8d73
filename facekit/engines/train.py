"""``facekit train``: a network on labelled faces."""

from __future__ import annotations

from facekit.configs import TrainConfig
from facekit.core.device import Device
from facekit.core.preprocess import Preprocess
from facekit.core.reporting import say
from facekit.core.runs import open_run
from facekit.data.sources import choose_data
from facekit.engines.fitting import (
    check_same_data,
    now,
    open_batches,
    open_training_data,
    optimiser_of,
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
    record = {**config.to_dict(), "data": path.as_posix()}
    run = open_run("train", record, out=config.out, resume=config.resume, init=config.init, dry_run=config.dry_run)
    if run.done:
        say("done", f"{run.folder} is finished already")
        return
    device = Device.pick(
        config.device,
        config.precision,
        threads=config.threads,
        deterministic=config.deterministic,
        compile=config.compile,
    )
    seed_everything(config.seed)
    source = open_training_data(config, path, need_labels=True)
    check_same_data(run, source)
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
    train_to_end(
        config, config, run, task, source, batches, preprocess, device, meta, started, route_epochs=config.save_route
    )
