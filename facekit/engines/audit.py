"""``facekit autoweight audit``: which labels look wrong, and how far that list can be trusted."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facekit import __version__
from facekit.configs import AuditConfig, DataOptions, build, flag_name
from facekit.core.device import Device
from facekit.core.errors import InputError, UsageError
from facekit.core.files import plain, sha256_file, write_atomic, write_json
from facekit.core.reporting import result_screen, say
from facekit.core.runfolder import StoredRun, is_network, read_run, table, words
from facekit.data.classes import matched_columns
from facekit.data.newfolder import new_folder
from facekit.data.protocol import Source
from facekit.data.relabelled import truth_of
from facekit.data.sources import choose_data
from facekit.data.vectors import is_vectors, open_vectors
from facekit.data.weightsfile import read_weights
from facekit.engines.fitting import open_images
from facekit.engines.supports import Embedder, FileEmbedder, ModelEmbedder
from facekit.evaluation.auditpage import AuditPage, render_audit, suspects
from facekit.evaluation.auditreport import Audit, quality_table, suspects_table
from facekit.evaluation.figures import style
from facekit.evaluation.results import command_line, describe_environment, describe_model
from facekit.evaluation.vectors import unit_vectors
from facekit.models.loading import load_model
from facekit.weighting.audit import SCALE, Verdicts, by_centres, by_scores
from facekit.weighting.policy import Policy, read_policy
from facekit.weighting.ranking import Order, found_by, ordered, quality
from facekit.weighting.setweights import check_features, weights_of_set

SCHEMA = "facekit.audit/1"
WEIGHTS = "weights.csv"
BATCH = 64
SHOWN = 20
"""Images listed on the screen; audit.csv has them all."""


def run(config: AuditConfig) -> None:
    """Judge every label, write the list, and say how good it is where the truth is known."""
    trained = run_of(config.model)
    check_flags(config, trained)
    policy = None if config.policy is None else open_policy(config.policy)
    name = trained.path.absolute().name if trained else config.model.absolute().stem
    out = config.out or Path("runs") / f"audit-{name}"
    with new_folder(out) as folder:
        device = Device.pick(config.device, config.precision, threads=config.threads, measuring=True)
        subject = open_subject(config, trained, device)
        for note in subject.source.notes:
            say("note", note)
        found = judge(config, subject, policy)
        content = document(config, subject, found, policy, device)
        write_json(folder / "audit.json", content)
        write_atomic(folder / "audit.csv", found.audit.csv().encode("utf-8", "surrogateescape"))
        if config.thumbnails:
            write_atomic(folder / "audit.html", render_audit(page(config, subject, found, content)).encode())
    say("wrote", f"{out}: audit.csv, audit.json{', audit.html' if config.thumbnails else ''}")
    tell(config, found, content)


def check_flags(config: AuditConfig, trained: StoredRun | None) -> None:
    """What the flags alone decide."""
    if config.policy is not None and config.by == "training":
        raise UsageError("--policy weighs by what the network says now: leave it out, or give --by network")
    if config.by == "training" and (trained is None or not (trained.path / WEIGHTS).is_file()):
        raise UsageError(
            f"{config.model} has no {WEIGHTS}, which a run with --weighter leaves; give such a run, or --by network"
        )
    if is_vectors(config.model) and config.data is None:
        given = [f for f in dataclasses.fields(DataOptions) if getattr(config, f.name) != f.default]
        if given:
            raise UsageError(f"{flag_name(given[0])} chooses among images: give them as --data beside the embeddings")
        if config.thumbnails:
            raise UsageError("--thumbnails shows the images: give them as --data beside the embeddings")
    if config.thumbnails:
        with style():
            pass  # a missing report extra is said before the work, not after it


def open_policy(path: Path) -> Policy:
    """A policy that can weigh a finished set: refused before anything is embedded."""
    policy = read_policy(path)
    if not policy.trace:
        raise InputError(f"{path} has no trace of its actions, so it has no last stage to weigh by")
    check_features(policy.features)
    return policy


# --- what is audited --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """The images under their labels, and who judges them."""

    embedder: Embedder
    source: Source
    data: str
    """Where the images, or else their embeddings, were read"""
    model: dict[str, Any]
    """As in audit.json"""
    trained: StoredRun | None


def run_of(path: Path) -> StoredRun | None:
    """The run that a path names, itself or by one of its checkpoints."""
    folder = path.parent.parent if path.parent.name == "checkpoints" else path
    run = read_run(folder) if (folder / "run.json").is_file() else None
    return None if run is None or run.fault or is_network(run.record) else run


def open_subject(config: AuditConfig, trained: StoredRun | None, device: Device) -> Subject:
    """A network or a file of embeddings, and the images it is asked about. Raises InputError without labels."""
    if is_vectors(config.model):
        vectors = open_vectors(config.model)
        embedder = FileEmbedder(vectors, vectors.flip_rule())
        source = vectors.source() if config.data is None else open_images(config, config.data, need_labels=True)
        if (source.labels < 0).any():
            raise InputError(f"{config.model} does not say who is on its images; give them as --data")
        about = {"path": config.model.as_posix(), "sha256": vectors.sha256}
        return Subject(embedder, source, (config.data or config.model).as_posix(), about, None)
    model = load_model(config.model, device=device, channels=config.channels, scaling=config.scaling)
    options = data_options(config, trained)
    path = choose_data(options.data)
    source = open_images(options, path, need_labels=True)
    by = ModelEmbedder.of(model, device, "model", BATCH, config.cache_dir)
    return Subject(by, source, path.as_posix(), describe_model(model), trained)


def data_options(config: AuditConfig, trained: StoredRun | None) -> DataOptions:
    """Which images: those of the flags; without --data those that the run was trained on, where a flag says no else."""
    if config.data is not None or trained is None:
        return config
    fields = dataclasses.fields(DataOptions)
    given = {f.name: value for f in fields if (value := getattr(config, f.name)) != f.default}
    return build(DataOptions, {f.name: trained.config.get(f.name) for f in fields} | given)


# --- judging ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """The audit, and how it came about."""

    audit: Audit
    listed_by: str
    how: tuple[str, ...]
    """Sentences for people"""
    curves: dict[str, np.ndarray]
    """Ranking -> wrong labels found among the first 0, 1 ... images; {} where the truth is not known"""


def judge(config: AuditConfig, subject: Subject, policy: Policy | None) -> Found:
    """Losses of all labels, weights, orders, and their quality."""
    source = subject.source
    verdicts, classes, column, how = verdicts_of(subject)
    weight, orders = orders_of(config, subject, policy, verdicts, column[source.labels])
    listed_by, order = next(iter(orders.items()))
    known = truth_of(source)
    truth = None if known is None else np.where(known >= 0, column[known], known)
    rankings, curves = [], {}
    if known is not None:
        wrong = known != source.labels
        for name, each in orders.items():
            found = quality(each, wrong, config.at)
            rankings.append({"name": name, **found._asdict(), "at": [point._asdict() for point in found.at]})
            curves[name] = found_by(each, wrong)
    audit = Audit(
        names=source.names,
        classes=classes,
        label=column[source.labels],
        favoured=verdicts.favoured,
        loss=verdicts.loss,
        entropy=verdicts.entropy,
        weight=weight,
        truth=truth,
        order=order.rows,
        rankings=rankings,
    )
    return Found(audit, listed_by, how, curves)


def verdicts_of(subject: Subject) -> tuple[Verdicts, tuple[str, ...], np.ndarray, tuple[str, ...]]:
    """(what the scores say, names of classes, class of each label of the source, how to read it)."""
    source, embedder = subject.source, subject.embedder
    if embedder.classifier is not None:
        classes = embedder.classifier.names
        column, note = matched_columns(source.identities, classes, subject.data)
        verdicts = by_scores(embedder.classifier.scores(source), column[source.labels])
        return verdicts, classes, column, ("The class scores are the network's own.", *([f"{note}."] if note else []))
    table = embedder.table(source)
    verdicts = by_centres(lambda at: unit_vectors(table[at], embedder.flip, source.names[at]), source.labels)
    how = (
        f"The class scores of an image are the cosines of its embedding to the mean embeddings of all classes, times "
        f"{SCALE:g}; the mean of its own class is taken without it.",
    )
    return verdicts, source.identities, np.arange(len(source.identities)), how


def orders_of(
    config: AuditConfig, subject: Subject, policy: Policy | None, verdicts: Verdicts, labels: np.ndarray
) -> tuple[np.ndarray | None, dict[str, Order]]:
    """(weights, orders of suspicion by their names). The first is listed; in the others ties stay ties."""
    by_loss = {"loss": ordered(verdicts.loss)}
    if policy is not None:
        weight = weights_of_set(verdicts, labels, policy.features, policy.trace[-1].action, policy.hidden)
        return weight, {"weight of the policy": ordered(-weight, verdicts.loss)} | by_loss
    stored = None if subject.trained is None else subject.trained.path / WEIGHTS
    if stored is None or config.by == "network" or not stored.is_file():
        return None, by_loss
    weights = read_weights(stored, subject.source)
    listed = {"mean weight in training": ordered(-weights.weight, verdicts.loss)}
    return weights.weight, listed | {"weight in the last epoch": ordered(-weights.last)} | by_loss


# --- telling ----------------------------------------------------------------------------------------------


def document(
    config: AuditConfig, subject: Subject, found: Found, policy: Policy | None, device: Device
) -> dict[str, Any]:
    """audit.json."""
    audit, source = found.audit, subject.source
    return {
        "schema": SCHEMA,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "facekit": __version__,
        "command": command_line(),
        "environment": describe_environment(device.describe()),
        "model": subject.model,
        "data": {
            "path": subject.data,
            "fingerprint": source.fingerprint,
            "images": len(source),
            "classes": len(np.unique(source.labels)),
            "notes": list(source.notes),
        },
        "scores": "centres" if subject.embedder.classifier is None else "network",
        "scale": SCALE if subject.embedder.classifier is None else None,
        "listed_by": found.listed_by,
        "policy": None if policy is None else described(config, policy),
        "ranked": len(audit.order),
        "not_judged": not_judged(audit),
        "disagreeing": audit.disagreeing(),
        "truth_known": audit.truth is not None,
        "rankings": audit.rankings,
        "sentences": sentences(subject, found),
        "top": list(audit.rows(config.top)),
    }


def described(config: AuditConfig, policy: Policy) -> dict[str, Any]:
    """Which policy, and what it does in its last stage."""
    assert config.policy is not None
    return {
        "path": config.policy.as_posix(),
        "sha256": sha256_file(config.policy),
        "features": policy.features,
        "hidden": policy.hidden,
        "action": policy.trace[-1].action,
        "source": policy.source,
    }


def sentences(subject: Subject, found: Found) -> list[str]:
    """What was found, for people."""
    audit = found.audit
    said = [
        f"{len(audit.names):,} images of {len(np.unique(audit.label)):,} classes; the scores of "
        f"{audit.disagreeing():,} favour another class than their label."
    ]
    if alone := not_judged(audit):
        said.append(f"{counted(alone)} the only one of a class: there is nothing to compare with.")
    if audit.wrong is not None:
        said.append(
            f"The true labels are known: {int(audit.wrong.sum()):,} ({100 * audit.wrong.mean():.1f} %) differ from the "
            "given ones."
        )
    if learnt_from(subject):
        said.append("The network was trained on these very labels: wrong ones that it has memorised look right to it.")
    return said


def not_judged(audit: Audit) -> int:
    """Images of which nothing can be said: the only ones of their class."""
    return int((audit.favoured < 0).sum())


def counted(images: int) -> str:
    """Subject and verb."""
    return "One image is" if images == 1 else f"{images:,} images are each"


def learnt_from(subject: Subject) -> bool:
    """Whether the labels that are audited are those that the network was trained on."""
    record = {} if subject.trained is None else subject.trained.record
    return words(table(record.get("data")).get("fingerprint")) == subject.source.fingerprint


def tell(config: AuditConfig, found: Found, content: dict[str, Any]) -> None:
    """The document, or sentences and tables."""
    if config.json:
        print(json.dumps(plain(content), indent=1, allow_nan=False))
        return
    screen = result_screen()
    screen.print()
    for sentence in content["sentences"]:
        screen.print(sentence, soft_wrap=True)
    if found.audit.rankings and found.audit.rankings[0]["at"]:
        base = 100 * found.audit.rankings[0]["base_rate"]
        screen.print(f"\nFound by {found.listed_by} (precision of any order: {base:.1f} %)", soft_wrap=True)
        screen.print(quality_table(found.audit.rankings))
    rows = list(found.audit.rows(min(SHOWN, config.top)))
    if rows:
        screen.print(f"Look first at (by {found.listed_by}; all {len(found.audit.order):,} are in audit.csv)")
        screen.print(suspects_table(rows))


# --- the page ---------------------------------------------------------------------------------------------


def page(config: AuditConfig, subject: Subject, found: Found, content: dict[str, Any]) -> AuditPage:
    """Everything the page shows."""
    order = "the lightest first" if found.audit.weight is not None else "the largest first"
    return AuditPage(
        title=f"{'/'.join(Path(subject.data).parts[-2:])}, seen by {subject.model.get('name', 'given embeddings')}",
        summary=content["sentences"],
        how=(
            *found.how,
            "The loss is the cross-entropy of the given label in nats: 0 is certain, ln 2 = 0.69 is one chance in two.",
            f"Listed by {found.listed_by}, {order}.",
            "A hard picture and a wrong label look alike to a network: look before you delete.",
        ),
        rankings=found.audit.rankings,
        curves=found.curves,
        loss=found.audit.loss,
        wrong=found.audit.wrong,
        suspects=suspects(found.audit, subject.source, config.top),
        about={
            "Data": f"{subject.data}, fingerprint {subject.source.fingerprint[:12]}",
            "Network": f"{subject.model['path']}, SHA-256 {subject.model['sha256'][:12]}",
        },
        command=content["command"],
    )
