"""The one training loop. It owns steps, clipping, logging, saving and stopping; a Task says what a step computes.

Bit-exact resume: order and augmentation of the data are functions of (seed, epoch, index), so a state is the
task's own, the generators of the device, and this loop's Progress.

Several processes run this loop in step, each on its slice of every batch. Once per optimiser step they average
gradients and terms, in one exchange, so that all clip, skip, log and fail alike; then one number or two between the
hosts decide whether to save or to stop. There is no DistributedDataParallel: it would rename the parameters, knows one
module and one backward per step, and would average in every accumulated batch. Its one gain, exchanging while backward
still runs, is given up.
"""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from facekit.core.checkpoints import CheckpointStore, route_about
from facekit.core.device import Device
from facekit.core.errors import Interrupted, NonFinite, Unfinished
from facekit.core.replicas import averaged_statistics, check_alike, running_statistics
from facekit.core.reporting import Journal
from facekit.core.schedule import Schedule
from facekit.core.types import Batch

Terms = dict[str, Tensor]
Phase = tuple[str, Callable[[], Terms]]


class Task(Protocol):
    """What a step computes. ``modules["model"]`` is the network that ships."""

    modules: dict[str, nn.Module]
    optimisers: dict[str, Optimizer]

    def phases(self, batch: Batch) -> Iterator[Phase]:
        """Yield (optimiser name, closure -> named weighted terms) in the order of the updates."""

    def measured(self) -> Mapping[str, Tensor]:
        """Gradient norm of each term with respect to the embeddings since the last call; empty if not measured."""

    def after_step(self, batch: Batch) -> None:
        """Refresh what remembers samples (banks, averages), after the optimiser stepped."""

    def state_dict(self) -> dict[str, Any]:
        """All that a resume needs beyond modules and optimisers."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""


class TrainingBatches(Protocol):
    """An order of batches that can start anywhere."""

    steps_per_epoch: int

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from position ``start`` on."""


@dataclass(frozen=True)
class Saving:
    """When a resumable state is written, and when the run must stop."""

    minutes: float = 5.0
    steps: int | None = None
    keep: int = 0
    route_epochs: int = 0
    deadline: float | None = None  # of time.monotonic()


@dataclass
class Progress:
    """Where a run is. Everything in it is saved."""

    step: int = 0
    best: float | None = None
    images: int = 0
    seconds: float = 0.0
    totals: dict[str, Tensor] = field(default_factory=dict)  # sums since the last logged row, on the device
    counted: int = 0


class Guard:
    """Watches terms without waiting for the device: remembers the first step at which each was not finite."""

    def __init__(self) -> None:
        self.first: dict[str, Tensor] = {}

    def watch(self, name: str, value: Tensor, step: int) -> Tensor:
        """Note ``value`` at ``step``; returns the boolean flag, still on the device."""
        bad = ~torch.isfinite(value)
        seen = self.first.get(name)
        if seen is None:
            seen = torch.full((), -1, dtype=torch.int64, device=value.device)
        self.first[name] = torch.where((seen < 0) & bad, step, seen)
        return bad

    def check(self) -> None:
        """Raise NonFinite naming the term and the step. Waits for the device: only when logging or saving."""
        for name, first in self.first.items():
            if (step := int(first)) >= 0:
                raise NonFinite(
                    f"{name} became NaN or infinite at step {step}. Nothing was saved after it; lower --lr, "
                    "add --warmup, or use --precision fp32, then --resume the last state or start anew"
                )


class StopSignal:
    """Turns Ctrl-C and SIGTERM into a flag that the loop reads between steps.

    With ``others`` a process that leaves by an error stays deaf to SIGTERM: torchrun sends it to all as soon as one has
    ended, and it would cut the last words.
    """

    def __init__(self, others: bool = False) -> None:
        self.others = others
        self.number: int | None = None
        self.earlier: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self.earlier[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread: signals stay with whoever owns it
                break
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:  # a second Ctrl-C does not wait for the step to end
            raise KeyboardInterrupt
        self.number = number

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self.earlier.items():
            deaf = self.others and kind is not None and number == signal.SIGTERM
            signal.signal(number, signal.SIG_IGN if deaf else handler)


def fit(
    task: Task,
    batches: TrainingBatches,
    schedule: Schedule,
    store: CheckpointStore | None,
    device: Device,
    journal: Journal,
    *,
    meta: Mapping[str, Any],
    saving: Saving = Saving(),
    log_every: int = 20,
    validate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    resume: bool = False,
    max_steps: int | None = None,
    seed: int = 0,
) -> Progress:
    """Train ``task`` to the end of ``schedule``, or to its deadline.

    ``validate`` returns named numbers after each epoch; the first decides ``best``. ``store`` None keeps nothing.
    ``seed`` starts the generators of several processes; one process goes on with those that initialised the networks.
    Raises NonFinite, Unfinished (deadline) or Interrupted (signal); before the latter two the state is saved.
    """
    scaler = device.scaler()
    if device.world > 1:
        device.seed(seed, 0)
    progress = restore(task, store, device, scaler, seed) if resume and store else Progress()
    guard, stream = Guard(), batch_stream(batches, schedule, progress.step)
    for module in task.modules.values():
        module.train()
    last_save = resumed = time.monotonic()
    earlier_seconds = progress.seconds

    def save() -> None:
        nonlocal last_save
        guard.check()
        if store:
            progress.seconds = earlier_seconds + time.monotonic() - resumed
            write_state(store, "last", task, progress, device, scaler, meta, saving.keep)
            device.tell(None)  # nobody leaves, and makes torchrun end the others, before the state is on disk
        last_save = time.monotonic()
        journal.forget_speed()

    with StopSignal(others=device.world > 1) as stop, journal:
        journal.start(progress.step)
        end = schedule.total_steps if max_steps is None else min(max_steps, schedule.total_steps)
        while progress.step < end:
            rate = set_rates(task, schedule.factor(progress.step))
            group = [next(stream) for _ in range(schedule.accumulate)]
            update(task, group, schedule, device, scaler, guard, progress)
            for batch in group:
                task.after_step(batch)
            progress.step += 1
            progress.images += device.world * sum(len(b.index) for b in group)
            epoch = (progress.step - 1) // schedule.steps_per_epoch + 1  # counted from 1, as people do
            logged = progress.step % log_every == 0 or progress.step == schedule.total_steps
            journal.step(progress.step, epoch, log(journal, progress, guard, epoch, rate) if logged else None)
            if progress.step % schedule.steps_per_epoch == 0:
                finish_epoch(task, store, device, journal, progress, guard, epoch, schedule, meta, saving, validate)
            late = saving.deadline is not None and time.monotonic() >= saving.deadline
            due = time.monotonic() - last_save >= 60 * saving.minutes
            # Clocks and signals differ between processes: what one saw, all do, at the same step.
            stopped_by, out_of_time, minutes_due = device.largest([stop.number or 0, late, due])
            halted = bool(stopped_by) or (out_of_time and progress.step < end)
            steps_due = saving.steps is not None and progress.step % saving.steps == 0
            if halted or steps_due or minutes_due or progress.step == end:
                save()
            if halted:
                stop_now(stopped_by, progress, schedule, store)
    device.average(list(running_statistics(task.modules).values()))  # what stays in memory is what was saved
    return progress


def batch_stream(batches: TrainingBatches, schedule: Schedule, step: int) -> Iterator[Batch]:
    """All batches from optimiser step ``step`` on; an epoch's rest that fills no accumulation group is left out."""
    per_epoch = schedule.steps_per_epoch * schedule.accumulate
    epoch, start = divmod(step * schedule.accumulate, per_epoch)
    while True:
        for _, batch in zip(range(per_epoch - start), batches.epoch(epoch, start), strict=False):
            yield batch
        epoch, start = epoch + 1, 0


def set_rates(task: Task, factor: float) -> float:
    """Set every group to its peak rate times ``factor``; returns the first rate."""
    rates = []
    for optimiser in task.optimisers.values():
        for group in optimiser.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
            rates.append(group["lr"])
    return float(rates[0])


def update(
    task: Task,
    group: list[Batch],
    schedule: Schedule,
    device: Device,
    scaler: torch.amp.GradScaler,
    guard: Guard,
    progress: Progress,
) -> None:
    """One optimiser step of every phase, gradients averaged over ``group`` and over the processes.

    Skipped on the device where a term or a gradient is not finite in any process.
    """
    share = 1.0 / len(group)
    for phase in zip(*(task.phases(batch) for batch in group), strict=True):
        optimiser = task.optimisers[phase[0][0]]
        optimiser.zero_grad(set_to_none=True)
        means: Terms = {}
        norms: Terms = {}
        for _, closure in phase:
            terms = closure()
            for name, term in terms.items():
                add_up(means, name, term.detach() * share)
            scaler.scale(torch.stack(list(terms.values())).sum() * share).backward()
            for name, norm in task.measured().items():
                add_up(norms, f"gradient.{name}", norm / scaler.scale(torch.ones_like(norm)))
        parameters = [p for g in optimiser.param_groups for p in g["params"] if p.grad is not None]
        device.average([*means.values(), *norms.values(), *(p.grad for p in parameters)])
        bad = torch.stack([guard.watch(name, mean, progress.step + 1) for name, mean in means.items()]).any()
        for name, value in (means | norms).items():
            add_up(progress.totals, name, value)
        scaler.unscale_(optimiser)
        limit = schedule.clip if schedule.clip > 0 else float("inf")
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
        if scaler.is_enabled():
            scaler.step(optimiser)  # fp16: overflowing gradients are part of the method, the scaler skips them
            scaler.update()
            continue
        skip = bad | guard.watch("gradient", norm, progress.step + 1)
        # Fused optimisers skip the whole update where found_inf is 1, without the host ever reading it.
        optimiser.grad_scale, optimiser.found_inf = None, skip.float()  # type: ignore[attr-defined]
        optimiser.step()
        add_up(progress.totals, "gradient", norm)
    progress.counted += 1


def add_up(sums: Terms, name: str, value: Tensor) -> None:
    """Add a value to the sum of its name, on the device."""
    value = value.float()
    sums[name] = sums[name] + value if name in sums else value


def log(journal: Journal, progress: Progress, guard: Guard, epoch: int, rate: float) -> dict[str, float]:
    """Write the means since the last row. The only place besides saving where the host waits for the device."""
    guard.check()
    means = {name: float(total) / progress.counted for name, total in progress.totals.items()}
    progress.totals, progress.counted = {}, 0
    journal.row(progress.step, epoch, {"lr": rate, "terms": means})
    return means


def finish_epoch(
    task: Task,
    store: CheckpointStore | None,
    device: Device,
    journal: Journal,
    progress: Progress,
    guard: Guard,
    epoch: int,
    schedule: Schedule,
    meta: Mapping[str, Any],
    saving: Saving,
    validate: Callable[[nn.Module], Mapping[str, float]] | None,
) -> None:
    """After an epoch: measure on dev, keep the best network, extend the route. Process 0 writes."""
    model = task.modules["model"]
    check_alike(task.modules, device)
    numbers: Mapping[str, float] = {}
    kept = store if device.rank == 0 else None
    with averaged_statistics(task.modules, device):
        if validate:
            guard.check()
            model.eval()
            numbers = device.tell(dict(validate(model)))
            model.train()
            journal.row(progress.step, epoch, {"dev": numbers})
            leading = next(iter(numbers.values()))
            if progress.best is None or leading > progress.best:
                progress.best = leading
                if kept:
                    described = {**meta, "step": progress.step, "epoch": epoch, "dev": numbers}
                    kept.save("best", model.state_dict(), described)
        last = epoch == schedule.epochs
        if kept and saving.route_epochs and (epoch % saving.route_epochs == 0 or last):
            guard.check()
            rate = task.optimisers["main"].param_groups[0]["lr"]
            record = {"val": dict(numbers), "lr": rate, "ema": False}
            kept.save_route(epoch, model.state_dict(), record, route_about(meta, schedule.epochs))
    journal.forget_speed()


def stop_now(number: int, progress: Progress, schedule: Schedule, store: CheckpointStore | None) -> None:
    """Leave with the state saved: the reason decides the exit code."""
    where = f"step {progress.step} of {schedule.total_steps}"
    kept = f"the state is in {store.run}; run again with --resume" if store else "nothing was written (dry run)"
    if number:
        raise Interrupted(f"stopped by {signal.Signals(number).name} at {where}; {kept}", number)
    raise Unfinished(f"the time budget ended at {where}; {kept}")


# --- saving and restoring ------------------------------------------------------------------------------


def write_state(
    store: CheckpointStore,
    name: str,
    task: Task,
    progress: Progress,
    device: Device,
    scaler: torch.amp.GradScaler,
    meta: Mapping[str, Any],
    keep: int,
) -> None:
    """Write the network and all that a bit-exact resume needs; process 0 writes for all."""
    generators = device.collect(device.rng_state())
    statistics = device.collect(running_statistics(task.modules))
    with averaged_statistics(task.modules, device):
        if device.rank > 0:
            return
        others = {k: m.state_dict() for k, m in task.modules.items() if k != "model"}
        state = {
            "modules": others,
            "optimisers": {k: o.state_dict() for k, o in task.optimisers.items()},
            "task": task.state_dict(),
            "rng": generators,
            "statistics": statistics if device.world > 1 else [],
            "scaler": scaler.state_dict(),
            "progress": {f.name: getattr(progress, f.name) for f in dataclasses.fields(progress)},
        }
        store.save(name, task.modules["model"].state_dict(), {**meta, "step": progress.step}, state, keep)


def restore(
    task: Task, store: CheckpointStore, device: Device, scaler: torch.amp.GradScaler, seed: int = 0
) -> Progress:
    """Read ``last`` back into the task; a run that never saved starts at step 0.

    What belongs to one process (generators, running statistics) goes back to it. On another number of processes all
    take the averaged statistics, and generators start anew from (seed, step, rank).
    """
    if not store.has("last"):
        return Progress()
    state = store.load_state("last")
    task.modules["model"].load_state_dict(store.load("last").tensors)
    for name, module in task.modules.items():
        if name != "model":
            module.load_state_dict(state["modules"][name])
    for name, optimiser in task.optimisers.items():
        optimiser.load_state_dict(state["optimisers"][name])
        match_layout(optimiser)
    task.load_state_dict(state["task"])
    if len(state["rng"]) != device.world:
        device.seed(seed, state["progress"]["step"])
    else:
        device.set_rng_state(state["rng"][device.rank])
        if device.world > 1:
            for name, tensor in running_statistics(task.modules).items():
                tensor.copy_(state["statistics"][device.rank][name])
    if scaler.is_enabled():
        scaler.load_state_dict(state["scaler"])
    saved = state["progress"]
    saved["totals"] = {k: device.put(v) for k, v in saved["totals"].items()}
    return Progress(**saved)


def match_layout(optimiser: Optimizer) -> None:
    """Give loaded moments the memory format of their parameters: fused kernels walk both as flat memory."""
    for parameter, moments in optimiser.state.items():
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
