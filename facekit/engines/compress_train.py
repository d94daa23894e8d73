"""``facekit compress train``: a learned image codec, and the model file that encodes and decodes with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from torch import nn
from torch.optim import Optimizer

from facekit import __version__
from facekit.codec.arch import Arch
from facekit.codec.coder import Coder
from facekit.codec.distortion import DISTORTIONS, Distortion
from facekit.codec.export import exported, restored
from facekit.codec.modelfile import CodecModel, write_model
from facekit.codec.networks import Codec
from facekit.codec.opening import MODEL_FILE, open_model
from facekit.configs import CompressTrainConfig
from facekit.core.checkpoints import state_hash
from facekit.core.device import Device
from facekit.core.errors import FacekitError, InputError, UsageError
from facekit.core.loop import Progress, Saving, fit
from facekit.core.reporting import Journal, image_progress, say
from facekit.core.runs import Run, open_run
from facekit.core.schedule import Schedule
from facekit.data.alternating import Alternating, as_many_pixels
from facekit.data.batches import Batches
from facekit.data.epochs import Epochs
from facekit.data.memory import free_ram
from facekit.data.originals import Originals
from facekit.data.patches import PatchBatches
from facekit.data.sources import Source, open_source
from facekit.engines.fitting import check_same, now, recorded, seed_everything
from facekit.models.loading import Model, load_model
from facekit.training.codec import CodecTask
from facekit.training.codecdev import CodecDev
from facekit.training.codecfiles import LARGEST_GAP, coded_facts
from facekit.training.gan import Recogniser
from facekit.training.optimisers import build_optimiser

VERB = "compress train"
LAMBDA = {"mse": 2048.0, "ms-ssim": 64.0}
"""The highest rate of the small networks in the authors' released code: where a ladder begins."""
WIDE_ABOVE = 2048.0
NARROW, WIDE = (128, 192), (192, 320)
"""N and M up to that lambda and above it, by the same code."""
TOLD = ("batch", "crop", "lr", "schedule", "warmup", "clip", "phase2", "ema", "fcd_weight", "seed")
"""Options that a model file repeats: no paths, since it goes to others."""
LEAST_ERROR = 1e-10
"""A picture without any error counts as 100 dB."""


@dataclass(frozen=True)
class Inputs:
    """What a run learns from, and is measured on."""

    scenes: Source | None
    faces: Source | None
    val: Source | None
    recogniser: Model | None

    def described(self) -> dict[str, Any]:
        """What run.json says of them, and what a resume must find again."""
        sources = {"data": self.scenes, "faces": self.faces, "val": self.val}
        found: dict[str, Any] = {
            name: {"fingerprint": source.fingerprint, "images": len(source)}
            for name, source in sources.items()
            if source is not None
        }
        if self.recogniser is not None:
            found["recogniser"] = {
                "name": self.recogniser.name,
                "sha256": self.recogniser.sha256,
                "preprocess": self.recogniser.preprocess.hash(),
            }
        return found


def run(config: CompressTrainConfig) -> None:
    """Train, and leave a run folder with a model file."""
    started = now()
    check(config)
    device = Device.pick(config.device, config.precision, threads=config.threads, deterministic=config.deterministic)
    run = open_run(
        VERB, config.to_dict(), out=config.out, resume=config.resume, init=config.init, dry_run=config.dry_run
    )
    if run.done:
        say("done", f"{run.folder} is finished already")
        return
    inputs = open_inputs(config, device)
    described = inputs.described()
    for what, facts in described.items():
        for key in facts.keys() - {"name", "images"}:
            check_same(run, what, key, facts[key])
    seed_everything(config.seed)
    codec = build_codec(config, run)
    lam = config.lam or LAMBDA[config.distortion]
    meta = {
        "codec": {**asdict(codec.arch), "lambda": lam, "distortion": config.distortion},
        "parameters": sum(p.numel() for p in codec.parameters()),
        "licence": licence(inputs.recogniser),
        **described,
    }
    say("codec", f"N {codec.arch.n}, M {codec.arch.m}, lambda {lam:g}: {meta['parameters']:,} parameters")
    frozen = inputs.recogniser and inputs.recogniser.state_hash()
    task, progress = train(config, run, codec, inputs, lam, device, meta, started)
    if inputs.recogniser and inputs.recogniser.state_hash() != frozen:
        raise FacekitError("the recogniser changed during training: this is a bug in facekit, please report it")
    if config.dry_run:
        say("dry run", "two steps ran; nothing was written")
        return
    finish(run, task.modules["model"], inputs.val, device, meta, progress)


def check(config: CompressTrainConfig) -> None:
    """What the flags alone decide."""
    if config.data is None and config.faces is None:
        raise UsageError("no images given: add --data FOLDER (patches of any images), --faces FOLDER, or both")
    if config.images is not None and config.data is None:
        raise UsageError("--images is the image root of --data, and no --data was given")
    if config.faces is None and (config.exclude or config.recogniser):
        raise UsageError("--exclude and --recogniser are about --faces, and none were given")
    if config.recogniser is None and config.fcd_weight != CompressTrainConfig.fcd_weight:
        raise UsageError("--fcd-weight weighs what --recogniser sees, and none was given")
    if config.recogniser is not None and config.recogniser.suffix.lower() == ".onnx":
        raise UsageError(
            f"--recogniser {config.recogniser} is an ONNX file, which gives no gradients; give a run folder or a "
            "weights file, as of a student of that model"
        )


def open_inputs(config: CompressTrainConfig, device: Device) -> Inputs:
    """Open and name all that is read."""
    scenes = None if config.data is None else open_source(config.data, images=config.images, one_size=False)
    faces = None if config.faces is None else open_source(config.faces, exclude=config.exclude)
    val = None if config.val is None else open_source(config.val, one_size=False)
    for what, source in (("data", scenes), ("faces", faces), ("val", val)):
        if source is not None:
            say(what, f"{getattr(config, what)}: {len(source):,} images")
    if config.recogniser is None:
        return Inputs(scenes, faces, val, None)
    # Its embeddings of the originals are targets: never rounded.
    return Inputs(scenes, faces, val, load_model(config.recogniser, device=replace(device, precision="fp32")))


def licence(recogniser: Model | None) -> str:
    """Whose terms a model of this run is under."""
    ours = "yours, as far as the training images allow"
    return ours if recogniser is None else f"{ours}; trained for a recogniser under: {recogniser.licence}"


# --- the codec --------------------------------------------------------------------------------------------


def build_codec(config: CompressTrainConfig, run: Run) -> Codec:
    """A new codec, or --init's."""
    if run.init is None:  # also a run that goes on, whose weights come with its state
        return Codec(shape_of(config, run.record.get("codec")))
    initial = open_model(run.init)
    arch = shape_of(config, asdict(initial.arch))
    if initial.arch != arch:
        differing = [f"{name} {value}" for name, value in asdict(initial.arch).items() if value != getattr(arch, name)]
        raise InputError(
            f"--init {run.init} has another shape than this run ({', '.join(differing)}); give the same options, or "
            "leave it out"
        )
    if not initial.encoder:
        raise InputError(f"--init {run.init} holds the decoder alone; give the whole model, or the run that made it")
    return restored(initial)


def shape_of(config: CompressTrainConfig, earlier: Mapping[str, Any] | None) -> Arch:
    """What the options say; N and M else as they were before, or as lambda wants them."""
    usual = WIDE if (config.lam or 0) > WIDE_ABOVE else NARROW
    n, m = (earlier["n"], earlier["m"]) if earlier else usual
    return Arch(config.n or n, config.m or m, config.k, config.attention, config.enhancement)


# --- training ---------------------------------------------------------------------------------------------


def open_batches(config: CompressTrainConfig, inputs: Inputs, device: Device) -> tuple[Epochs, int]:
    """Batches in seeded order, and how many of them make a step: one of each source."""
    parts: list[PatchBatches | Batches] = []
    if inputs.scenes is not None:
        turns = -(-config.epoch_steps * config.batch // len(inputs.scenes))
        parts.append(
            PatchBatches(
                inputs.scenes,  # type: ignore[arg-type]  # every source is also a store
                batch=config.batch,
                side=config.crop,
                seed=config.seed,
                put=device.put,
                turns=turns,
            )
        )
    if inputs.faces is not None:
        batch = as_many_pixels(config.batch, config.crop, inputs.faces.size)
        parts.append(Batches(inputs.faces, batch=batch, seed=config.seed, flip=True, put=device.put))
    return Epochs(Alternating(parts), config.epoch_steps * len(parts)), len(parts)


def train(
    config: CompressTrainConfig,
    run: Run,
    codec: Codec,
    inputs: Inputs,
    lam: float,
    device: Device,
    meta: Mapping[str, Any],
    started: float,
) -> tuple[CodecTask, Progress]:
    """Fit to the last step and keep run.json true about it, whatever way it ends."""
    dry = config.dry_run
    batches, sources = open_batches(config, inputs, device)
    schedule = Schedule(
        epochs=config.epochs,
        steps_per_epoch=config.epoch_steps,
        shape=config.schedule,
        warmup=config.warmup,
        accumulate=sources,
        clip=config.clip,
    )

    def adam(modules: list[nn.Module]) -> Optimizer:
        return build_optimiser("adamw", modules, config.lr, weight_decay=0.0)

    task = CodecTask(
        codec,
        DISTORTIONS[config.distortion],
        lam,
        device,
        adam,
        total=schedule.total_steps * sources,
        phase2_share=config.phase2,
        ema_decay=config.ema,
        recogniser=Recogniser(inputs.recogniser, device) if inputs.recogniser else None,
        fcd_weight=config.fcd_weight,
        face_size=(0, 0) if inputs.faces is None else inputs.faces.size,
    )
    validate = None
    if inputs.val is not None and not dry:
        validate = validation(Pictures(inputs.val), DISTORTIONS[config.distortion], lam, device)
    saving = Saving(minutes=config.save_minutes, deadline=started + config.budget_s if config.budget_s else None)
    with recorded(run, meta, device, dry):
        progress = fit(
            task,
            batches,
            schedule,
            None if dry else run.store,
            device,
            Journal(None if dry else run.folder, schedule.total_steps, config.batch * sources),
            meta={**meta, "verb": run.verb, "config": dict(run.config)},
            saving=saving,
            log_every=1 if dry else config.log_every,
            validate=validate,
            resume=run.resuming,
            max_steps=2 if dry else None,
            seed=config.seed,
        )
    return task, progress


def validation(
    images: Iterable[np.ndarray], distortion: Distortion, lam: float, device: Device
) -> Callable[[nn.Module], dict[str, float]]:
    """What is measured after an epoch: all images as estimated, a few as files."""
    dev = CodecDev(images, distortion, lam, device)

    def numbers(codec: nn.Module) -> dict[str, float]:
        facts = coded_facts(codec, images, device)
        if abs(facts["gap"]) > LARGEST_GAP:
            say(
                "warning",
                f"files are {100 * facts['gap']:+.1f} % from what training estimates of them (up to "
                f"{100 * LARGEST_GAP:g} % is usual): please report it, with run.json",
            )
        return {**dev(codec), **facts}

    return numbers


class Pictures:
    """The whole images of a source, to be walked through again and again; decoded once where there is room."""

    def __init__(self, source: Source) -> None:
        self.count = len(source)
        self.originals = Originals(source, free_ram() // 3)  # type: ignore[arg-type]  # every source is also a store

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.originals[i] for i in range(self.count))


# --- the end of a run ------------------------------------------------------------------------------------


def finish(
    run: Run, average: nn.Module, val: Source | None, device: Device, meta: Mapping[str, Any], progress: Progress
) -> None:
    """Write the averaged codec as a model file, and what its real files are like."""
    assert isinstance(average, Codec)
    training = {name: run.config[name] for name in TOLD}
    about = {"facekit": __version__, "steps": progress.step, "training": training, **meta}
    model = exported(average, about)
    path = write_model(run.folder / MODEL_FILE, model)
    facts: dict[str, Any] = {
        "model_id": model.model_id.hex(),
        "weights_sha256": state_hash(average.state_dict()),
        "images_seen": progress.images,
        "seconds": round(progress.seconds, 1),
        "best_dev": progress.best,
    }
    if val is not None:
        facts["files"] = found = measured(model, val, device)
        say(
            "files",
            f"{found['images']} images of --val: {found['bpp']:.4f} bits a pixel ({found['estimated_bpp']:.4f} without "
            f"framing and coder states), {found['psnr']:.2f} dB",
        )
    run.write("done", facts)
    say("trained", f"{progress.step:,} steps in {progress.seconds / 60:.1f} min")
    say("wrote", f"{path}, model {model.model_id.hex()}")
    say("next", f"facekit compress encode IMAGES --model {run.folder} --out OUT")


def measured(model: CodecModel, val: Source, device: Device) -> dict[str, Any]:
    """Files of whole images, made and read again: means over the images."""
    coder = Coder(model, device.torch_device)
    rows = []
    with image_progress("files", len(val)) as advance:
        for image in Pictures(val):
            coded = coder.file(coder.latents([image])[0])
            error = np.square(image.astype(np.float64) - coder.decode(coded.data)).mean() / 255**2
            area = image.shape[0] * image.shape[1]
            psnr = -10 * np.log10(max(error, LEAST_ERROR))
            rows.append((8 * len(coded.data) / area, coded.bits / area, psnr, coded.clipped))
            advance(1)
    bpp, estimated, psnr, clipped = np.mean(rows, axis=0).tolist()
    return {
        "images": len(rows), "bpp": bpp, "estimated_bpp": estimated, "psnr": psnr, "n_clipped": clipped,
    }  # fmt: skip
