"""From --scores, --support and their options to scorers: what the verbs that align scores share. No verb of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from facekit.alignment.bank import SupportBank, bank_of, check_leak, read_bank, require_model
from facekit.alignment.estimator import EstimatorStatistics, read_estimator, require_estimator
from facekit.alignment.policy import (
    Policy,
    choose_alpha,
    over_correction,
    policy_table,
    read_policy,
    require_apart,
    require_dev_for_centres,
    require_policy,
    transductive_notes,
    write_policy,
)
from facekit.alignment.scorers import WITHOUT_SUPPORT, build_scorer
from facekit.alignment.settings import ALPHAS, Settings
from facekit.alignment.statistics import BankStatistics, Reference, StatsSource, reference_of
from facekit.alignment.virtual import latentmix, noise
from facekit.configs import AlignmentOptions, ScoreOptions
from facekit.core.device import Device
from facekit.core.errors import InputError, UsageError
from facekit.core.preprocess import Preprocess
from facekit.core.reporting import image_progress, say
from facekit.data.cache_dir import default_cache_dir
from facekit.data.embeddings import embed_source
from facekit.data.pairs import PairSet
from facekit.data.protocol import Source
from facekit.data.sources import open_source
from facekit.data.vectors import NamedOnly, VectorFile, open_vectors
from facekit.evaluation import verification as v
from facekit.evaluation.classification import class_scores
from facekit.evaluation.scoring import RAW, Classifier, People, Scorer, Side, people_on
from facekit.evaluation.vectors import VIEWS, unit_vectors
from facekit.models.loading import Model

FROM_FOLDER = ("cohort", "train", "latentmix")
"""Supports made from a folder of other people."""
WITHOUT_PATH = ("gallery", "noise")
CHOICE_FAR = 1e-3
"""Where alpha is chosen on --dev; a small dev set takes the least FAR that it can measure."""


# --- who embeds -------------------------------------------------------------------------------------------


class Embedder(Protocol):
    """What turns images, or their names, into embeddings, and what a support set made by it is bound to."""

    @property
    def flip(self) -> str:
        """Fusion with the mirrored image: none | sum | concat."""

    @property
    def model_sha(self) -> str:
        """Of the weights."""

    @property
    def preproc_sha(self) -> str:
        """Of the table of inputs, with the flip rule that is used."""

    @property
    def width(self) -> int:
        """Numbers of an embedding, flips fused."""

    @property
    def place(self) -> torch.device:
        """Where searches run."""

    @property
    def classifier(self) -> Classifier | None:
        """Its own classes; None where it gives embeddings only."""

    def open(self, path: Path) -> Source:
        """Other people to embed."""

    def table(self, source: Source) -> np.ndarray:
        """Un-normalised views float32 [N,V,D]."""


def unit(embedder: Embedder, source: Source) -> np.ndarray:
    """Unit rows float64 [N,D]."""
    return unit_vectors(embedder.table(source), embedder.flip, source.names)


@dataclass(frozen=True)
class ModelEmbedder:
    """A model with its flip rule and its cache: every image is embedded once."""

    model: Model
    device: Device
    flip: str
    batch: int
    cache_dir: Path | None
    """None takes the default one."""

    @staticmethod
    def of(model: Model, device: Device, flip: str, batch: int, cache_dir: Path | None) -> ModelEmbedder:
        """``flip`` as asked on the command line: model follows the model's own table."""
        return ModelEmbedder(model, device, model.preprocess.flip if flip == "model" else flip, batch, cache_dir)

    @property
    def model_sha(self) -> str:
        """Of the weights."""
        return self.model.sha256

    @property
    def preproc_sha(self) -> str:
        """Of the table of inputs, with the flip rule that is used."""
        table: Preprocess = dataclasses.replace(self.model.preprocess, flip=self.flip)
        return table.hash()

    @property
    def width(self) -> int:
        """Twice the network's where both views are kept."""
        return self.model.preprocess.embedding * (2 if self.flip == "concat" else 1)

    @property
    def place(self) -> torch.device:
        """The device of the model."""
        return self.device.torch_device

    @property
    def classifier(self) -> Classifier | None:
        """The class layer of the model, where it has one."""
        return Classifier(self.model.classes, self.class_scores) if self.model.classes else None

    def open(self, path: Path) -> Source:
        """A folder, list or packed set of images."""
        return open_source(path)

    def table(self, source: Source) -> np.ndarray:
        """From the cache where they are there; a source that brings its own is taken at its word."""
        if (own := brought(source, self.flip)) is not None:
            return own
        with image_progress(f"embed by {self.model.name}", len(source)) as advance:
            return embed_source(
                self.model.embed,
                source,
                views=VIEWS[self.flip],
                batch=self.batch,
                key=self.model.cache_key(),
                cache_dir=self.cache_dir or default_cache_dir(),
                progress=advance,
                device=self.device,
            )

    def class_scores(self, source: Source) -> np.ndarray:
        """float32 [N,C] of the plain images, from the cache where they are there; of larger ones the middle is seen."""
        size = self.model.preprocess.size
        if source.size != size:
            say("note", f"images of {source.size[0]}x{source.size[1]}: the middle {size[0]}x{size[1]} is classified")
        with image_progress(f"classify by {self.model.name}", len(source)) as advance:
            return class_scores(
                self.model.logits,
                source,
                size,
                batch=self.batch,
                key=f"{self.model.cache_key()}-logits",
                cache_dir=self.cache_dir or default_cache_dir(),
                progress=advance,
                device=self.device,
            )


@dataclass(frozen=True)
class FileEmbedder:
    """Embeddings from a file, found by name: no model and no images are needed."""

    vectors: VectorFile | None
    """None where every benchmark brings its own."""
    flip: str

    @property
    def model_sha(self) -> str:
        """The file stands for the model that nobody named."""
        return self.vectors.sha256 if self.vectors else ""

    @property
    def preproc_sha(self) -> str:
        """The flip rule is all that is known."""
        return Preprocess(flip=self.flip).hash()

    @property
    def width(self) -> int:
        """Twice the file's where both views are kept."""
        if self.vectors is None:
            raise UsageError("--support noise needs to know the width of embeddings: give --embeddings or --model")
        return int(self.vectors.embeddings.shape[2]) * (2 if self.flip == "concat" else 1)

    @property
    def place(self) -> torch.device:
        """The processor."""
        return torch.device("cpu")

    @property
    def classifier(self) -> Classifier | None:
        """A file of embeddings has no classes."""
        return None

    def open(self, path: Path) -> Source:
        """Another file of embeddings, by the same model as far as its owner says."""
        return open_vectors(path).source()

    def table(self, source: Source) -> np.ndarray:
        """Looked up by name, unless the source brings its own."""
        if (own := brought(source, self.flip)) is not None:
            return own
        if self.vectors is None:
            raise UsageError("these images have no embeddings yet: give the network as --model, or their --embeddings")
        return self.vectors.table(source)


def brought(source: Source, flip: str) -> np.ndarray | None:
    """The embeddings float32 [N,V,D] that came with a source instead of images; None where there are none."""
    if not isinstance(source, NamedOnly) or source.embeddings is None:
        return None
    views = source.embeddings.shape[1]
    if views < len(VIEWS[flip]):
        raise UsageError(f"--flip {flip} needs embeddings of mirrored images too, and {source.names[0]} has none")
    return source.embeddings[:, : len(VIEWS[flip])]


# --- what --support names ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wanted:
    """One entry of --support."""

    kind: str
    """cohort | train | latentmix | gallery | noise | learned | bank"""
    path: Path | None


def wanted(text: str) -> Wanted:
    """``cohort=faces/``, ``gallery``, ``learned=estimator.safetensors`` or ``bank.npz``."""
    kind, equals, path = text.partition("=")
    if equals and kind in (*FROM_FOLDER, "learned") and path:
        return Wanted(kind, Path(path))
    if not equals and kind in WITHOUT_PATH:
        return Wanted(kind, None)
    if not equals and kind.endswith(".npz"):
        return Wanted("bank", Path(kind))
    names = [*(f"{name}=PATH" for name in (*FROM_FOLDER, "learned")), *WITHOUT_PATH, "BANK.npz"]
    raise UsageError(f"--support {text!r} is not understood; give one of: {', '.join(names)}")


def check_options(options: ScoreOptions) -> None:
    """What the flags alone decide: scores and supports must need each other."""
    needing = [name for name in options.scores if name not in WITHOUT_SUPPORT]
    if needing and not options.support:
        raise UsageError(f"--scores {','.join(needing)} look at neighbours: say with --support where they come from")
    if options.support and not needing:
        raise UsageError("--support is read by aligned scores: add some to --scores, for example --scores raw,dao")
    for text in options.support:
        wanted(text)
    settings_of(options, options.alpha)


def settings_of(options: AlignmentOptions, alpha: float | None) -> Settings:
    """The choices of the flags as the alignment knows them; alpha None is its default."""
    default = Settings()
    return Settings(
        operator=options.operator,
        alpha=default.alpha if alpha is None else alpha,
        neighbours=options.neighbours,
        radius=options.radius,
        statistic=options.statistic,
        tau=options.tau,
        sides=options.sides,
        ddof=int(options.ddof),
        same_above=options.same_above,
        selection=options.selection if isinstance(options, ScoreOptions) else "own",
    )


# --- banks ------------------------------------------------------------------------------------------------


def bank_of_source(source: Source, kind: str, reduce: str, embedder: Embedder) -> SupportBank:
    """A bank of labelled images. Raises InputError where nobody is named."""
    if not source.identities:
        raise InputError("a support set needs to know who is who: give a folder per person, or a list with labels")
    people = [source.identities[label] if label >= 0 else source.names[i] for i, label in enumerate(source.labels)]
    return bank_of(
        unit(embedder, source),
        people,
        list(source.names),
        kind,
        reduce=reduce,
        model_sha=embedder.model_sha,
        preproc_sha=embedder.preproc_sha,
    )


# --- scorers ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    """One support set, ready: its name in tables, its settings with the strength that was chosen, what is usual."""

    name: str
    settings: Settings
    source: StatsSource | None
    """None for the gallery, which is another one on every benchmark."""
    reference: Reference | None
    """None where the source itself says what is usual."""
    alphas: dict[float, float]
    """Strength -> TAR on the dev people, where it was chosen there."""

    @property
    def bank(self) -> SupportBank | None:
        """Its faces; None for the gallery and for an estimator."""
        return self.source.search.bank if isinstance(self.source, BankStatistics) else None

    @property
    def estimator_sha(self) -> str | None:
        """Of the estimator, where it is one."""
        return self.source.learned.sha if isinstance(self.source, EstimatorStatistics) else None


class Alignments:
    """Opens every support set once, chooses its strength on the dev people, and hands out scorers per benchmark.

    ``tested`` are the names of the people on the benchmarks: nobody of them may be in a support set.
    """

    def __init__(
        self,
        options: AlignmentOptions,
        scores: Sequence[str],
        embedder: Embedder,
        dev: PairSet | None,
        tested: Iterable[str],
        seed: int,
    ) -> None:
        self.options, self.scores, self.embedder, self.dev, self.seed = options, scores, embedder, dev, seed
        self.tested = set(tested)
        if dev is not None:
            require_apart(dev.source.identities, self.tested)
        self.dev_vectors = None if dev is None else unit(embedder, dev.source)
        self.policy = None if options.policy is None else read_policy(options.policy)
        self.prepared: list[Prepared] = []
        for text in options.support:
            self.prepared.append(self.prepare(wanted(text)))

    # --- opening ---

    def prepare(self, want: Wanted) -> Prepared:
        """Open one entry of --support, with the strength that --alpha, --policy or the dev people say."""
        settings = self.policy.settings if self.policy else settings_of(self.options, self.options.alpha)
        name, source = ("gallery", None) if want.kind == "gallery" else self.open(want, settings)
        again = sum(p.name.partition("-")[0] == name for p in self.prepared)
        name = f"{name}-{again + 1}" if again else name  # two cohorts are two rows
        found = Prepared(name, settings, source, self.policy.reference if self.policy else None, {})
        if self.policy is not None:
            require_policy(
                self.policy,
                self.embedder.model_sha,
                self.embedder.preproc_sha,
                bank_sha=found.bank.sha if found.bank else None,
                estimator_sha=found.estimator_sha,
            )
            return found
        reduce = found.bank.reduce if found.bank else self.options.reduce
        require_dev_for_centres(reduce, settings.alpha, self.dev is not None)
        return found if self.dev is None else self.chosen(found, self.dev)

    def chosen(self, found: Prepared, dev: PairSet) -> Prepared:
        """What is usual, and the best strength, on the dev people."""
        assert self.dev_vectors is not None
        people = people_on(dev.source)
        source = found.source or self.gallery_of(self.dev_vectors, people, dev.source.names, found.settings)
        found = dataclasses.replace(found, reference=reference_of(source(self.dev_vectors, people)))
        if self.options.alpha is not None or "dao" not in self.scores or found.settings.operator != "add":
            return found
        alpha, table = choose_alpha(partial(self.dev_tar, found, source), ALPHAS)
        say("alpha", f"{found.name}: {alpha:g}, by TAR on {dev.name}: {table[alpha]:.4f}, raw {table[0.0]:.4f}")
        for note in over_correction(found.bank.reduce if found.bank else "single", table[0.0], table[1.0]):
            say("note", note)
        return dataclasses.replace(found, settings=dataclasses.replace(found.settings, alpha=alpha), alphas=table)

    def open(self, want: Wanted, settings: Settings) -> tuple[str, StatsSource]:
        """A support set that is the same on every benchmark."""
        if want.kind == "learned":
            assert want.path is not None
            learned = read_estimator(want.path)
            require_estimator(learned, self.embedder.model_sha, self.embedder.preproc_sha)
            if learned.constant:
                say("note", f"{want.path} is no better than a constant: scores aligned by it are the raw ones")
            return "learned", EstimatorStatistics(learned)
        bank = self.open_bank(want)
        require_model(bank, self.embedder.model_sha, self.embedder.preproc_sha)
        check_leak(bank, self.tested)
        if self.dev is not None:
            check_leak(bank, self.dev.source.identities)
        source = BankStatistics(bank, settings, place=self.embedder.place)
        say("support", f"{bank.kind}: {len(source.search.entries):,} people, bank {bank.sha[:12]}")
        return bank.kind, source

    def open_bank(self, want: Wanted) -> SupportBank:
        """Read, embed or make one."""
        if want.kind == "bank":
            assert want.path is not None
            return read_bank(want.path)
        options, embedder = self.options, self.embedder
        if want.kind == "noise":
            return noise(
                embedder.width,
                candidates=options.candidates,
                model_sha=embedder.model_sha,
                preproc_sha=embedder.preproc_sha,
                seed=self.seed,
            )
        assert want.path is not None
        kind = "train" if want.kind == "latentmix" else want.kind
        real = bank_of_source(embedder.open(want.path), kind, options.reduce, embedder)
        if want.kind != "latentmix":
            return real
        check_leak(real, self.tested)
        return latentmix(real, candidates=options.candidates, partners=options.partners, seed=self.seed)

    def gallery_of(
        self, vectors: np.ndarray, people: People | None, names: Sequence[str], settings: Settings
    ) -> BankStatistics:
        """The enrolled people of a benchmark as their own support set."""
        if people is None:
            raise InputError("--support gallery needs to know who is on the images of the benchmark; it does not tell")
        embedder = self.embedder
        shown = [who if who is not None else name for who, name in zip(people, names, strict=True)]
        bank = bank_of(
            vectors,
            shown,
            list(names),
            "gallery",
            reduce=self.options.reduce,
            model_sha=embedder.model_sha,
            preproc_sha=embedder.preproc_sha,
        )
        return BankStatistics(bank, settings, place=embedder.place)

    # --- choosing ---

    def dev_tar(self, prepared: Prepared, source: StatsSource, alpha: float) -> float:
        """TAR on the dev people with this strength."""
        assert self.dev is not None and self.dev_vectors is not None
        chosen = dataclasses.replace(prepared, settings=dataclasses.replace(prepared.settings, alpha=alpha))
        scorer = self.scorer("dao", chosen, source)
        side = Side(self.dev_vectors, scorer.terms(self.dev_vectors, people_on(self.dev.source)))
        scores = scorer.pairs(side, side, self.dev.left, self.dev.right)
        return tar_to_choose_by(v.Scores.of(scores, self.dev.same))

    # --- handing out ---

    def scorers(self, enrolled: Source | None) -> tuple[Scorer, ...]:
        """All ways to score that were asked for, raw first; ``enrolled`` is the benchmark's gallery, if it has one."""
        found: list[Scorer] = [RAW]
        found += [self.scorer(name, None, None) for name in self.scores if name in ("rerank", "fmr")]
        for prepared in self.prepared:
            source = prepared.source or self.enrolled(enrolled, prepared.settings)
            found += [self.scorer(n, prepared, source) for n in self.scores if n not in WITHOUT_SUPPORT]
        return tuple(found)

    def enrolled(self, source: Source | None, settings: Settings) -> BankStatistics:
        """The support set of --support gallery on one benchmark."""
        if source is None:
            raise UsageError("--support gallery is for pairs, galleries and retrieval; give this benchmark a cohort")
        return self.gallery_of(unit(self.embedder, source), people_on(source), source.names, settings)

    def scorer(self, name: str, prepared: Prepared | None, source: StatsSource | None) -> Scorer:
        """One of them."""
        if prepared is None or source is None:
            return build_scorer(
                name, Settings(), cosines=v.pair_cosines, impostors=self.impostors if name == "fmr" else None
            )
        return build_scorer(
            name,
            prepared.settings,
            source,
            cosines=v.pair_cosines,
            support=prepared.name,
            reference=prepared.reference or usual(source),
        )

    @cached_property
    def impostors(self) -> np.ndarray | None:
        """Raw impostor scores of the dev people, which calibrate fmr."""
        if self.dev is None or self.dev_vectors is None:
            return None
        scores = v.pair_cosines(self.dev_vectors, self.dev_vectors, self.dev.left, self.dev.right)
        return scores[~self.dev.same]

    # --- telling ---

    def notes(self) -> list[str]:
        """What to know about the support sets, after the images have been seen."""
        found = [note for p in self.prepared for note in transductive_notes((), p.name)]
        found += transductive_notes(self.scores, None)
        return found + [n for p in self.prepared if isinstance(p.source, BankStatistics) for n in p.source.notes()]

    def policies(self) -> Iterator[Policy]:
        """One for every support set, where dao was asked for."""
        if "dao" not in self.scores:
            return
        for prepared in self.prepared:
            reference = prepared.reference or (usual(prepared.source) if prepared.source else None)
            if reference is None:
                continue
            yield Policy(
                score="dao",
                settings=prepared.settings,
                reference=reference,
                support=prepared.name,
                model_sha=self.embedder.model_sha,
                preproc_sha=self.embedder.preproc_sha,
                bank_sha=prepared.bank.sha if prepared.bank else None,
                estimator_sha=prepared.estimator_sha,
                dev_sha=self.dev.sha256 if self.dev else None,
                alphas=prepared.alphas,
            )

    def describe(self) -> list[dict[str, Any]]:
        """Every policy, and what its bank was made from, for the results document."""
        banks = {p.bank.sha: p.bank for p in self.prepared if p.bank}
        return [
            policy_table(policy) | ({"bank": describe_bank(banks[policy.bank_sha])} if policy.bank_sha in banks else {})
            for policy in self.policies()
        ]

    def write_policies(self, folder: Path) -> None:
        """policy-<support>.json for --policy, embed --aligned and export."""
        for policy in self.policies():
            write_policy(folder / f"policy-{policy.support}.json", policy)


def describe_bank(bank: SupportBank) -> dict[str, Any]:
    """What a reader of results wants to know of a support set."""
    return {"kind": bank.kind, "people": len(np.unique(bank.labels)), "reduce": bank.reduce, **bank.report}


def tar_to_choose_by(split: v.Scores) -> float:
    """TAR at FAR 1e-3, or at the least FAR that so many impostor pairs can measure."""
    far = max(Fraction(str(CHOICE_FAR)), Fraction(1, len(split.impostor)))
    value = v.tar_at_far(split, far).value
    assert value is not None
    return value


def usual(source: StatsSource) -> Reference:
    """What is usual where no dev people say it: the bank's own entries, or what the estimator learned from."""
    if isinstance(source, EstimatorStatistics):
        lesson = source.learned.lesson
        return Reference(lesson.dbar, lesson.vbar, 1 - lesson.dbar)
    assert isinstance(source, BankStatistics)
    return reference_of(source.own())
