"""``facekit route-train plan | run | status``: a student is taught along its teacher's own training route (RCO).

``record`` is ``train --save-route`` under its own name and lives there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from facekit.configs import (
    AnchorOptions,
    LearningOptions,
    RoutePlanConfig,
    RouteRunConfig,
    RouteStatusConfig,
    ValidationOptions,
    flag_name,
)
from facekit.core.checkpoints import CheckpointStore
from facekit.core.device import Device
from facekit.core.errors import InputError, UsageError
from facekit.core.files import plain, read_json
from facekit.core.reporting import image_progress, printable, result_screen, say
from facekit.core.runs import Run, remove_leftovers
from facekit.data.embeddings import default_cache_dir
from facekit.data.heldout import check_apart, open_held_out
from facekit.data.sources import Source, choose_data
from facekit.engines.distilling import (
    caches_teacher,
    check_readers,
    choose_weights,
    needs_labels,
    prepare,
    reads_table,
)
from facekit.engines.fitting import (
    build_network,
    check_same,
    now,
    open_batches,
    open_training_data,
    open_training_run,
    opened_device,
    recorded,
    seed_everything,
    start_from,
    train_to_end,
)
from facekit.models.loading import Model, load_model
from facekit.training.anchors import Anchors, check_saved, controlled, default_interval, eei
from facekit.training.answers import answers_of, in_order
from facekit.training.distill import Distill
from facekit.training.greedy import Greedy
from facekit.training.handover import Segments, hand_over, segment_of, take_teacher
from facekit.training.hardness import Answers, congruence, divergence, finite, hardness, misdirection
from facekit.training.route import Route, anchor_model, open_route
from facekit.training.stages import (
    Finished,
    FixedStages,
    SearchedStages,
    Stage,
    StageLog,
    StagePlan,
    finished_of,
    read_log,
    stage_seed,
)

VERB = "route-train run"
OF_A_STAGE = ("weights_sha256", "images_seen", "seconds", "best_dev", "stage", "artefacts")
"""What run.json keeps for each stage; the rest is said once for the run."""


# --- options ----------------------------------------------------------------------------------------------------


def check_options(config: RoutePlanConfig | RouteRunConfig) -> None:
    """Refuse options that this strategy, or a run without held-out images, would not read."""
    searching = config.strategy == "gs"
    unread = ("interval", "anchors") if searching else ("delta", "first_anchor", "max_anchors")
    for field in fields(AnchorOptions):
        if field.name in unread and getattr(config, field.name) != field.default:
            raise UsageError(f"{flag_name(field)} is not read by --strategy {config.strategy}; leave it out")
    for field in fields(ValidationOptions):
        if config.val is None and field.name != "val" and getattr(config, field.name) != field.default:
            raise UsageError(f"{flag_name(field)} belongs to --val, which names the held-out images; give both")
    if config.anchors and config.interval is not None:
        raise UsageError("--anchors names the epochs and --interval counts them: give one of them")
    if list(config.anchors) != sorted(set(config.anchors)):
        raise UsageError(f"--anchors {','.join(map(str, config.anchors))}: give each epoch once, in rising order")
    if searching and config.control != "none":
        raise UsageError(
            f"--control {config.control} repeats known anchors, and --strategy gs finds them while it trains: give "
            "those of its anchors.json, as --strategy eei --anchors 10,30 --control restart"
        )
    if config.strategy == "one-stage" and config.control in ("restart", "long"):
        raise UsageError(
            f"--control {config.control} of one stage is a plain distillation: facekit distill with as many --epochs"
        )


def fixed_anchors(config: AnchorOptions, route: Route, seed: int) -> Anchors:
    """The anchors that do not depend on the student, as the control uses them. The last state is always the last."""
    if config.anchors:
        anchors = tuple(sorted({*config.anchors, route.final}))
    else:
        anchors = eei(route.final, config.interval or default_interval(route.final, route.grid))
    check_saved(anchors, route.epochs, route.folder)
    if len(anchors) == 1:
        say("note", f"the only anchor is the final teacher (epoch {route.final}): this is plain distillation")
    return controlled(config.control, anchors, route.final, seed)


def search_of(config: AnchorOptions, route: Route) -> Greedy:
    """The greedy search over all states of the route."""
    first = route.epochs[0] if config.first_anchor is None else config.first_anchor
    check_saved((first,), route.epochs, route.folder)
    return Greedy(len(route.epochs), config.delta, route.epochs.index(first), config.max_anchors)


def planned(config: RouteRunConfig, route: Route) -> StagePlan:
    """The stages of a run, or how they will be found."""
    if config.strategy == "gs":
        return SearchedStages(search_of(config, route), route.epochs, config.epochs)
    anchors = fixed_anchors(config, route, config.seed)
    if config.strategy == "one-stage":
        stage = Stage(anchors, config.epochs)
        say("anchors", ", ".join(f"{a} from epoch {b + 1}" for a, b in zip(anchors, stage.bounds, strict=False)))
        return FixedStages((stage,))
    say("anchors", f"{', '.join(map(str, anchors))}, {config.epochs} epochs each")
    if config.control == "long":
        stages = len(fixed_anchors(replace(config, control="none"), route, config.seed))
        return FixedStages((Stage(anchors, stages * config.epochs),))
    return FixedStages(tuple(Stage((anchor,), config.epochs) for anchor in anchors))


# --- held-out images ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeldOut:
    """Held-out images, and what the teacher's states say of them."""

    name: str
    source: Source
    teachers: Mapping[int, Answers]
    """By epoch."""
    classes: tuple[str, ...]
    """The teacher's."""

    def cosines(self) -> dict[int, float]:
        """Mean cosine of each state's embeddings to those of the last one."""
        final = self.teachers[max(self.teachers)].embedding
        return {epoch: 1.0 - misdirection(answers.embedding, final) for epoch, answers in self.teachers.items()}


def open_val(config: ValidationOptions) -> Source | None:
    """The images of --val; None without it."""
    if config.val is None:
        return None
    source = open_held_out(config.val, config.val_images, config.val_take)
    say("held out", f"{config.val}: {len(source):,} images")
    for note in source.notes:
        say("note", note)
    return source


def looked_at(name: str, source: Source, route: Route, cache_dir: Path | None, device: Device) -> HeldOut:
    """What every state of the route says of the images; one state in memory at a time, answers kept on disk."""
    teachers: dict[int, Answers] = {}
    classes: tuple[str, ...] = ()
    with image_progress("route", len(source) * len(route.states)) as advance:
        for epoch in route.epochs:
            model = anchor_model(route, epoch, device)
            cache = cache_dir or default_cache_dir()
            teachers[epoch] = answers_of(model, source, device, cache_dir=cache, progress=advance)
            classes = model.classes
    return HeldOut(name, source, teachers, classes)


# --- run ------------------------------------------------------------------------------------------------------


def run(config: RouteRunConfig) -> None:
    """Train a student along the route, on one device or as one of the processes that torchrun started."""
    with opened_device(config) as device:
        teach(config, device)


@dataclass(frozen=True)
class Teaching:
    """What all stages of a run share."""

    config: RouteRunConfig
    weights: dict[str, float]
    route: Route
    converged: Model
    source: Source
    run: Run
    device: Device
    exact: Device
    """For teachers and measurements: never rounded."""
    started: float


def teach(config: RouteRunConfig, device: Device) -> None:
    """Open what is needed, go through the stages, measure what came out."""
    started = now()
    check_options(config)
    if config.strategy == "gs" and config.val is None:
        raise UsageError("--strategy gs measures the hardness of the teacher's states: give held-out images as --val")
    weights = choose_weights(config.method, config.weights)
    check_readers(config, weights)
    route = open_route(config.route)
    path = choose_data(config.data, route.about["config"].get("data"))
    run = open_training_run(VERB, config, path, device)
    if run.done:
        return
    check_same(run, "route", "sha256", route.sha256)
    exact = replace(device, precision="fp32", compile=False)
    converged = anchor_model(route, route.final, exact)
    say("teacher", f"{converged.name}: {converged.parameters:,} parameters, licence: {converged.licence}")
    source = open_training_data(config, path, need_labels=needs_labels(config, weights, converged))
    check_same(run, "data", "fingerprint", source.fingerprint)
    plan = planned(config, route)
    held_out = None
    if (val := open_val(config)) is not None:
        check_apart(val, str(config.val), source, "training images of the student")
        check_same(run, "val", "fingerprint", val.fingerprint)
        held_out = looked_at(str(config.val), val, route, config.cache_dir, exact)
    teaching = Teaching(config, weights, route, converged, source, run, device, exact, started)
    described = {
        "route": {"folder": route.folder.as_posix(), "sha256": route.sha256},
        "data": {"fingerprint": source.fingerprint},
        **({"val": {"name": held_out.name, "fingerprint": held_out.source.fingerprint}} if held_out else {}),
    }
    with recorded(run, described, device, config.dry_run):
        go_through(teaching, plan, held_out)


def go_through(teaching: Teaching, plan: StagePlan, held_out: HeldOut | None) -> None:
    """The stages that are left, then the end. Process 0 decides and writes for all."""
    run, device = teaching.run, teaching.device
    earlier = device.tell(read_log(run.folder) if run.resuming and device.rank == 0 else {"stages": []})
    log = StageLog(about_stages(teaching, held_out), finished_of(earlier))
    while (stage := plan.following(log.finished)) is not None:
        number = len(log.finished) + 1
        say("stage", f"{number}: {stage.epochs} epochs, anchor {', '.join(map(str, stage.anchors))}")
        train_stage(teaching, number, stage)
        if teaching.config.dry_run:
            return
        student = load_model(stage_folder(run, number), device=teaching.exact)
        row = measured_row(teaching, student, stage.anchors[-1], held_out) if held_out else None
        log.finished.append(Finished(stage, student.sha256, row))
        if device.rank == 0:
            log.write(run.folder)
        device.tell(None)  # the next stage begins when this one is on record
    finish(teaching, log, held_out)


def about_stages(teaching: Teaching, held_out: HeldOut | None) -> dict[str, Any]:
    """What anchors.json says beside the stages: of JSON's types, equal in every repeat."""
    config = teaching.config
    measured: dict[str, Any] = {}
    if held_out:
        measured = {
            "val": {"name": held_out.name, "fingerprint": held_out.source.fingerprint, "images": len(held_out.source)},
            "hardness": {"measure": config.hardness, "tau": config.tau} if held_out.classes else {"measure": "cosine"},
            "cosine_to_final": list(held_out.cosines().values()),
        }
    names = ("delta", "first_anchor", "max_anchors") if config.strategy == "gs" else ("interval", "anchors", "control")
    return {
        "strategy": config.strategy,
        "parameters": {name: getattr(config, name) for name in names},
        "route_sha256": teaching.route.sha256,
        "states": list(teaching.route.epochs),
        **measured,
    }


def stage_folder(run: Run, number: int) -> Path:
    """Where a stage keeps its checkpoints and its rows."""
    return run.folder / f"stage_{number}"


class StageRun(Run):
    """A stage as the training loop sees it: a folder and a store of its own, recorded in the run.json of the run."""

    def __init__(self, run: Run, number: int) -> None:
        super().__init__(stage_folder(run, number), run.verb, run.config, run.resuming, False, run.record)
        self.whole, self.number = run, number

    def write(self, status: str, facts: Mapping[str, Any]) -> None:
        """A stage that is done leaves the run going on."""
        stages = dict(self.record.get("stages", {}))
        own = {name: value for name, value in facts.items() if name in OF_A_STAGE}
        stages[str(self.number)] = {**stages.get(str(self.number), {}), **own, "status": status}
        others = {name: value for name, value in facts.items() if name not in OF_A_STAGE}
        self.whole.write("running" if status == "done" else status, {**others, "stages": stages})


def train_stage(teaching: Teaching, number: int, stage: Stage) -> None:
    """One fit, from the student of the stage before, or on from where it was left."""
    config, route, device = teaching.config, teaching.route, teaching.device
    options = replace(config, seed=stage_seed(config.seed, number), epochs=stage.epochs)
    run = StageRun(teaching.run, number)
    if run.resuming and device.rank == 0:
        remove_leftovers(run.folder)
    device.tell(None)
    whole = open_batches(options, teaching.source, options.seed, device, clusters_by=teaching.converged)
    segment = segment_of(last_epoch(run, whole.steps_per_epoch // config.accumulate), stage.bounds)
    seed_everything(options.seed)
    teacher = anchor_model(route, stage.anchors[segment], teaching.exact)
    width = config.embedding or teacher.preprocess.embedding
    student, architecture = build_network(config.student, width, config.dropout, teaching.source)
    before = CheckpointStore(stage_folder(teaching.run, number - 1))
    if number == 1:
        start_from(student, run)
    else:
        student.load_state_dict(before.load("last").tensors)
    prepared = prepare(options, teaching.weights, student, architecture, teacher, teaching.source, device)
    if number > 1:
        hand_over(prepared.task, before.load_state("last")["modules"])

    def swap(segment: int) -> None:
        change_teacher(teaching, options, prepared.task, architecture, stage.anchors[segment])

    batches = Segments(whole, stage.bounds, segment, swap)
    meta = prepared.meta | {
        "teacher": {"name": teacher.name, "path": config.route.as_posix(), "sha256": teaching.converged.sha256},
        "stage": {"number": number, "anchors": list(stage.anchors), "epochs": stage.epochs},
    }
    preprocess = prepared.preprocess
    train_to_end(options, run, prepared.task, teaching.source, batches, preprocess, device, meta, teaching.started)


def last_epoch(run: Run, steps: int) -> int:
    """The epoch, from 0, of the step that was saved last: the losses of its anchor are what the state fits."""
    if not run.resuming or not run.store.has("last"):
        return 0
    return max(0, int(run.store.load("last").meta["step"]) - 1) // steps


def change_teacher(
    teaching: Teaching, options: LearningOptions, task: Distill, architecture: Mapping[str, Any], anchor: int
) -> None:
    """Within a stage: the next anchor teaches, and what was made from the one before is made anew."""
    device = teaching.device
    say("anchor", str(anchor))
    generators = device.rng_state()  # what is built here and thrown away must not move the student's dropout
    teacher = anchor_model(teaching.route, anchor, teaching.exact)
    student = task.modules["model"]
    fresh = prepare(options, teaching.weights, student, architecture, teacher, teaching.source, device)
    take_teacher(task, fresh.task)
    device.set_rng_state(generators)


def measured_row(teaching: Teaching, student: Model, anchor: int, held_out: HeldOut) -> list[float]:
    """H(anchor, j) for every state j; process 0's numbers on all."""
    config = teaching.config
    own = answers_of(student, held_out.source, teaching.exact)
    states = [in_order(held_out.teachers[j], held_out.classes, student.classes) for j in teaching.route.epochs]
    row = [hardness(own, theirs, config.hardness, config.tau) for theirs in states]
    row = finite(teaching.device.tell(row), anchor, teaching.route.epochs)
    say("hardness", ", ".join(f"{j}: {h:.4g}" for j, h in zip(teaching.route.epochs, row, strict=True)))
    return row


def finish(teaching: Teaching, log: StageLog, held_out: HeldOut | None) -> None:
    """The student of the last stage becomes the run's own; what it cost and how near it came is put on record."""
    run, device = teaching.run, teaching.device
    folder = stage_folder(run, len(log.finished))
    facts: dict[str, Any] = {"anchors": [a for done in log.finished for a in done.stage.anchors]}
    if held_out:
        student = load_model(folder, device=teaching.exact)
        own = answers_of(student, held_out.source, teaching.exact)
        final = in_order(held_out.teachers[teaching.route.final], held_out.classes, student.classes)
        facts["congruence"] = congruence(own, final, teaching.config.tau)
        say("congruence", ", ".join(f"{k} {v:.4g}" for k, v in facts["congruence"].items() if v is not None))
    if device.rank == 0:
        for name in ("last", "best"):
            if (store := CheckpointStore(folder)).has(name):
                stored = store.load(name)
                meta = {k: v for k, v in stored.meta.items() if k not in ("files", "weights_sha256")}
                run.store.save(name, stored.tensors, meta)
        run.write("done", {**facts, "cost": cost(teaching, log, held_out), **totals(run)})
    device.tell(None)
    say("wrote", str(run.folder))


def totals(run: Run) -> dict[str, Any]:
    """The facts of a finished training, over all stages: weights of the last, sums of the others."""
    stages = [run.record["stages"][key] for key in sorted(run.record["stages"], key=int)]
    return {
        "weights_sha256": stages[-1]["weights_sha256"],
        "images_seen": sum(stage["images_seen"] for stage in stages),
        "seconds": round(sum(stage["seconds"] for stage in stages), 1),
        "best_dev": stages[-1]["best_dev"],
    }


def cost(teaching: Teaching, log: StageLog, held_out: HeldOut | None) -> dict[str, Any]:
    """What stands beside every result: epochs of the student, images the teachers looked at (as if nothing had been
    on disk), time of training.
    """
    config, weights, source = teaching.config, teaching.weights, teaching.source
    seen = totals(teaching.run)["images_seen"]
    anchors = sum(len(done.stage.anchors) for done in log.finished)
    looked_up = anchors * len(source) * (2 if config.flip else 1)
    teacher = looked_up if reads_table(config, weights, teaching.converged) else 0
    teacher += 0 if caches_teacher(config, weights, teaching.converged) else seen
    teacher += len(held_out.source) * len(teaching.route.states) if held_out else 0
    return {
        "student_epochs": sum(done.stage.epochs for done in log.finished),
        "teacher_images": teacher,
        "seconds": totals(teaching.run)["seconds"],
    }


# --- plan -----------------------------------------------------------------------------------------------------


def plan(config: RoutePlanConfig) -> None:
    """Show the states of a route, and which are anchors."""
    check_options(config)
    route = open_route(config.route)
    device = Device.pick(config.device, config.precision, threads=config.threads, measuring=True)
    anchors = () if config.strategy == "gs" else fixed_anchors(config, route, config.seed)
    val = open_val(config)
    held_out = None if val is None else looked_at(str(config.val), val, route, config.cache_dir, device)
    document = {
        "schema": "facekit.route-plan/1",
        "route": route.folder.as_posix(),
        "sha256": route.sha256,
        "network": route.about["architecture"].get("name"),
        "epochs": route.final,
        "strategy": config.strategy,
        "control": config.control,
        "anchors": list(anchors),
        "candidates": list(route.epochs[search_of(config, route).start() :]) if config.strategy == "gs" else [],
        "states": states_of(route, held_out, config.hardness),
    }
    if config.json:
        print(json.dumps(plain(document), indent=1, allow_nan=False))
    else:
        show_plan(result_screen(), document)


def states_of(route: Route, held_out: HeldOut | None, direction: str) -> list[dict[str, Any]]:
    """What is known of every state; its distance from the last one where there are held-out images."""
    cosines = held_out.cosines() if held_out else {}
    found = []
    for state in route.states:
        row: dict[str, Any] = {"epoch": state.epoch, "lr": state.lr, "val": state.val}
        if held_out:
            row["cosine_to_final"] = cosines[state.epoch]
            own, final = held_out.teachers[state.epoch].logits, held_out.teachers[route.final].logits
            if own is not None and final is not None:
                row["divergence_to_final"] = divergence(own, final, direction=direction)
        found.append(row)
    return found


def show_plan(screen: Console, document: Mapping[str, Any]) -> None:
    """One line a state."""
    if document["anchors"]:
        chosen = f"anchors {', '.join(map(str, document['anchors']))}"
    else:
        chosen = f"candidates {', '.join(map(str, document['candidates']))}; a run decides between its stages"
    screen.print(printable(f"{document['route']}: {document['network']}, {document['epochs']} epochs"), soft_wrap=True)
    screen.print(f"{document['strategy']}: {chosen}", soft_wrap=True)
    states = document["states"]
    names = list(dict.fromkeys(name for state in states for name in state["val"]))
    measured = [name for name in ("cosine_to_final", "divergence_to_final") if any(name in state for state in states)]
    grid = new_table("epoch", "", "lr", *names, *(name.replace("_", " ") for name in measured))
    for state in states:
        numbers = [state["val"].get(name) for name in names] + [state.get(name) for name in measured]
        used = state["epoch"] in document["anchors"] or state["epoch"] in document["candidates"]
        grid.add_row(str(state["epoch"]), "*" * used, cell(state["lr"]), *map(cell, numbers))
    screen.print(grid)


def new_table(*columns: str) -> Table:
    """Right-aligned columns under a rule."""
    grid = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, collapse_padding=True)
    for column in columns:
        grid.add_column(printable(column), justify="right", overflow="fold")
    return grid


def cell(value: Any) -> str:
    """Four digits of a number; nothing for what is no finite number."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return f"{value:.4g}" if number else ""


# --- status ---------------------------------------------------------------------------------------------------


def status(config: RouteStatusConfig) -> None:
    """Show the stages of a run, H as a table, and how near the student came."""
    record = read_json(config.run / "run.json")
    if not isinstance(record, dict) or record.get("verb") != VERB:
        raise InputError(f"{config.run} is no run of facekit {VERB}; facekit runs show tells what it is")
    log = read_log(config.run)
    document = {
        "schema": "facekit.route-status/1",
        "run": config.run.as_posix(),
        **{name: record.get(name) for name in ("status", "reason", "stages", "congruence", "cost")},
        "anchors": log,
    }
    if config.json:
        print(json.dumps(plain(document), indent=1, allow_nan=False))
    else:
        show_status(result_screen(), document, finished_of(log))


def show_status(screen: Console, document: Mapping[str, Any], finished: Sequence[Finished]) -> None:
    """One line a stage: its anchor, its cost, and H against every state of the route."""
    log = document["anchors"]
    head = f"{document['run']}: {document['status']}, {log.get('strategy', 'no stage done yet')}"
    screen.print(printable(head + (f" ({document['reason']})" if document["reason"] else "")), soft_wrap=True)
    measured = any(done.hardness for done in finished)
    states = list(log.get("states", [])) if measured else []
    grid = new_table("stage", "anchor", "epochs", "min", *(f"H {epoch}" for epoch in states))
    for number, done in enumerate(finished, 1):
        seconds = (document["stages"] or {}).get(str(number), {}).get("seconds")
        anchors = ",".join(map(str, done.stage.anchors))
        row = [cell(h) for h in done.hardness or []]
        grid.add_row(str(number), anchors, str(done.stage.epochs), cell(seconds and seconds / 60), *row)
    if measured:
        grid.add_row("", "cosine to final", "", "", *map(cell, log.get("cosine_to_final", [])))
    screen.print(grid)
    for name in ("congruence", "cost"):
        if document[name]:
            values = ", ".join(f"{key} {cell(value) or 'none'}" for key, value in document[name].items())
            screen.print(printable(f"{name}: {values}"), soft_wrap=True)
