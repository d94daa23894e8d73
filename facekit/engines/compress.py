"""``facekit compress encode | decode``: images to ``.edic`` files or one archive, and back."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from facekit.codec import archive, container
from facekit.codec.archive import Archive, Entry, read_archive, write_archive
from facekit.codec.archiveindex import Shape
from facekit.codec.coder import Begun, Coded, Coder, Latent, Stream, grouped, of_entry, padded_size, shape_of
from facekit.codec.errors import EdicError
from facekit.codec.framing import opened
from facekit.codec.names import checked
from facekit.codec.opening import open_model
from facekit.configs import CodingOptions, CompressDecodeConfig, CompressEncodeConfig
from facekit.core.device import Device
from facekit.core.errors import FacekitError, InputError, UsageError
from facekit.core.files import write_atomic
from facekit.core.reporting import image_progress, printable, say
from facekit.data.decode import EXTENSIONS, BrokenImage, image_size
from facekit.data.fingerprint import read_image_file
from facekit.data.mirror import Mirrored, mirrored, require_free
from facekit.data.pictures import PictureRules, read_picture, write_picture
from facekit.data.prefetch import prefetched, reader_threads

FILE, ARCHIVE = ".edic", ".edica"


@dataclass
class Row:
    """What became of one image: a line of the report."""

    source: str
    target: str
    height: int | None = None
    width: int | None = None
    grey: bool | None = None
    bytes: int | None = None
    """Of the whole file, or of an archive's stream."""
    bpp: float | None = None
    estimated_bits: float | None = None
    """What the distributions charge, without framing and coder states."""
    n_clipped: int | None = None
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """By stage; of what a batch goes through together, this image's share."""
    skipped: bool = False
    error: str | None = None
    code: str | None = None

    def sized(self, shape: Shape, size: int) -> None:
        """Note the image's shape and its compressed bytes."""
        self.height, self.width, self.grey = shape.height, shape.width, shape.grey
        self.bytes, self.bpp = size, 8 * size / (shape.height * shape.width)


class Stopwatch:
    """Seconds since it was made, or since it was last read."""

    def __init__(self) -> None:
        self.begun = time.perf_counter()

    def read(self) -> float:
        """The seconds, and begin anew."""
        before, self.begun = self.begun, time.perf_counter()
        return self.begun - before


class Report:
    """Says what becomes of every image, goes on after a bad one, and fails at the end where there was any."""

    def __init__(self, verb: str, config: CodingOptions, advance: Callable[[int], None]) -> None:
        self.verb, self.json, self.advance = verb, config.json, advance
        self.images = self.skipped = self.bytes = self.pixels = 0
        self.failures: list[FacekitError] = []
        self.watch = Stopwatch()

    def done(self, row: Row) -> None:
        """One image is finished."""
        self.images += 1
        self.skipped += row.skipped
        if row.error is None and row.bytes is not None and row.height is not None and row.width is not None:
            self.bytes += row.bytes
            self.pixels += row.height * row.width
        if self.json:
            print(json.dumps(asdict(row), allow_nan=False), flush=True)
        self.advance(1)

    def failed(self, row: Row, error: FacekitError) -> None:
        """One image could not be coded."""
        row.error, row.code = str(error), error.code
        self.failures.append(error)
        say("failed", printable(f"{row.source}: {error}"))
        self.done(row)

    def end(self, out: Path, alone: bool) -> None:
        """Say it in one line. Raises the error of an image that was ``alone``, else InputError for all that failed."""
        good = self.images - self.skipped - len(self.failures)
        if good:
            bpp = 8 * self.bytes / self.pixels
            say("wrote", f"{out}: {good:,} images, {self.bytes:,} bytes compressed, {bpp:.4f} bits a pixel")
            say("speed", f"{good / max(self.watch.read(), 1e-9):,.1f} images a second")
        if self.skipped:
            say("skipped", f"{self.skipped:,} images whose results are there and fit")
        if self.failures and alone:
            raise self.failures[0]
        if self.failures:
            raise InputError(
                f"{len(self.failures)} of {self.images} images could not be {self.verb}d (named above); the others were"
            )


def threads_of(config: CodingOptions) -> int:
    """For files and entropy coding."""
    return config.jobs or reader_threads()


def check(config: CodingOptions) -> None:
    """What the flags alone decide."""
    if config.skip_existing and config.overwrite:
        raise UsageError("--skip-existing keeps what is there and --overwrite replaces it: give one of them")


# --- encode -----------------------------------------------------------------------------------------------


@dataclass
class Job:
    """An image on its way into a file."""

    plan: Mirrored
    row: Row
    pixels: np.ndarray


def encode(config: CompressEncodeConfig) -> None:
    """Compress --input into --out."""
    check(config)
    if config.archive and config.out.suffix != ARCHIVE:
        raise UsageError(f"--out {config.out} must end in {ARCHIVE} with --archive")
    if config.archive and (config.skip_existing or not config.latent_crc):
        raise UsageError("--skip-existing and --no-latent-crc are about single files, and --archive writes none")
    if not config.archive and not config.names:
        raise UsageError("--no-names is about --archive, and none was asked for")
    plan = listed(config)
    device = Device.pick(config.device, "fp32", threads=config.threads)
    coder = Coder(open_model(config.model), device.torch_device)
    with image_progress("encode", len(plan)) as advance:
        report = Report("encode", config, advance)
        if config.archive:
            write_archive(config.out, coder.model_id, coder.mode, entries(config, coder, plan, report))
        else:
            for _ in coded(
                config, coder, missing(config, coder, plan, report), report, partial(write_file, config, coder)
            ):
                pass
    report.end(config.out, config.input.is_file())


def listed(config: CompressEncodeConfig) -> list[Mirrored]:
    """What is to be encoded; refuses names and outputs that cannot be, before anything is written."""
    if not config.archive:
        plan = mirrored(config.input, config.out, EXTENSIONS, FILE)
        if not (config.skip_existing or config.overwrite):
            require_free([target for _, _, target in plan])
        return plan
    # Files of their own are not written, but names that would become one are refused all the same.
    plan = mirrored(config.input, config.input.parent, EXTENSIONS, FILE)
    if not config.overwrite:
        require_free([config.out])
    if config.names:
        checked(name for name, _, _ in plan)
    return plan


def missing(config: CompressEncodeConfig, coder: Coder, plan: Sequence[Mirrored], report: Report) -> Iterator[Mirrored]:
    """The files that --skip-existing leaves to be made: there is none, or it is no whole file of this model."""
    for one in plan:
        if not (config.skip_existing and is_whole(one.target, coder.model_id)):
            yield one
        else:
            report.done(Row(str(one.source), str(one.target), skipped=True))


def is_whole(path: Path, model_id: bytes) -> bool:
    """Whether a file's header is sound and of this model, and its length right. Its body is not read."""
    try:
        container.read_layout(path, model_id)
    except FacekitError:
        return False
    return True


def read_job(config: CompressEncodeConfig, one: Mirrored) -> Job | tuple[Row, FacekitError]:
    """Read an image, or say why not."""
    row, watch = Row(str(one.source), str(config.out if config.archive else one.target)), Stopwatch()
    rules = PictureRules(config.alpha, config.to_8bit, config.find_grey, config.max_pixels)
    try:
        picture = read_picture(read_image_file(one.source), rules)
    except BrokenImage as error:
        return row, error
    row.notes += picture.notes
    row.seconds["read"] = watch.read()
    return Job(one, row, picture.pixels)


def readable(config: CompressEncodeConfig, plan: Iterable[Mirrored], report: Report) -> Iterator[Job]:
    """The images that can be read, some ahead of the networks."""
    jobs = (partial(read_job, config, one) for one in plan)
    for found in prefetched(jobs, threads=threads_of(config), ahead=config.batch):
        if isinstance(found, Job):
            yield found
        else:
            report.failed(*found)


Finish = Callable[[Job, Latent], Coded]


def coded(
    config: CompressEncodeConfig, coder: Coder, plan: Iterable[Mirrored], report: Report, finish: Finish
) -> Iterator[tuple[Job, Coded]]:
    """Each image and what ``finish`` makes of its latent in another thread, in order; bad ones are reported."""
    waiting: deque[tuple[Job, Future[Coded]]] = deque()
    groups = grouped(readable(config, plan, report), lambda job: padded_size(*job.pixels.shape[:2]), config.batch)
    with ThreadPoolExecutor(threads_of(config), thread_name_prefix="facekit-code") as pool:
        for group in groups:
            for job, latent in latents(coder, group, report):
                waiting.append((job, pool.submit(finish, job, latent)))
            while len(waiting) > config.batch:  # one group is finished while the networks run for the next
                yield reported(*waiting.popleft(), report)
        while waiting:
            yield reported(*waiting.popleft(), report)


def latents(coder: Coder, group: Sequence[Job], report: Report) -> Iterator[tuple[Job, Latent]]:
    """Through the networks together; where one of several makes that impossible, each alone."""
    watch = Stopwatch()
    try:
        found = coder.latents([job.pixels for job in group])
    except EdicError as error:
        if len(group) == 1:
            report.failed(group[0].row, error)
            return
        for job in group:
            yield from latents(coder, [job], report)
        return
    seconds = watch.read() / len(group)
    for job, latent in zip(group, found, strict=True):
        job.row.seconds["networks"] = seconds
        yield job, latent


def write_file(config: CompressEncodeConfig, coder: Coder, job: Job, latent: Latent) -> Coded:
    """Code the latent and write the file."""
    watch = Stopwatch()
    made = coder.file(latent, config.latent_crc)
    job.row.seconds["entropy"] = watch.read()
    write_atomic(job.plan.target, made.data)
    job.row.seconds["write"] = watch.read()
    return made


def make_entry(coder: Coder, job: Job, latent: Latent) -> Coded:
    """Code the latent for an archive."""
    watch = Stopwatch()
    made = coder.entry(latent)
    job.row.seconds["entropy"] = watch.read()
    return made


def reported(job: Job, future: Future[Coded], report: Report) -> tuple[Job, Coded]:
    """Wait for an image and report it. What fails here (a full disk) would fail for all others."""
    made = future.result()
    job.row.sized(shape_of(job.pixels), len(made.data))
    job.row.estimated_bits, job.row.n_clipped = made.bits, made.clipped
    report.done(job.row)
    return job, made


def entries(config: CompressEncodeConfig, coder: Coder, plan: Sequence[Mirrored], report: Report) -> Iterator[Entry]:
    """The images as an archive takes them, in the order of the plan."""
    for job, made in coded(config, coder, plan, report, partial(make_entry, coder)):
        yield Entry(made.data, shape_of(job.pixels), job.plan.name if config.names else None)


# --- decode -----------------------------------------------------------------------------------------------


@dataclass
class Task:
    """A compressed image on its way to a picture."""

    target: Path
    row: Row
    stream: Stream


@dataclass(frozen=True)
class Coming:
    """A compressed image that was not read yet."""

    source: str
    target: Path
    read: Callable[[], tuple[Stream, int]]
    """Its stream, and its bytes as they lie on disk."""


def decode(config: CompressDecodeConfig) -> None:
    """Decompress --input into --out."""
    check(config)
    device = Device.pick(config.device, "fp32", threads=config.threads)
    coder = Coder(open_model(config.model), device.torch_device, config.precision)
    plan = archived(config, coder) if is_archive(config.input) else filed(config, coder)
    if not (config.skip_existing or config.overwrite):
        require_free([one.target for one in plan])
    with image_progress("decode", len(plan)) as advance:
        report = Report("decode", config, advance)
        decode_all(config, coder, plan, report)
    report.end(config.out, len(plan) == 1)


def is_archive(path: Path) -> bool:
    """Whether a file begins as an archive does."""
    if path.is_dir():
        return False
    with opened(path) as (file, _):
        return file.read(len(archive.MAGIC)) == archive.MAGIC


def filed(config: CompressDecodeConfig, coder: Coder) -> list[Coming]:
    """A file, or all of a folder."""

    def read(source: Path) -> tuple[Stream, int]:
        return coder.stream(container.read(source, coder.model_id, config.max_pixels)), source.stat().st_size

    plan = mirrored(config.input, config.out, [FILE], f".{config.format}")
    return [Coming(str(one.source), one.target, partial(read, one.source)) for one in plan]


def archived(config: CompressDecodeConfig, coder: Coder) -> list[Coming]:
    """All of an archive, under the names that it keeps, or by number."""
    found = read_archive(config.input, coder.model_id, config.max_pixels)
    names = found.names or [f"{i:06d}" for i in range(len(found))]
    return [
        Coming(f"{config.input}:{name}", config.out / f"{name}.{config.format}", partial(read_entry, found, i))
        for i, name in enumerate(names)
    ]


def read_entry(found: Archive, i: int) -> tuple[Stream, int]:
    """Image i of an archive."""
    entry = found[i]
    return of_entry(entry), len(entry.stream)


def intact(config: CompressDecodeConfig, plan: Iterable[Coming], report: Report) -> Iterator[Task]:
    """The images whose files are sound; with --skip-existing without those that are there in their size."""
    for one in plan:
        row, watch = Row(one.source, str(one.target)), Stopwatch()
        try:
            stream, size = one.read()
        except FacekitError as error:
            report.failed(row, error)
            continue
        row.sized(stream.shape, size)
        row.seconds["read"] = watch.read()
        if config.skip_existing and has_size(one.target, stream.shape):
            row.skipped = True
            report.done(row)
        else:
            yield Task(one.target, row, stream)


def has_size(path: Path, shape: Shape) -> bool:
    """Whether there is a picture of this size."""
    try:
        return image_size(read_image_file(path)) == (shape.height, shape.width)
    except BrokenImage:
        return False


def decode_all(config: CompressDecodeConfig, coder: Coder, plan: Iterable[Coming], report: Report) -> None:
    """Decode and write in groups. While one group is drawn, the entropy coding of the next one runs."""
    groups = grouped(intact(config, plan, report), lambda task: padded_size(*task.stream.shape[:2]), config.batch)
    before: list[tuple[Task, Future[np.ndarray]]] = []
    with ThreadPoolExecutor(threads_of(config), thread_name_prefix="facekit-code") as pool:
        for group in groups:
            begun = begin(coder, pool, group, report)
            draw(config, coder, pool, before, report)
            before = begun
        draw(config, coder, pool, before, report)


def begin(
    coder: Coder, pool: ThreadPoolExecutor, group: Sequence[Task], report: Report
) -> list[tuple[Task, Future[np.ndarray]]]:
    """Compute the distributions of each image, and have its latent decoded in another thread."""
    running = []
    for task in group:
        watch = Stopwatch()
        try:
            begun = coder.begun(task.stream)
        except EdicError as error:
            report.failed(task.row, error)
            continue
        task.row.seconds["hyper"] = watch.read()
        running.append((task, pool.submit(decode_latent, coder, task, begun)))
    return running


def decode_latent(coder: Coder, task: Task, begun: Begun) -> np.ndarray:
    """The image's latent."""
    watch = Stopwatch()
    latent = coder.latent(begun)
    task.row.seconds["entropy"] = watch.read()
    return latent


def draw(
    config: CompressDecodeConfig,
    coder: Coder,
    pool: ThreadPoolExecutor,
    running: Sequence[tuple[Task, Future[np.ndarray]]],
    report: Report,
) -> None:
    """Draw the pictures of a group, and write them."""
    tasks, latents = [], []
    for task, future in running:
        try:
            latents.append(future.result())
        except EdicError as error:
            report.failed(task.row, error)
            continue
        tasks.append(task)
    if not tasks:
        return
    watch = Stopwatch()
    pictures = coder.pictures([task.stream.shape for task in tasks], latents)
    seconds = watch.read() / len(tasks)
    for task, _ in zip(tasks, pool.map(partial(write_task, config), tasks, pictures), strict=True):
        task.row.seconds["synthesis"] = seconds
        report.done(task.row)


def write_task(config: CompressDecodeConfig, task: Task, pixels: np.ndarray) -> None:
    """Write one picture."""
    watch = Stopwatch()
    write_picture(task.target, pixels, config.format)
    task.row.seconds["write"] = watch.read()
