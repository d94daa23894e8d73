"""``facekit compress bench``: learned and classical codecs on the same images, or on the same faces."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from facekit.alignment.policy import require_apart
from facekit.codec import container
from facekit.codec.coder import Coder
from facekit.codec.modelfile import CodecModel
from facekit.codec.opening import open_model
from facekit.configs import CompressBenchConfig, FaceOptions, flag_name
from facekit.core.device import Device
from facekit.core.errors import InputError, OutputExists, UsageError
from facekit.core.files import plain
from facekit.core.reporting import image_progress, result_screen, say
from facekit.data.cache_dir import default_cache_dir
from facekit.data.originals import Originals
from facekit.data.pairs import PairSet, open_benchmark
from facekit.data.sources import Source, open_source
from facekit.evaluation import bytesperface, ratedistortion
from facekit.evaluation.bytebudget import budgets
from facekit.evaluation.classical import CLASSICAL, Classical, available, ladder
from facekit.evaluation.codedfaces import Embedder
from facekit.evaluation.facefigures import write_face_figures
from facekit.evaluation.facescreen import face_screen
from facekit.evaluation.figures import style
from facekit.evaluation.imagecodec import ImageCodec
from facekit.evaluation.published import looks_like_kodak, published_curves
from facekit.evaluation.rdfigures import write_rd_figures
from facekit.evaluation.rdscreen import rd_screen
from facekit.evaluation.results import describe_model
from facekit.models.loading import load_model

NAMES = {name.lower().replace(" ", "").replace(":", ""): name for name in CLASSICAL}
"""``jpeg420`` -> ``JPEG 4:2:0``: what --codecs takes, and what tables say."""
FACE_RUNGS = 8
"""Of each classical ladder: every one is another pass of all faces through the recogniser."""


def run(config: CompressBenchConfig) -> None:
    """Measure what was asked for, write it, draw it, print it."""
    check(config)
    device = Device.pick(config.device, "fp32", threads=config.threads)
    models = [(path, open_model(path)) for path in config.model]
    codecs = [*edic(models, config, device), *classical(config)]
    about = {
        "models": [described(path, model) for path, model in models],
        "synthesis": config.precision,
    }
    if config.data is not None:
        bench_images(config, config.data, codecs, device, about)
    else:
        bench_faces(config, codecs, device, about)


# --- what is asked, and whether it makes sense ------------------------------------------------------------


def check(config: CompressBenchConfig) -> None:
    """What the flags alone decide, and what would be known too late."""
    if (config.data is None) == (not config.faces):
        raise UsageError(
            "give --data (bits and quality of images) or --faces (recognition of coded faces): one of them"
        )
    if config.faces and config.recogniser is None:
        raise UsageError("--faces needs somebody who looks at them: give a face model as --recogniser")
    if config.data is not None:
        for field in fields(FaceOptions):
            if getattr(config, field.name) != field.default:
                raise UsageError(f"{flag_name(field)} is about --faces, and none were given")
    if config.dev is None and config.dev_images is not None:
        raise UsageError("--dev-images is the image root of --dev, and none was given")
    units = {CLASSICAL[NAMES[name]].unit for name in config.codecs}
    for flag, given, unit in (("--qualities", config.qualities, "quality"), ("--ratios", config.ratios, "ratio")):
        if given and units and unit not in units:
            raise UsageError(f"{flag} is read by none of --codecs {','.join(config.codecs)}")
    if (config.out / "results.json").exists():
        raise OutputExists(f"{config.out} holds results already; choose another --out")
    if config.figures:
        with style():
            pass  # a missing extra is said before the work, not after it


# --- codecs -----------------------------------------------------------------------------------------------


def edic(
    models: Sequence[tuple[Path, CodecModel]], config: CompressBenchConfig, device: Device
) -> Iterator[ImageCodec]:
    """Each model as one setting; models that were taught alike are one curve."""
    seen: dict[tuple[str, str], Path] = {}
    for path, model in models:
        point = curve_of(model), setting_of(model)
        if not model.encoder:
            raise InputError(f"{path} holds the decoder alone; give the whole model, or the run that made it")
        if point in seen:
            raise InputError(f"{seen[point]} and {path} are both {point[0]} at {point[1]}: give one of them")
        seen[point] = path
        coder = Coder(model, device.torch_device, config.precision)
        yield ImageCodec(*point, coder.encode, coder.decode, payload)


def curve_of(model: CodecModel) -> str:
    """``EDIC``, and in brackets what sets a model apart from others at its rate."""
    arch, taught = model.arch, taught_as(model)
    apart = [
        "MS-SSIM" * (taught.get("distortion") == "ms-ssim"),
        f"K {arch.k}" * (arch.k != 3),
        "no attention" * (not arch.attention),
        arch.enhancement * (arch.enhancement != "none"),
        "recogniser" * ("recogniser" in model.about),
        "faces" * ("faces" in model.about and "recogniser" not in model.about),
    ]
    shown = ", ".join(filter(None, apart))
    return f"EDIC ({shown})" if shown else "EDIC"


def setting_of(model: CodecModel) -> str:
    """``lambda 2048``; the model's number where its file does not say."""
    lam = taught_as(model).get("lambda")
    return f"lambda {lam:g}" if isinstance(lam, int | float) else f"model {model.model_id.hex()}"


def taught_as(model: CodecModel) -> Mapping[str, Any]:
    """What the file says of the codec's training; empty where it says nothing."""
    said = model.about.get("codec")
    return said if isinstance(said, Mapping) else {}


def payload(data: bytes) -> int:
    """Bytes of the two streams of an ``.edic`` file."""
    content = container.unpack(data, None)
    return len(content.z) + len(content.y)


def described(path: Path, model: CodecModel) -> dict[str, Any]:
    """A model in the document."""
    return {
        "codec": curve_of(model),
        "setting": setting_of(model),
        "path": path,
        "model_id": model.model_id.hex(),
        **asdict(model.arch),
        "about": model.about,
    }


def classical(config: CompressBenchConfig) -> Iterator[ImageCodec]:
    """The chosen classical codecs at their settings."""
    for name in [NAMES[short] for short in dict.fromkeys(config.codecs)] or available():
        yield from ladder(name, rungs(CLASSICAL[name], config))


def rungs(codec: Classical, config: CompressBenchConfig) -> Sequence[int]:
    """Those that were asked for; else the whole ladder, for faces a few spread over it."""
    given = config.qualities if codec.unit == "quality" else config.ratios
    if given:
        return list(dict.fromkeys(given))
    if not config.faces:
        return codec.ladder
    return [codec.ladder[i] for i in np.linspace(0, len(codec.ladder) - 1, FACE_RUNGS).round().astype(int)]


# --- images -----------------------------------------------------------------------------------------------


def bench_images(
    config: CompressBenchConfig, path: Path, codecs: Sequence[ImageCodec], device: Device, about: Mapping[str, Any]
) -> None:
    """Rate against distortion."""
    source = open_source(path, images=config.images, one_size=False)
    say("images", f"{path}: {len(source):,}; {len(codecs)} codecs and settings")
    sizes: list[tuple[int, int]] = []
    with image_progress("code", len(source) * len(codecs)) as advance:
        points = ratedistortion.measure(codecs, pictures(source, sizes), advance)
    order = list(dict.fromkeys(codec.name for codec in codecs))
    points.sort(key=lambda point: (order.index(point.codec), point.bpp))
    published = published_curves() if looks_like_kodak(sizes) else []
    rates = ratedistortion.bd_rates(points, published)
    images = {"path": path, "count": len(source), "fingerprint": source.fingerprint, "sizes": counted(sizes)}
    content = {**ratedistortion.document(points, rates, images=images, device=device.describe()), **about}
    written = [*ratedistortion.write_rd(config.out, content)]
    if config.figures:
        written += write_rd_figures(points, published, config.out)
    tell(config, content, written, rd_screen(points, rates))


def pictures(source: Source, sizes: list[tuple[int, int]]) -> Iterator[np.ndarray]:
    """The images in turn, uint8 [H,W,3]; their sizes are noted. None is kept."""
    originals = Originals(source, 0)  # type: ignore[arg-type]  # every source is also a store
    for i in range(len(source)):
        image = originals[i]
        sizes.append((image.shape[0], image.shape[1]))
        yield image


def counted(sizes: Sequence[tuple[int, int]]) -> dict[str, int]:
    """``{"512x768": 18, "768x512": 6}``."""
    return {f"{height}x{width}": sizes.count((height, width)) for height, width in dict.fromkeys(sizes)}


# --- faces ------------------------------------------------------------------------------------------------


def bench_faces(
    config: CompressBenchConfig, codecs: Sequence[ImageCodec], device: Device, about: Mapping[str, Any]
) -> None:
    """Recognition against bytes a face."""
    assert config.recogniser is not None
    benchmarks = [opened(text, config.images) for text in config.faces]
    dev = None if config.dev is None else opened(config.dev, config.dev_images)
    if dev is not None:
        require_apart(dev.source.identities, {name for pairs in benchmarks for name in pairs.source.identities})
    model = load_model(config.recogniser, device=device, channels=config.channels, scaling=config.scaling)
    total = sum(len(pairs.source) * (1 + len(codecs)) for pairs in benchmarks) + (len(dev.source) if dev else 0)
    with image_progress("faces", total) as advance:
        embedder = Embedder(
            model.embed,
            model.preprocess.flip if config.flip == "model" else config.flip,
            config.batch,
            model.cache_key(),
            config.cache_dir or default_cache_dir(),
            advance,
        )
        rows = bytesperface.measure_faces(
            benchmarks, codecs, embedder, sides=config.sides, fars=config.far, draws=config.draws, seed=config.seed,
            dev=dev,
        )  # fmt: skip
    found = budgets(rows)
    content = {
        **bytesperface.document(rows, found, benchmarks=benchmarks, device=device.describe()),
        **about,
        "recogniser": describe_model(model),
        "flip": embedder.flip,
        "dev": None if dev is None else dev.path,
    }
    written = [*bytesperface.write_faces(config.out, content)]
    if config.figures:
        written += write_face_figures(rows, config.out)
    tell(config, content, written, face_screen(rows, found))


def opened(text: str, images: Path | None) -> PairSet:
    """A list of pairs; what its reader left out is said."""
    pairs = open_benchmark(text, images)
    for note in pairs.notes:
        say("note", f"{pairs.name}: {note}")
    return pairs


# --- telling ----------------------------------------------------------------------------------------------


def tell(
    config: CompressBenchConfig, content: Mapping[str, Any], written: Sequence[Path], shown: Iterator[Any]
) -> None:
    """Which files there are, then the document, or tables."""
    say("wrote", f"{config.out}: {', '.join(path.name for path in written)}")
    if config.json:
        print(json.dumps(plain(content), indent=1, allow_nan=False))
        return
    screen = result_screen()
    for line in shown:
        screen.print(line, markup=False, soft_wrap=isinstance(line, str))
