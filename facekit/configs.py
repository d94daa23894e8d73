"""What every verb can be told: one frozen dataclass per verb, composed of shared option groups.

The command line, its help, the TOML file and ``run.json`` all come from these declarations. Flags beat
the file, the file beats the default. Standard library only, so that ``--help`` stays fast. The names
a user can choose are Literals here; a test equates them with the name tables of the packages.
"""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from facekit.core.errors import CorruptFile, MissingFile, UsageError, unknown_name

Backbone = Literal[
    "mbf_nano", "mbf_half", "mbf_s1", "mbf", "mbf_large", "r18", "r34", "r50", "r100", "r200"
]  # fmt: skip
Classifier = Literal[
    "resnet8", "resnet14", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "resnet8x4", "resnet32x4",
    "wrn16_1", "wrn16_2", "wrn40_1", "wrn40_2", "mobilenetv2_half", "conv3", "resnet18", "resnet34", "resnet50",
]  # fmt: skip
Head = Literal["arcface", "arcface_exact", "cosface", "adaface"]
Term = Literal[
    "cls", "fcd", "kd", "hint", "sp.gram", "sp.feature", "rkd.distance", "rkd.angle", "rad", "rad.inbatch",
    "cc.taylor", "cc.rbf", "cc.bilinear", "cc.mmd", "cc.paper", "cc.aberhu", "cc.tface", "cc.torchdistill",
    "cc.repdistiller",
]  # fmt: skip
Preset = Literal["coupleface", "cckd", "cc", "rkd", "sp"]
Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Flip = Literal["model", "sum", "concat", "none"]
Score = Literal["raw", "dao", "znorm", "tnorm", "snorm", "asnorm", "csls", "nicdm", "rerank", "fmr"]
Operator = Literal["add", "z", "ratio", "nicdm"]
Statistic = Literal["mean", "lse", "max"]
Sides = Literal["both", "enrol", "probe", "max"]
Reduce = Literal["single", "centre", "max"]
Condition = Literal["mask", "lowres", "blur", "dark", "grey", "jpeg"]
BankKind = Literal["cohort", "train", "latentmix", "cgan", "noise"]
NoiseList = Literal["original", "cleaned", "insightface"]
Weighting = Literal[
    "uniform", "clean_only", "focal", "self_paced", "small_loss", "coteaching", "l2rw", "mwnet", "fixed", "random",
    "law",
]  # fmt: skip
Row = Literal[Weighting, "uniform+clean"]
Feature = Literal["loss", "loss_abs", "loss_norm", "probs", "entropy", "entropy_norm", "similarity", "label"]
NoiseKind = Literal["sym", "flip", "longtail", "face-id", "face-image"]
RunStatus = Literal["done", "running", "silent", "unfinished", "interrupted", "failed", "broken"]


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    positional: bool = False,
    flag: str | None = None,
    separator: str = ",",
) -> Any:
    """A dataclass field that knows its help text, its range (``above`` is an open lower bound) and, where it holds
    several values, what stands between them on the command line.
    """
    metadata = {"help": help, "low": low, "high": high, "above": above, "positional": positional, "flag": flag}
    return dataclasses.field(default=default, metadata=metadata | {"separator": separator})


def flag_name(field: dataclasses.Field[Any]) -> str:
    """``weight_decay`` -> ``--weight-decay``, unless the field names another spelling; ``MODEL`` if positional."""
    if field.metadata["positional"]:
        return field.name.upper()
    return field.metadata.get("flag") or "--" + field.name.replace("_", "-")


def choices_of(annotation: Any) -> tuple[str, ...]:
    """The names that a Literal, or the Literals in a union or tuple, allow; empty for other types."""
    if typing.get_origin(annotation) is Literal:
        return typing.get_args(annotation)
    return tuple(name for part in typing.get_args(annotation) for name in choices_of(part))


def sections(kind: type[Config]) -> list[tuple[dataclasses.Field[Any], str | None]]:
    """The fields of a verb in the order of its help: its own (no heading), then each group under its name."""
    fields = {f.name: f for f in dataclasses.fields(kind)}
    found: list[tuple[dataclasses.Field[Any], str | None]] = []
    for group in kind.__mro__:
        title = None if group is kind else group.__name__.removesuffix("Options") + " options"
        found += [(fields.pop(name), title) for name in getattr(group, "__annotations__", ()) if name in fields]
    return found


# No generated comparison, text or matching: Config has them once for all, and every start pays for each of them.
@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class Config:
    """Base of all verbs: checks itself when built."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            check_value(field, hints[field.name], getattr(self, field.name))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, as written into run.json."""
        return {f.name: to_plain(getattr(self, f.name)) for f in dataclasses.fields(self)}


def to_plain(value: Any) -> Any:
    """Paths become text, tuples lists."""
    if isinstance(value, Path):
        return value.as_posix()
    return [to_plain(v) for v in value] if isinstance(value, tuple) else value


def check_value(field: dataclasses.Field[Any], annotation: Any, value: Any) -> None:
    """Refuse unknown names and numbers out of range, naming the flag, the value and what is allowed."""
    if value is None:
        return
    allowed = choices_of(annotation)
    for name in value if isinstance(value, tuple) else (value,):
        if allowed and name not in allowed:
            raise unknown_name(flag_name(field).lstrip("-"), str(name), allowed)
    low, high, above = (field.metadata.get(k) for k in ("low", "high", "above"))
    for number in value if isinstance(value, tuple) else (value,):
        if not isinstance(number, int | float) or isinstance(number, bool):
            continue
        outside = (
            not math.isfinite(number)
            or (low is not None and number < low)
            or (high is not None and number > high)
            or (above is not None and number <= above)
        )
        if outside:
            bounds = [f">= {low:g}" if low is not None else "", f"> {above:g}" if above is not None else ""]
            bounds.append(f"<= {high:g}" if high is not None else "")
            wanted = " and ".join(b for b in bounds if b) or "a finite number"
            raise UsageError(f"{flag_name(field)} is {number:g}, out of range: it must be {wanted}")


def convert(field: dataclasses.Field[Any], annotation: Any, value: Any) -> Any:
    """Turn a command-line or file value into the field's type, or say what was expected."""
    if value is None:
        return None
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return convert(field, next(a for a in args if a is not type(None)), value)
    if origin is tuple:
        items = value.split(field.metadata["separator"]) if isinstance(value, str) else list(value)
        return tuple(convert(field, args[0], v.strip() if isinstance(v, str) else v) for v in items if v != "")
    if origin is Literal:
        return str(value)
    if annotation is bool and isinstance(value, bool):
        return value
    try:
        if annotation is int and isinstance(value, float) and not value.is_integer():
            raise ValueError
        if annotation in (str, Path) and not isinstance(value, str | Path):
            raise ValueError  # str() would accept a list from a file
        if annotation in (int, float, str, Path) and not isinstance(value, bool):
            return annotation(value)
    except (TypeError, ValueError):
        pass
    wanted = getattr(annotation, "__name__", str(annotation))
    raise UsageError(f"{flag_name(field)} is {value!r}, expected a value of type {wanted}")


C = TypeVar("C", bound=Config)


def build(kind: type[C], given: Mapping[str, Any], file: Path | None = None) -> C:
    """Flags beat file, file beats default. Unknown keys in the file are refused with a suggestion."""
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    values = dict(read_config(file)) if file else {}
    for key in values:
        if key not in fields:
            raise unknown_name(f"option in {file}", key, fields)
    values.update({k: v for k, v in given.items() if v is not None})
    converted = {k: convert(fields[k], hints[k], v) for k, v in values.items() if v is not None}
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and converted.get(name) in (None, ()):
            raise UsageError(f"{flag_name(field)} is required: {field.metadata['help']}")
    return kind(**converted)


def read_config(path: Path) -> Mapping[str, Any]:
    """A TOML file of options, or the ``run.json`` of an earlier run (its ``config`` table)."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MissingFile(f"--config {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise MissingFile(f"--config {path} cannot be read: {error}") from error
    try:
        table = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise CorruptFile(f"--config {path} is neither TOML nor JSON: {error}") from error
    if not isinstance(table, dict):
        raise CorruptFile(f"--config {path} must hold a table of options")
    repeated = isinstance(table.get("config"), dict)
    options = table["config"] if repeated else table
    # A repeated run is a new run: where it writes and how it continues is not copied from the old one.
    left_out = ("out", "resume") if repeated else ()
    return {k.replace("-", "_"): v for k, v in options.items() if k not in left_out}


# --- option groups ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class DeviceOptions(Config):
    """Where and in which arithmetic a verb runs."""

    device: DeviceName = option("auto", "where to run; auto takes cuda, then mps, then cpu")
    precision: Precision = option("auto", "arithmetic of the networks; auto is bf16 where it is fast, else fp32")
    threads: int | None = option(None, "CPU threads for torch; default all cores", low=1)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class DataOptions(Config):
    """Which images a verb reads."""

    data: Path | None = option(
        None,
        "folder per identity, flat folder, list file, packed data, MXNet .rec, class-folder .tar, or CIFAR batches; "
        "default: the teacher's, else $FACEKIT_DATA",
    )
    images: Path | None = option(None, "image root for a list file; default its own folder")
    exclude: tuple[Path, ...] = option((), "pair lists whose people are left out of the data (comma separated)")
    min_images: int = option(1, "leave out identities with fewer images", low=1)
    take: str | None = option(
        None, "of every identity or class only these of its images by name, counted from 0: 500:1500, :500, 500:"
    )
    noise_plan: Path | None = option(
        None, "a plan that facekit data noise wrote: which of these images stay, and under which label"
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class RunOptions(Config):
    """Where a run is written and how it continues."""

    out: Path | None = option(None, "run folder; default runs/<verb>-<config hash>")
    resume: bool = option(False, "continue the run in --out; at once done if it is finished")
    init: Path | None = option(None, "start from these weights (not with --resume)")
    seed: int = option(0, "seed of initialisation, order and augmentation", low=0)
    budget_s: float | None = option(None, "save and exit 3 after this many seconds; run again with --resume", above=0)
    dry_run: bool = option(False, "build everything, run two steps, write nothing")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class FitOptions(Config):
    """The training loop."""

    epochs: int = option(20, "passes over the data", low=1)
    batch: int = option(128, "images in a step", low=1)
    accumulate: int = option(1, "batches whose gradients are summed before one optimiser step", low=1)
    lr: float = option(0.1, "peak learning rate", above=0)
    schedule: Literal["cosine", "linear", "constant", "step"] = option("cosine", "decay of the learning rate")
    milestones: tuple[float, ...] = option(
        (0.4, 0.7, 0.85), "shares of the run where 'step' drops lr x0.1", low=0, high=1
    )
    warmup: float = option(0.0, "share of the run with linearly rising learning rate", low=0, high=0.9)
    optimiser: Literal["sgd", "adamw"] = option("sgd", "sgd has momentum 0.9")
    weight_decay: float = option(5e-4, "weight decay", low=0)
    decay_norms: bool = option(True, "weight decay on BatchNorm, PReLU and biases too (as arcface_torch does)")
    clip: float = option(5.0, "clip the gradient norm at this value; 0 is off", low=0)
    flip: bool = option(True, "mirror half of the training images")
    mask: float = option(0.0, "share of the training images that wear a rendered face mask", low=0, high=1)
    crop: int = option(0, "shift training images by up to this many pixels each way, black outside (CIFAR: 4)", low=0)
    resized_crop: int | None = option(
        None, "cut a random window (8 to 100 % of the area) and resize it to this side (ImageNet: 224)", low=8
    )
    cache: Literal["auto", "ram", "device", "none"] = option("auto", "where decoded images are kept")
    save_minutes: float = option(5.0, "save a resumable state this often", above=0)
    save_steps: int | None = option(None, "also save every this many steps", low=1)
    keep: int = option(0, "numbered states kept beside 'last' and 'best'", low=0)
    log_every: int = option(20, "steps between two rows of metrics.jsonl", low=1)
    dev: str | None = option(None, "benchmark for choosing 'best': LIST or allpairs:LIST, evaluated every epoch")
    dev_images: Path | None = option(None, "image root of --dev; default its folder's images/")
    compile: bool = option(False, "torch.compile the network (30 s or more to start)")
    deterministic: bool | None = option(None, "bit-identical repeats; default on for cpu, off for cuda")
    tensorboard: bool = option(False, "also write TensorBoard events (needs the tensorboard package)")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class SamplerOptions(Config):
    """Which images meet in a batch."""

    sampler: Literal["uniform", "cur", "sur"] = option(
        "uniform",
        "uniform: any; cur: as many images of each of a few classes; sur: of a few superclasses, which are clusters of "
        "the teacher's embeddings (both after arXiv 1904.01802, lab)",
    )
    per_class: int = option(4, "cur and sur: images of each class in a batch (k)", low=1)
    superclasses: int | None = option(
        None, "sur: clusters; default the larger of 2 batch/k and a quarter of the classes", low=2
    )
    cluster_by: Path | None = option(None, "sur: the model whose embeddings are clustered; default the teacher")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class SeveralOptions(Config):
    """Several runs in one process."""

    seeds: tuple[int, ...] = option(
        (),
        "train these seeds at once, as 0,1,2: they share every pass, which pays on a GPU; OUT/seed_N is each run",
        low=0,
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class CongruenceOptions(Config):
    """What the terms cc.taylor, cc.rbf, cc.bilinear and cc.mmd compare (after arXiv 1904.01802), and hint."""

    gamma: float = option(0.4, "width of the kernels rbf and taylor", above=0)
    order: int = option(2, "highest power of cc.taylor, included", low=0, high=50)
    cc_rows: Literal["unit", "raw"] = option("unit", "embeddings of unit length, or as they are")
    cc_reduction: Literal["mean", "fro_b2", "offdiag_mean"] = option(
        "mean", "of the squared differences: their mean, their root over B^2 (torchdistill), mean off the diagonal"
    )
    cc_center: bool = option(False, "subtract the mean of the batch from the unit rows")
    hint_stage: int | None = option(None, "hint: match the map at the end of this stage; default the embedding", low=1)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class RelationOptions(Config):
    """What the terms rad and rad.inbatch compare."""

    neighbours: int | None = option(
        None, "identities each sample is related to (K); default 64, or all there are", low=1
    )
    mining: Literal["topk", "random"] = option("topk", "the K most similar identities, or K random ones (control)")
    relation: Literal["st", "ss", "st+ss"] = option(
        "st", "student against the teacher's bank (st), against its own bank (ss), or both"
    )
    rad_norm: Literal["l2", "l1", "smooth_l1"] = option("l2", "size of a difference of relations")
    refresh: bool = option(True, "refresh the bank with what training sees; off keeps the prototypes (control)")
    slots: int = option(1, "features kept for each identity", low=1)
    slot: Literal["draw", "all"] = option("draw", "with several slots: one drawn for each relation, or their mean")
    bank_momentum: float = option(0.0, "share of the old feature that a refresh keeps", low=0, high=0.999)
    local_relations: bool = option(False, "with several processes: relate within each process's part of the batch")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class ImportOptions(Config):
    """How a foreign model's input is described where its file does not say."""

    channels: Literal["rgb", "bgr"] | None = option(None, "colour order a foreign model expects, where not known")
    scaling: Literal["raw", "unit", "symmetric", "128", "imagenet", "cifar100"] | None = option(
        None,
        "input range of a foreign model: raw 0..255, unit 0..1, symmetric (x-127.5)/127.5, 128 (x-127.5)/128, or the "
        "mean and deviation of a data set",
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class EvalOptions(Config):
    """What is measured and how."""

    benchmark: tuple[str, ...] = option(
        dataclasses.MISSING, "pair list, .bin, folder with pairs.txt, or allpairs:LIST (comma separated)"
    )
    images: Path | None = option(None, "image root of the lists; default a sibling images/")
    flip: Flip = option("model", "flip fusion: model follows the model's own table")
    draws: int = option(1000, "bootstrap draws", low=100)
    seed: int = option(0, "seed of the bootstrap", low=0)
    batch: int = option(64, "images embedded at once", low=1)
    cache_dir: Path | None = option(None, "embedding cache; default $FACEKIT_CACHE, else ~/.cache/facekit")
    json: bool = option(False, "print the results document to stdout, and nothing else there")
    out: Path | None = option(None, "folder for results.json and results.csv")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class ProtocolOptions(Config):
    """What protocols beyond listed pairs read."""

    gallery: Path | None = option(
        None, "enrolled faces: folder per identity, list file, or embeddings (.npz, .npy); measured with --probe"
    )
    probe: Path | None = option(None, "searched faces, as --gallery; people who are not enrolled count for FPIR")
    fpir: tuple[float, ...] = option((0.1, 0.01, 0.003), "operating points for TPIR", above=0, high=1)
    rank: tuple[int, ...] = option((1, 5, 10), "ranks of the identification rate", low=1)
    image_norm: Literal["keep", "unit"] = option(
        "keep", "IJB: pool embeddings as they are (InsightFace), or of unit length"
    )
    faceness: bool = option(True, "IJB: weigh every image by its detection score (D1)")
    megaface_list: NoiseList = option(
        "cleaned", "MegaFace: drop the listed noise, replace it as InsightFace does, or nothing"
    )
    ties: Literal["pessimistic", "optimistic"] = option("pessimistic", "MegaFace: who wins a tie, distractor or mate")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class AlignmentOptions(Config):
    """How scores are aligned by each face's inter-class neighbours (idea: abstract of arXiv 2103.01559)."""

    support: tuple[str, ...] = option(
        (),
        "where neighbours come from: cohort=PATH, train=PATH, latentmix=PATH (folders of other people), gallery, "
        "noise, learned=FILE from fit-estimator, or a bank .npz from align-eval bank (comma separated)",
    )
    policy: Path | None = option(None, "repeat the alignment of this policy.json; replaces the options below")
    operator: Operator = option("add", "discrepancy operator of dao")
    alpha: float | None = option(
        None, "strength of dao; default 0.5, or the best on --dev where that is given", low=0, high=2
    )
    neighbours: int = option(50, "inter-class neighbours of each image (K)", low=1)
    radius: float | None = option(None, "take all neighbours at least this similar instead (10 to 200)", low=-1, high=1)
    statistic: Statistic = option("mean", "of the similarities to the neighbours")
    tau: float = option(0.05, "temperature of the statistic lse", above=0)
    sides: Sides = option("both", "whose discrepancy counts")
    ddof: Literal["0", "1"] = option("0", "degrees of freedom of deviations: wespeaker and bob 0, speechbrain 1")
    reduce: Reduce = option("single", "images of one identity in the support set: one, their centre, or the closest")
    same_above: float | None = option(
        None, "a neighbour more similar than this is taken for the same person and left out", low=-1, high=1
    )
    partners: Literal["near", "global"] = option("near", "latentmix: mix neighbouring people, or any")
    candidates: int = option(10_000, "latentmix and noise: virtual people at most", low=10)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class ScoreOptions(AlignmentOptions):
    """Which ways to score are compared."""

    scores: tuple[Score, ...] = option(
        ("raw",),
        "ways to score, side by side. dao (stable with a cohort, after the abstract of arXiv 2103.01559): minus "
        "alpha x mean similarity to the neighbours, in both images; the others are its published kin",
    )
    selection: Literal["own", "cross"] = option("own", "asnorm: neighbours of each side, or of the other side")


# --- verbs -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class HeadOptions(Config):
    """The classification head of an embedder; networks with classes of their own have none."""

    head: Head = option(
        "arcface",
        "margin head; arcface has arcface_torch's straight-through gradient, adaface is after arXiv 2204.00964",
    )
    margin: float | None = option(
        None, "margin of the head; default 0.5 (arcface), 0.4 (cosface, adaface)", low=0, high=1.5
    )
    logit_scale: float = option(64.0, "scale s of the head", above=0)
    init_head: Path | None = option(None, "start the head from these class centres, as facekit head merge writes them")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class WeightingOptions(Config):
    """How much each training sample counts."""

    weighter: str = option(
        "uniform",
        "rule that weighs the losses of samples, with settings as small_loss:tau=0.3. law:POLICY.json (lab, after the "
        "abstract of arXiv 1905.11058); its rivals self_paced, small_loss, coteaching, focal, l2rw, mwnet, fixed, "
        "random; clean_only (the ceiling, where a noise plan tells the truth)",
    )
    clean: Path | None = option(None, "images with trusted labels, for l2rw and mwnet: any form that --data takes")
    clean_take: str | None = option(None, "of every identity or class of --clean only these of its images, as --take")
    clean_batch: int = option(100, "images of --clean in a step", low=1)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class NetworkOptions(Config):
    """The network that is trained."""

    model: Backbone | Classifier = option("mbf_half", "network to train")
    embedding: int = option(512, "embedding width", low=2, high=4096)
    dropout: float = option(0.0, "dropout before the embedding layer", low=0, high=0.99)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class TrainConfig(
    NetworkOptions,
    DataOptions,
    RunOptions,
    FitOptions,
    SamplerOptions,
    WeightingOptions,
    HeadOptions,
    SeveralOptions,
    DeviceOptions,
):
    """Train a network on labelled images: a teacher, or the student-alone baseline."""

    save_route: int = option(0, "keep the network every this many epochs, for route-train; 0 is off", low=0)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class RouteRecordConfig(TrainConfig):
    """Train a teacher and keep the states on its way: the route that students are taught along."""

    save_route: int = option(0, "keep the network every this many epochs; 0 is every 5 % of them", low=0)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class StudentOptions(Config):
    """The student, and what it learns from."""

    student: Backbone | Classifier = option("mbf_half", "network of the student")
    method: tuple[Preset | Term, ...] = option(
        ("fcd",),
        "loss terms joined by +. fcd (stable, after the abstract of arXiv 2204.05502): match normalised embeddings, "
        "labels not needed; rad (lab, after the same abstract): match relations to mined identities; rad.inbatch "
        "(control): to the batch; cls: classification; kd (stable on closed sets, after arXiv 1503.02531): match "
        "softened class scores; sp.gram (stable on closed sets), sp.feature, rkd.*, hint (lab): their published kin; "
        "cc.* (lab, after arXiv 1904.01802): match kernels of the batch, each name one formula published as CC; "
        "coupleface is fcd+rad, cckd cls+kd+cc.taylor",
        separator="+",
    )
    weights: tuple[str, ...] = option(
        (),
        "weights of terms, as fcd=8,rad=300; default fcd 32, rad 100, rad.inbatch 100, cls 0.1, kd 0.9, hint 100, "
        "sp.gram 3000, sp.feature 100, rkd.distance 25, rkd.angle 50, cc.taylor 100, cc.rbf 100, cc.bilinear 100, "
        "cc.aberhu 100, cc.torchdistill 0.003, cc.repdistiller 0.02",
    )
    embedding: int | None = option(None, "embedding width of the student; default the teacher's", low=2, high=4096)
    tau: float = option(4.0, "temperature of kd", above=0)
    dropout: float = option(0.0, "dropout before the student's embedding layer", low=0, high=0.99)
    teacher_view: Literal["clean", "same"] = option(
        "clean", "with --mask: the teacher sees the face without the mask (may be cached), or what the student sees"
    )
    teacher_cache: bool = option(True, "compute the teacher's outputs once and keep them on disk")
    cache_dir: Path | None = option(None, "where they are kept; default $FACEKIT_CACHE, else ~/.cache/facekit")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class LearningOptions(
    DataOptions,
    RunOptions,
    FitOptions,
    SamplerOptions,
    StudentOptions,
    HeadOptions,
    RelationOptions,
    CongruenceOptions,
    DeviceOptions,
):
    """All that says how a student learns from a given teacher."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class DistillConfig(LearningOptions, WeightingOptions, SeveralOptions, ImportOptions):
    """Train a small student from a teacher, on labelled or unlabelled images."""

    teacher: Path = option(dataclasses.MISSING, "run folder, .pt/.pth/.safetensors, or .onnx")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class ValidationOptions(Config):
    """Held-out images on which the hardness of a teacher's states is measured: never training, never test images."""

    val: str | None = option(
        None, "images as in --data, or a pair list or allpairs:LIST, whose images are used (needed by --strategy gs)"
    )
    val_images: Path | None = option(None, "image root of --val where that is a list")
    val_take: str | None = option(None, "of every identity or class of --val only these images, as --take")
    hardness: Literal["kl_ts", "kl_st"] = option(
        "kl_ts", "direction of the divergence between class scores: KL(teacher || student), or the other"
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class AnchorOptions(Config):
    """Which states of the route teach, and in which order (RCO, after the abstract of arXiv 1904.09149, lab)."""

    strategy: Literal["eei", "one-stage", "gs"] = option(
        "eei",
        "eei: states at equal epoch intervals, a stage for each; one-stage: the same within the ordinary number of "
        "epochs; gs: search the next one greedily by its hardness for the student",
    )
    interval: int | None = option(None, "epochs of the teacher between two anchors; default a quarter of them", low=1)
    anchors: tuple[int, ...] = option((), "these epochs of the teacher instead, as 5,10,20 (the last one is added)")
    delta: float = option(1.5, "gs: how much harder than the present one the next anchor may be", low=1)
    first_anchor: int | None = option(None, "gs: epoch of the first anchor; default the first state", low=1)
    max_anchors: int | None = option(None, "gs: at most so many anchors; the last one is always used", low=1)
    control: Literal["none", "restart", "reversed", "shuffled", "long"] = option(
        "none",
        "restart: the final teacher in every stage; reversed, shuffled: the anchors in another order, the final one "
        "last; long: the final teacher, as many epochs, one schedule",
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class RoutePlanConfig(AnchorOptions, ValidationOptions, DeviceOptions):
    """Show a recorded route, and the anchors that a student would be taught along."""

    route: Path = option(dataclasses.MISSING, "run folder of a teacher trained with --save-route")
    seed: int = option(0, "seed of --control shuffled", low=0)
    cache_dir: Path | None = option(None, "embedding cache; default $FACEKIT_CACHE, else ~/.cache/facekit")
    json: bool = option(False, "print JSON to stdout, and nothing else there")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class RouteRunConfig(AnchorOptions, ValidationOptions, LearningOptions):
    """Train a student along a teacher's route: --epochs is the length of a stage (one-stage: of all)."""

    route: Path = option(dataclasses.MISSING, "run folder of a teacher trained with --save-route")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class RouteStatusConfig(Config):
    """Show how far a route-train run is: stages, hardness, congruence with the final teacher."""

    run: Path = option(dataclasses.MISSING, "run folder of route-train run", positional=True)
    json: bool = option(False, "print JSON to stdout, and nothing else there")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class AlignEvalConfig(EvalOptions, ProtocolOptions, ScoreOptions, ImportOptions, DeviceOptions):
    """Measure a model on face benchmarks, raw and aligned, with an interval behind every number."""

    model: Path | None = option(None, "run folder, weights file or .onnx; or give --embeddings")
    embeddings: Path | None = option(
        None, "embeddings instead of a model: .npz (embs, names), or .npy with a .csv of names beside it"
    )
    benchmark: tuple[str, ...] = option(
        (),
        "pair list, .bin, folder with pairs.txt, allpairs:LIST, cfp-fp:DIR, cfp-ff:DIR, agedb:DIR, ijbb:DIR, ijbc:DIR, "
        "megaface:DIR, retrieval:DIR, classes:DATA (closed set), scores:FILE (Bob's four columns) (comma separated)",
    )
    far: tuple[float, ...] = option((1e-2, 1e-3, 1e-4), "operating points for TAR", above=0, high=1)
    dev: str | None = option(None, "benchmark of other people: thresholds and alpha are chosen there, and kept")
    dev_images: Path | None = option(None, "image root of --dev; default its folder's images/")
    condition: tuple[Condition, ...] = option((), "also with probes rendered so, at thresholds frozen on clean images")
    compare: Path | None = option(None, "a second model on the same pairs: is it better, and is that chance?")
    save_scores: Path | None = option(
        None, "folder for the score of every pair: .npy in the order of the list, and Bob's four columns (.txt)"
    )
    report: Path | None = option(None, "write one self-contained HTML page here, its figures beside it")
    thumbnails: bool = option(False, "show the hardest pairs in the report: face images leave your data with it")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class BankConfig(DataOptions, ImportOptions, DeviceOptions):
    """Write a support bank: the faces that scores are aligned against."""

    model: Path = option(dataclasses.MISSING, "run folder, weights file or .onnx that the bank is for")
    kind: BankKind = option("cohort", "other people, training people, or virtual people made from them")
    out: Path = option(dataclasses.MISSING, ".npz file to write")
    reduce: Reduce = option("single", "images of one identity: one, their centre, or the closest")
    generator: Path | None = option(None, "cgan: run folder of align-eval fit-generator")
    drawn_for: Path | None = option(None, "cgan: the model that the generator was trained with; default --model")
    partners: Literal["near", "global"] = option("near", "virtual people: mix neighbouring people, or any")
    candidates: int = option(10_000, "virtual people at most", low=10)
    flip: Flip = option("model", "flip fusion: model follows the model's own table")
    batch: int = option(64, "images embedded at once", low=1)
    seed: int = option(0, "seed of virtual people", low=0)
    cache_dir: Path | None = option(None, "embedding cache; default $FACEKIT_CACHE, else ~/.cache/facekit")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class FitEstimatorConfig(DataOptions, ImportOptions, DeviceOptions):
    """Learn to tell a face's discrepancy from its embedding alone: no other image at evaluation."""

    model: Path = option(dataclasses.MISSING, "run folder, weights file or .onnx that the estimator is for")
    out: Path = option(dataclasses.MISSING, ".safetensors file to write, its .json beside it")
    neighbours: int = option(50, "inter-class neighbours behind the target (K)", low=1)
    statistic: Statistic = option("mean", "of the similarities to the neighbours")
    tau: float = option(0.05, "temperature of the statistic lse", above=0)
    reduce: Reduce = option("single", "images of one identity in the bank behind the target")
    augment: bool = option(True, "also learn from blurred, small and occluded copies of the images")
    epochs: int = option(20, "passes over the data", low=1)
    batch: int = option(512, "embeddings in a step", low=2)
    lr: float = option(1e-3, "learning rate of AdamW", above=0)
    weight_decay: float = option(1e-4, "weight decay", low=0)
    flip: Flip = option("model", "flip fusion: model follows the model's own table")
    seed: int = option(0, "seed of the halves, the held-out people and the order", low=0)
    cache_dir: Path | None = option(None, "embedding cache; default $FACEKIT_CACHE, else ~/.cache/facekit")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class FitGeneratorConfig(DataOptions, RunOptions, ImportOptions, DeviceOptions):
    """Train a conditional GAN that draws the face of an embedding (lab): virtual people for the support set."""

    model: Path = option(dataclasses.MISSING, "run folder or weights file whose embeddings are drawn")
    side: Literal["32", "64", "112"] = option("64", "side of the generated images")
    steps: int = option(20_000, "training steps", low=1)
    batch: int = option(64, "images in a step", low=2)
    lr: float = option(2e-4, "learning rate of both networks", above=0)
    identity_weight: float = option(5.0, "weight of 1 - cos(embedding of the drawn face, the one asked for)", low=0)
    r1: float = option(1.0, "weight of the discriminator's R1 gradient penalty", low=0)
    r1_every: int = option(16, "steps between two penalties", low=1)
    ema: float = option(0.999, "decay of the averaged generator", low=0, high=0.9999)
    save_minutes: float = option(5.0, "save a resumable state this often", above=0)
    log_every: int = option(20, "steps between two rows of metrics.jsonl", low=1)
    deterministic: bool | None = option(None, "bit-identical repeats; default on for cpu, off for cuda")
    cache_dir: Path | None = option(None, "embedding cache; default $FACEKIT_CACHE, else ~/.cache/facekit")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class SwapConfig(EvalOptions, ScoreOptions, ImportOptions, DeviceOptions):
    """Can the new model replace the old one without enrolling anybody again?"""

    old: Path = option(dataclasses.MISSING, "the model whose gallery and threshold are in use")
    new: Path = option(dataclasses.MISSING, "the model that shall embed the probes from now on")
    threshold: float | None = option(None, "cosine threshold in use; not with --far", low=-1, high=1)
    far: float | None = option(
        None, "false-accept rate whose threshold of the old model is in use; default 0.001", above=0, high=0.5
    )
    tolerance: float = option(0.02, "loss of TAR that is acceptable for a swap", low=0, high=1)
    report: Path | None = option(None, "write one self-contained HTML page here")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class RunsListConfig(Config):
    """List the runs below a folder: how far each is, why it stopped, how good it is."""

    root: Path = option(Path("runs"), "folder that holds the runs, at any depth", positional=True)
    status: tuple[RunStatus, ...] = option((), "only runs of these states (comma separated)")
    sort: Literal["path", "age", "dev", "test"] = option(
        "path", "order: by path, youngest first, or best number first on dev or test"
    )
    json: bool = option(False, "print JSON to stdout, and nothing else there")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class RunsShowConfig(Config):
    """Show one run in full: options, data, progress, dev numbers, results, files."""

    run: Path = option(dataclasses.MISSING, "run folder", positional=True)
    json: bool = option(False, "print JSON to stdout, and nothing else there")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class RunsCompareConfig(EvalOptions, ImportOptions, DeviceOptions):
    """Which runs are better than the first one, and is that more than chance?"""

    run: tuple[Path, ...] = option(
        dataclasses.MISSING,
        "run folders, checkpoints or model files; the first one's arm is the control, runs that differ only in "
        "--seed are one arm",
        positional=True,
    )
    benchmark: tuple[str, ...] = option(
        (),
        "measure all on these pairs (a list, .bin, allpairs:LIST) or classes (classes:DATA), pair by pair or image by "
        "image; default: their results side by side",
    )
    far: tuple[float, ...] = option(
        (1e-3, 1e-2, 1e-4), "operating points for TAR; the first that the benchmark can bear decides", above=0, high=1
    )
    gallery: Path | None = option(None, "also try each as probe against a gallery embedded by this model")
    json: bool = option(False, "print the comparison to stdout as JSON, and nothing else there")
    out: Path | None = option(None, "folder for compare.json and compare.csv")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class EmbedConfig(AlignmentOptions, ImportOptions, DataOptions, DeviceOptions):
    """Embed a folder of faces: float32, not normalised."""

    model: Path = option(dataclasses.MISSING, "run folder, weights file or .onnx")
    out: Path = option(dataclasses.MISSING, "file to write: .npz, or .npy with a .csv of names beside it")
    aligned: Literal["enrol", "probe"] | None = option(
        None, "write vectors of D+2 numbers whose inner product is the score aligned by --support or --policy"
    )
    flip: Flip = option("model", "flip fusion: model follows the model's own table")
    batch: int = option(64, "images embedded at once", low=1)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class ExportConfig(ImportOptions):
    """Write an ONNX file and prove that it computes the same embeddings."""

    model: Path = option(dataclasses.MISSING, "run folder or weights file")
    out: Path = option(dataclasses.MISSING, ".onnx file to write")
    data: Path = option(dataclasses.MISSING, "real images for the parity gate")
    count: int = option(256, "images in the parity gate", low=1)
    min_cosine: float = option(0.9999, "least cosine between the two embeddings of an image", high=1)
    max_difference: float = option(1e-3, "largest difference allowed, relative to the largest embedding value", above=0)
    opset: int = option(18, "ONNX opset", low=18)
    with_estimator: Path | None = option(
        None, "also output aligned vectors of D+2 numbers for enrolling and searching, by this file of fit-estimator"
    )
    alpha: float = option(0.5, "strength of the alignment --with-estimator", low=0, high=2)
    threads: int | None = option(None, "CPU threads of the parity gate; default all cores", low=1)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class ProfileConfig(ImportOptions, DeviceOptions):
    """Count parameters and multiply-accumulates, time a single image."""

    model: str = option(dataclasses.MISSING, "network name, run folder, weights file or .onnx", positional=True)
    embedding: int = option(512, "embedding width for a backbone name", low=2)
    repeats: int = option(30, "timed single-image passes", low=3)
    json: bool = option(False, "print JSON to stdout, and nothing else there")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class PackConfig(DataOptions):
    """Write images into one packed file that is read at memory speed."""

    out: Path = option(dataclasses.MISSING, "folder to write: data.bin, index.npy, names.txt, pack.json")
    kind: Literal["jpeg", "uint8"] = option("jpeg", "jpeg keeps the encoded bytes; uint8 stores pixels")
    size: int | None = option(
        None, "resize the short side of uint8 images to this and keep the middle square; default as they are", low=8
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class CheckConfig(DataOptions):
    """Look for broken, tiny, duplicate and mis-sized images, and for people shared with a test list."""

    test_list: tuple[Path, ...] = option((), "pair lists whose people must not be in the data (comma separated)")
    size: int = option(112, "expected side of the images", low=8)
    json: bool = option(False, "print JSON to stdout, and nothing else there")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class SynthConfig(Config):
    """Render procedural identities: data for demos and tests, owned by nobody."""

    out: Path = option(
        dataclasses.MISSING, "folder to write: images/<identity>/, pairs_dev.txt, pairs_test.txt, synth.json"
    )
    identities: int = option(100, "people", low=2)
    per_identity: int = option(20, "images of each", low=2)
    size: int = option(112, "side of the images", low=32)
    seed: int = option(0, "seed", low=0)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class PairsConfig(DataOptions):
    """Write a verification set of your own people: balanced, folds that share nobody, classes interleaved."""

    out: Path = option(dataclasses.MISSING, "folder to write: pairs.csv and images/")
    pairs: int = option(6000, "pairs, half of them of one person", low=20)
    folds: int = option(10, "folds that share no person", low=2)
    per_person: int = option(10, "same-person pairs of one person at most", low=1)
    seed: int = option(0, "seed of the choice", low=0)
    bin: bool = option(False, "also write InsightFace's .bin into the folder")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class NoiseConfig(DataOptions):
    """Plan wrong labels or a long tail: a small file that --noise-plan applies. No image is touched."""

    out: Path = option(dataclasses.MISSING, "plan to write (.npz)")
    kind: NoiseKind = option(
        "sym",
        "sym: a label drawn anew from all classes; flip: each class to one other; longtail: ever fewer images "
        "per class; face-id: all images of some identities; face-image: single images",
    )
    p: float = option(
        0.4, "share of labels that are drawn anew or flipped, of identities for face-id; 0 to below 1; not for longtail"
    )
    exclude_self: bool = option(False, "sym: never draw the true class again, so that p is the share of wrong labels")
    imbalance: float = option(100.0, "longtail: images of the largest class over those of the smallest", low=1)
    seed: int = option(0, "seed of the plan", low=0)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class HeadMergeConfig(Config):
    """Join the PartialFC shards that arcface_torch wrote for each GPU into one head."""

    shard: tuple[Path, ...] = option(
        dataclasses.MISSING, "checkpoint_gpu_N.pt or softmax_fc_gpu_N.pt of all ranks, in any order", positional=True
    )
    out: Path = option(dataclasses.MISSING, ".safetensors file to write")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class HeadSliceConfig(Config):
    """Cut a head into PartialFC shards, so that arcface_torch can go on with another number of GPUs."""

    head: Path = option(dataclasses.MISSING, "head as facekit head merge writes it", positional=True)
    world: int = option(dataclasses.MISSING, "number of GPUs, one shard each", low=1)
    out: Path = option(dataclasses.MISSING, "new folder for softmax_fc_gpu_N.pt, or checkpoint_gpu_N.pt")
    checkpoint: Path | None = option(
        None, "a checkpoint_gpu_N.pt of the run: write whole ones, its network, optimiser and schedule in each"
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class DoctorConfig(Config):
    """Say what is installed, which device and precision would be used, and what is missing."""

    json: bool = option(False, "print JSON to stdout, and nothing else there")


RUN_VERBS: dict[str, type[Config]] = {
    "train": TrainConfig,
    "distill": DistillConfig,
    "fit-generator": FitGeneratorConfig,
    "route-train record": RouteRecordConfig,
    "route-train run": RouteRunConfig,
}
"""The verbs that leave run folders."""


def defaults_of(verb: str) -> dict[str, Any]:
    """The defaults of a verb's options as run.json would hold them; {} for a verb that leaves no runs."""
    fields = dataclasses.fields(RUN_VERBS[verb]) if verb in RUN_VERBS else ()
    return {f.name: to_plain(f.default) for f in fields if f.default is not dataclasses.MISSING}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class RewardOptions(Config):
    """Clean images that nobody trains on: what rewards, tuning and choice are measured on."""

    val: str | None = option(
        None, "classes:PATH (accuracy), or a pair list or allpairs:LIST of other people (TAR); labels must be right"
    )
    val_images: Path | None = option(None, "image root of --val where that is a list; default its folder's images/")
    val_take: str | None = option(None, "of every class of --val only these of its images, as --take")
    val_far: float = option(1e-3, "FAR of the TAR that pairs are rewarded by", above=0, high=1)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class PolicyOptions(Config):
    """What a policy may look at and do, and how long it is searched for."""

    features: tuple[Feature, ...] = option(
        ("loss_norm", "entropy_norm"), "what a weight may depend on, of each sample in its batch"
    )
    hidden: int = option(0, "units of the layer between features and weight; 0 is linear", low=0, high=16)
    stages: int = option(10, "parts of a training, each with one action", low=2)
    warm_up: int = option(2, "stages at the beginning in which every sample weighs the same", low=0)
    profile: Literal["auto", "short", "middle", "paper"] = option(
        "auto", "constants of the controller; auto is short below 100 episodes, middle to 300, then paper"
    )
    validate_every: int = option(5, "episodes between two validations of the policy without exploration", low=1)
    validations: int = option(2, "trainings in a validation of the policy; the best policy is kept", low=1)
    reward_scale: Literal["exponential", "flat"] = option(
        "exponential", "exponential: late stages count more (factor 148 from the first epoch to the last)"
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class PolicySearchConfig(
    NetworkOptions,
    DataOptions,
    RunOptions,
    FitOptions,
    SamplerOptions,
    RewardOptions,
    PolicyOptions,
    HeadOptions,
    DeviceOptions,
):
    """Search a weighting policy: train twins, one weighted, and reward what the weights gain on clean images."""

    episodes: int = option(40, "trainings that are searched through, --epochs each", low=1)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class PolicyApplyConfig(
    NetworkOptions, DataOptions, RunOptions, FitOptions, SamplerOptions, HeadOptions, DeviceOptions
):
    """Train with the weights of a policy: the same as train --weighter law:POLICY."""

    policy: Path = option(dataclasses.MISSING, "policy.json of a search", positional=True)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class WeightersConfig(
    NetworkOptions,
    DataOptions,
    FitOptions,
    SamplerOptions,
    RewardOptions,
    PolicyOptions,
    HeadOptions,
    DeviceOptions,
):
    """Train by every rule that weighs samples, tuned on the same clean images, and put them side by side."""

    out: Path = option(dataclasses.MISSING, "folder of all runs and of the table; call again to continue")
    test: str = option(dataclasses.MISSING, "classes:PATH, a pair list or allpairs:LIST; looked at when all is trained")
    test_images: Path | None = option(None, "image root of --test where that is a list")
    rows: tuple[Row, ...] = option(
        ("uniform", "uniform+clean", "focal", "self_paced", "small_loss", "coteaching", "l2rw", "mwnet", "fixed",
         "random", "law"),
        "rules to compare; the first is the control. uniform+clean fine-tunes it on --clean; clean_only needs a plan",
    )  # fmt: skip
    seeds: tuple[int, ...] = option((0, 1, 2), "seeds of the final trainings", low=0)
    search_seed: int = option(100, "seed of search and tuning", low=0)
    search_plan: Path | None = option(
        None, "noise plan of search and tuning: another seed than --noise-plan, since that is what shall not be known"
    )
    tune: int = option(0, "settings of each rule tried on --val before the final ones; 0 takes its defaults", low=0)
    policy: Path | None = option(None, "row law: this policy; default searches one")
    episodes: int = option(40, "trainings that are searched through, --epochs each", low=1)
    clean: Path | None = option(None, "images with trusted labels for uniform+clean, l2rw and mwnet")
    clean_take: str | None = option(None, "of every identity or class of --clean only these of its images, as --take")
    clean_batch: int = option(100, "images of --clean in a step", low=1)
    clean_epochs: int = option(5, "uniform+clean: passes over --clean at the last learning rate", low=1)
    draws: int = option(1000, "draws of test images or people", low=100)
    budget_s: float | None = option(None, "save and exit 3 after this many seconds; call again to continue", above=0)
    json: bool = option(False, "print JSON to stdout, and nothing else there")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class PolicyShowConfig(Config):
    """Draw what a weighting policy does: weight against loss and entropy, stage by stage."""

    policy: Path = option(dataclasses.MISSING, "policy.json of a search", positional=True)
    out: Path | None = option(None, "folder for the figures; default POLICY's folder/show")
    json: bool = option(False, "print JSON to stdout, and nothing else there")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class AuditConfig(DataOptions, ImportOptions, DeviceOptions):
    """List the images whose labels look wrong: those that weigh least, with precision and recall where a plan knows."""

    model: Path = option(
        dataclasses.MISSING, "run folder, .pt/.pth/.safetensors, .onnx, or emb.npz of the images", positional=True
    )
    by: Literal["auto", "training", "network"] = option(
        "auto",
        "training: the weights the run gave its images (weights.csv); network: what the model says of them now; auto: "
        "training where the run has weights",
    )
    policy: Path | None = option(None, "weigh by the last stage of this policy; default by the loss alone")
    top: int = option(100, "images listed first, and drawn with --thumbnails", low=1)
    at: tuple[int, ...] = option((50, 100, 200, 500), "precision and recall among the first so many", low=1)
    thumbnails: bool = option(False, "also write a page with the pictures")
    out: Path | None = option(None, "folder to write; default runs/audit-<name>")
    cache_dir: Path | None = option(None, "where embeddings are kept; default $FACEKIT_CACHE, else ~/.cache/facekit")
    json: bool = option(False, "print JSON to stdout, and nothing else there")


# --- compress --------------------------------------------------------------------------------------


Enhancement = Literal["none", "ps2-32x3", "full32x9"]
DistortionName = Literal["mse", "ms-ssim"]
AlphaRule = Literal["refuse", "white", "black", "drop"]
PictureName = Literal["png", "ppm"]
ClassicalName = Literal["jpeg420", "jpeg444", "webp", "avif420", "avif444", "jpeg2000"]
CodedSides = Literal["both", "probe"]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class CodecOptions(Config):
    """The networks of a codec."""

    n: int | None = option(None, "channels of the hidden layers; default --init's, else 128, above --lambda 2048 192")
    m: int | None = option(None, "channels of the latent, even; default --init's, else 192, above --lambda 2048 320")
    k: int = option(3, "Gaussians in the mixture of each latent value", low=1, high=16)
    attention: bool = option(True, "channel attention in encoder and decoder")
    enhancement: Enhancement = option(
        "none", "residual network on the decoded picture; full32x9 costs more than all the rest"
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class CompressTrainConfig(CodecOptions, RunOptions, DeviceOptions):
    """Train an image codec (lab, after the abstract of arXiv 2002.03370): EDIC's parts, written anew."""

    data: Path | None = option(None, "images of any size to cut patches from: folder, list file, packed data")
    images: Path | None = option(None, "image root where --data is a list file; default its own folder")
    faces: Path | None = option(
        None, "faces of one size, coded whole; beside --data each step sees as many pixels of both, alone only faces"
    )
    exclude: tuple[Path, ...] = option((), "pair lists whose people are left out of --faces (comma separated)")
    val: Path | None = option(None, "other images, measured whole after each epoch; nothing is trained on them")
    lam: float | None = option(
        None,
        "weight of the distortion against bits per pixel; default 2048 for mse, 64 for ms-ssim. Lower ones are best "
        "taught from a higher one's model, by --init",
        above=0,
        flag="--lambda",
    )
    distortion: DistortionName = option("mse", "what is lost: mean squared error of 0..1, or 1 - MS-SSIM")
    recogniser: Path | None = option(
        None, "run folder or weights file of a face model: also keep what it sees in --faces (ours, lab)"
    )
    fcd_weight: float = option(1.0, "--recogniser: weight of 1 - cosine between decoded and original face", above=0)
    epochs: int = option(100, "epochs of --epoch-steps each", low=1)
    epoch_steps: int = option(500, "steps between two measurements of --val", low=1)
    batch: int = option(16, "patches in a step; as many faces as have the same pixels", low=1)
    crop: int = option(192, "side of a patch in pixels, best a multiple of 64", low=16)
    lr: float = option(2e-4, "peak learning rate of Adam", above=0)
    schedule: Literal["cosine", "linear", "constant"] = option("cosine", "decay of the learning rate")
    warmup: float = option(0.02, "share of the run with linearly rising learning rate", low=0, high=0.9)
    clip: float = option(1.0, "clip the gradient norm at this value; 0 is off", low=0)
    phase2: float = option(
        0.2, "last share of the run in which the decoder sees rounded latents and the enhancement learns", low=0, high=1
    )
    ema: float = option(0.999, "decay of the averaged weights, which are what ships", low=0, high=0.9999)
    save_minutes: float = option(5.0, "save a resumable state this often", above=0)
    log_every: int = option(20, "steps between two rows of metrics.jsonl", low=1)
    deterministic: bool | None = option(None, "bit-identical repeats; default on for cpu, off for cuda")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class CodingOptions(Config):
    """How many images are worked on at once, and what is written."""

    batch: int = option(8, "images of one padded size that go through a network together; fewer large ones", low=1)
    jobs: int | None = option(None, "threads for files and entropy coding; default as many as cores, at most 8", low=1)
    max_pixels: int = option(1 << 26, "refuse images with more pixels", low=1, high=1 << 26)
    skip_existing: bool = option(False, "leave out images whose result is there and fits")
    overwrite: bool = option(False, "write over what is there")
    device: DeviceName = option("auto", "where networks run; the hyper-decoder always runs on the CPU")
    threads: int | None = option(None, "CPU threads for torch; default all cores", low=1)
    json: bool = option(False, "print one line of JSON for each image to stdout, and nothing else there")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class CompressEncodeConfig(CodingOptions):
    """Compress images: a file, or a folder that is mirrored."""

    input: Path = option(dataclasses.MISSING, "image, or folder of images at any depth", positional=True)
    model: Path = option(dataclasses.MISSING, "model file, or run folder of compress train")
    out: Path = option(dataclasses.MISSING, ".edic file or folder to write; with --archive an .edica file")
    archive: bool = option(False, "one file for all images, at most 16 bytes an image beside what is coded (and names)")
    names: bool = option(True, "--archive: keep the files' names")
    alpha: AlphaRule = option("refuse", "what becomes of transparency: refuse, lay on white or black, drop")
    to_8bit: bool = option(False, "round images of 16 bits a channel instead of refusing them")
    find_grey: bool = option(False, "take RGB images whose channels are equal for grey; they decode to one channel")
    latent_crc: bool = option(True, "keep four bytes by which another machine notices that it decodes wrongly")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class CompressDecodeConfig(CodingOptions):
    """Decompress .edic files or an archive."""

    input: Path = option(dataclasses.MISSING, ".edic file, .edica archive, or folder of .edic files", positional=True)
    model: Path = option(dataclasses.MISSING, "the model that made them: model file or run folder")
    out: Path = option(dataclasses.MISSING, "image or folder to write; a folder for an archive")
    format: PictureName = option("png", "files to write; ppm is not compressed, and quick")
    precision: Literal["fp32", "bf16"] = option(
        "fp32", "arithmetic of the synthesis; bf16 changes pixels a little, and is quick where the hardware has it"
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class CompressInfoConfig(Config):
    """Say what a compressed file, an archive or a codec's model is, and with a model what its parts cost."""

    path: Path = option(dataclasses.MISSING, ".edic, .edica, model file or run folder", positional=True)
    model: Path | None = option(None, "also count and time the parts of this model, on an image of the file's size")
    size: str = option("512x768", "height x width of the image that a model is timed on, where no file says it")
    repeats: int = option(5, "timed passes; their median counts", low=1)
    precision: Literal["fp32", "bf16"] = option("fp32", "arithmetic of the synthesis")
    device: DeviceName = option("auto", "where networks run; the hyper-decoder always runs on the CPU")
    threads: int | None = option(None, "CPU threads for torch; default all cores", low=1)
    json: bool = option(False, "print JSON to stdout, and nothing else there")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class FaceOptions(ImportOptions):
    """What is asked of coded faces, with --faces."""

    recogniser: Path | None = option(None, "face model that looks at coded faces: run folder, weights file or .onnx")
    sides: tuple[CodedSides, ...] = option(
        ("both", "probe"), "who is coded: both images of a pair, or one against an uncompressed gallery"
    )
    far: tuple[float, ...] = option((1e-2, 1e-3, 1e-4), "operating points for TAR", above=0, high=1)
    dev: str | None = option(None, "pairs of other people: their uncompressed images choose thresholds that are kept")
    dev_images: Path | None = option(None, "image root of --dev; default its folder's images/")
    flip: Flip = option("model", "flip fusion: model follows the model's own table")
    draws: int = option(1000, "bootstrap draws", low=100)
    seed: int = option(0, "seed of the bootstrap", low=0)
    batch: int = option(64, "images embedded at once", low=1)
    cache_dir: Path | None = option(None, "embedding cache; default $FACEKIT_CACHE, else ~/.cache/facekit")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class CompressBenchConfig(FaceOptions):
    """Measure codecs side by side: bits, quality and seconds on images, or bytes a face against recognition."""

    model: tuple[Path, ...] = option(
        (), "codecs: model files or runs of compress train, each one setting of EDIC; may be left out", positional=True
    )
    data: Path | None = option(None, "images of any size: folder, list file, packed data")
    faces: tuple[str, ...] = option(
        (), "instead of --data: pair list, .bin, folder with pairs.txt, or allpairs:LIST (comma separated)"
    )
    images: Path | None = option(None, "image root where --data or --faces is a list; default as its reader says")
    codecs: tuple[ClassicalName, ...] = option((), "classical codecs beside them; default all that Pillow has here")
    qualities: tuple[int, ...] = option(
        (), "their settings; default 5, 10 .. 95, with --faces eight of these", low=1, high=100
    )
    ratios: tuple[int, ...] = option(
        (), "settings of jpeg2000, raw to coded size; default 6 .. 192, with --faces eight of these", low=2, high=1000
    )
    device: DeviceName = option("auto", "where networks run; the hyper-decoder always runs on the CPU")
    precision: Literal["fp32", "bf16"] = option("fp32", "arithmetic of the synthesis; all else is fp32")
    threads: int | None = option(None, "CPU threads for torch; default all cores", low=1)
    figures: bool = option(True, "draw the curves (SVG and PNG); needs the report extra")
    json: bool = option(False, "print the results document to stdout, and nothing else there")
    out: Path = option(dataclasses.MISSING, "new folder for results.json, results.csv and the figures")


RUN_VERBS["compress train"] = CompressTrainConfig
