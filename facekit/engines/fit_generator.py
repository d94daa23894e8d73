"""``facekit align-eval fit-generator``: a conditional GAN that draws the face of an embedding."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from facekit.alignment.generator import Pair, build_gan
from facekit.alignment.rows import unit
from facekit.configs import FitGeneratorConfig
from facekit.core.checkpoints import state_hash
from facekit.core.device import Device
from facekit.core.errors import FacekitError, InputError
from facekit.core.files import write_atomic
from facekit.core.loop import Saving, TrainingBatches, fit
from facekit.core.reporting import Journal, image_progress, say
from facekit.core.runs import Run, open_run
from facekit.core.schedule import Schedule
from facekit.core.types import Batch
from facekit.data.batches import Batches
from facekit.data.embeddings import default_cache_dir, embed_source
from facekit.data.sources import Source, choose_data
from facekit.engines.fitting import check_same, now, open_training_data, recorded, seed_everything
from facekit.models.loading import Model, load_model
from facekit.training.gan import Gan, GanSettings, Recogniser, resized, to_pixels, to_unit
from facekit.training.teachers import CachedTeacher
from facekit.training.virtual_faces import VERB, FaceGenerator, draw_candidates, draw_faces, load_generator

_WARM, _TIMED = 4, 32
"""Steps before the run's speed is taken, and steps that it is taken from."""
_SHOWN, _DRAWS = 8, 5
"""Rows of samples.png, and faces drawn in each."""
_CHECKED = 256
"""Faces drawn at the end to see whether they are recognised as the ones asked for."""


def run(config: FitGeneratorConfig) -> None:
    """Embed --data, train, leave a run folder with a sheet of samples."""
    started = now()
    device = Device.pick(config.device, config.precision, threads=config.threads, deterministic=config.deterministic)
    path = choose_data(config.data)
    record = {**config.to_dict(), "data": path.as_posix()}
    run = open_run(VERB, record, out=config.out, resume=config.resume, init=config.init, dry_run=config.dry_run)
    if run.done:
        say("done", f"{run.folder} is finished already")
        return
    exact = replace(device, precision="fp32")  # its embeddings are the conditions: never rounded
    model = load_model(config.model, device=exact, channels=config.channels, scaling=config.scaling)
    recogniser = Recogniser(model, device)
    source = open_training_data(config, path, need_labels=False)
    check_same(run, "data", "fingerprint", source.fingerprint)
    check_same(run, "recogniser", "sha256", model.sha256)
    check_same(run, "recogniser", "preprocess", model.preprocess.hash())
    table = embeddings(config, model, source)
    seed_everything(config.seed)
    pair = build_gan(config.side, model.preprocess.embedding)
    if run.init is not None:
        start_from(pair, run.init, device)
    settings = GanSettings(config.lr, config.identity_weight, config.r1, config.r1_every, config.ema)
    task = Gan(pair, CachedTeacher(table, device), recogniser, device, settings)
    batches = open_batches(config, source, device)
    frozen = model.state_hash()
    meta = {
        "generator": {"side": config.side, "width": model.preprocess.embedding},
        "recogniser": {"name": model.name, "sha256": model.sha256, "preprocess": model.preprocess.hash()},
        "parameters": sum(p.numel() for p in pair.generator.parameters()),
        "licence": f"drawn for a recogniser under: {model.licence}; the faces resemble those of the training images",
        "data": {"fingerprint": source.fingerprint, "images": len(source)},
    }
    train(config, run, task, batches, device, meta, started)
    if model.state_hash() != frozen:
        raise FacekitError("the recogniser changed during training: this is a bug in facekit, please report it")
    if not config.dry_run:
        finish(run, model, source, table, device, config.seed)


def embeddings(config: FitGeneratorConfig, model: Model, source: Source) -> np.ndarray:
    """The conditions: embeddings of all images and their mirror images, float32 [N,2,D]."""
    with image_progress("embed", len(source)) as advance:
        return embed_source(
            model.embed,
            source,
            views=(0, 1),
            key=model.cache_key(),
            cache_dir=config.cache_dir or default_cache_dir(),
            progress=advance,
        )


def start_from(pair: Pair, path: Path, device: Device) -> None:
    """--init: begin with the generator of another run; the discriminator starts anew."""
    found = load_generator(path, device).network
    try:
        pair.generator.load_state_dict(found.state_dict())
    except RuntimeError as error:
        raise InputError(
            f"--init {path} draws {found.shape.side} pixels from {found.width} numbers, this run "
            f"{pair.generator.shape.side} from {pair.generator.width}; choose another --side or model"
        ) from error


def open_batches(config: FitGeneratorConfig, source: Source, device: Device) -> Batches:
    """Real images in seeded order, half of them mirrored."""
    return Batches(source, batch=config.batch, seed=config.seed, flip=True, put=device.put)


def train(
    config: FitGeneratorConfig,
    run: Run,
    task: Gan,
    batches: Batches,
    device: Device,
    meta: dict[str, Any],
    started: float,
) -> None:
    """Fit to the last step and keep run.json true about it, whatever way it ends."""
    dry = config.dry_run
    epochs = -(-config.steps // batches.steps_per_epoch)
    schedule = Schedule(epochs=epochs, steps_per_epoch=batches.steps_per_epoch, shape="constant")
    saving = Saving(minutes=config.save_minutes, deadline=started + config.budget_s if config.budget_s else None)
    timed = Timed(batches, device, lambda seconds: tell_speed(config, seconds), *((0, 1) if dry else (_WARM, _TIMED)))
    with recorded(run, meta, device, dry):
        progress = fit(
            task,
            timed,
            schedule,
            None if dry else run.store,
            device,
            Journal(None if dry else run.folder, config.steps, config.batch),
            meta={**meta, "verb": run.verb, "config": dict(run.config)},
            saving=saving,
            log_every=1 if dry else config.log_every,
            resume=run.resuming,
            max_steps=2 if dry else config.steps,
            seed=config.seed,
        )
    if dry:
        say("dry run", "two steps ran; nothing was written")
        return
    run.write("running", {"images_seen": progress.images, "seconds": round(progress.seconds, 1)})
    say("trained", f"{progress.step:,} steps in {progress.seconds / 60:.1f} min")


class Timed:
    """Batches that tell, once, how many seconds a step takes: the mean of ``timed`` steps after ``warm`` ones."""

    def __init__(
        self, batches: TrainingBatches, device: Device, tell: Callable[[float], None], warm: int, timed: int
    ) -> None:
        self.batches, self.device, self.tell, self.warm, self.timed = batches, device, tell, warm, timed
        self.steps_per_epoch = batches.steps_per_epoch
        self.asked = 0
        self.begun = 0.0

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches, unchanged."""
        for batch in self.batches.epoch(epoch, start):
            if self.asked == self.warm:
                self.device.wait()
                self.begun = time.monotonic()
            elif self.asked == self.warm + self.timed:
                self.device.wait()
                self.tell((time.monotonic() - self.begun) / self.timed)
            self.asked += 1
            yield batch


def tell_speed(config: FitGeneratorConfig, seconds: float) -> None:
    """Print the measured speed and what it means for the whole run."""
    whole = config.steps * seconds
    late = config.budget_s is not None and whole > config.budget_s
    note = f"; more than --budget-s {config.budget_s:g}: go on with --resume" if late else ""
    say("speed", f"{1 / seconds:.2f} steps/s: {config.steps:,} steps take about {whole / 60:.0f} min{note}")


# --- the end of a run ------------------------------------------------------------------------------------


def finish(run: Run, model: Model, source: Source, table: np.ndarray, device: Device, seed: int) -> None:
    """Draw with the averaged generator: a sheet for the eye, and a number for how well faces are recognised."""
    generator = load_generator(run.folder, replace(device, precision="fp32"))
    rows = np.linspace(0, len(source) - 1, min(_CHECKED, len(source))).astype(np.int64)
    wanted = unit(table[rows, 0])
    drawn = draw_candidates(generator, wanted, model.embed, size=model.preprocess.size, seed=seed)
    cosine = float((unit(drawn[:, 0]) * wanted).sum(axis=1).mean())
    write_samples(run.folder / "samples.png", generator, source, table, seed)
    weights = state_hash(generator.network.state_dict())
    run.write("done", {"identity_cosine": cosine, "weights_sha256": weights})
    say("identity", f"mean cosine {cosine:.3f} between drawn faces and the embeddings asked for ({len(rows)} images)")
    say("wrote", f"{run.folder}; look at samples.png: real faces on the left, five drawn for each")
    say(
        "next",
        f"facekit align-eval bank --kind cgan --generator {run.folder} --model {model.path} --data ... --out ...",
    )


def write_samples(path: Path, generator: FaceGenerator, source: Source, table: np.ndarray, seed: int) -> None:
    """A sheet: in each row a real face and what is drawn for its embedding with different noise."""
    rows = np.linspace(0, len(source) - 1, min(_SHOWN, len(source))).astype(np.int64)
    conditions = unit(np.repeat(table[rows, 0], _DRAWS, axis=0))
    drawn = torch.cat([*draw_faces(generator, conditions, seed=seed)]).cpu()
    real = torch.from_numpy(source.read(rows)).permute(0, 3, 1, 2)
    side = generator.network.shape.side
    small = to_pixels(resized(to_unit(real), side))
    sheet = torch.cat([small.unsqueeze(1), drawn.unflatten(0, (len(rows), _DRAWS))], dim=1)
    picture = Image.fromarray(tiled(sheet).numpy())
    write_atomic(path, lambda stream: picture.save(stream, format="PNG"))


def tiled(sheet: Tensor) -> Tensor:
    """uint8 [R,C,3,S,S] -> one picture [R S, C S, 3]."""
    rows, columns, _, side, _ = sheet.shape
    return sheet.permute(0, 3, 1, 4, 2).reshape(rows * side, columns * side, 3)
