"""From options to a policy search, and from its end to policy.json. No verb."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from facekit.configs import PolicySearchConfig, RewardOptions
from facekit.core.device import Device
from facekit.core.errors import InputError, UsageError
from facekit.core.files import sha256_file, write_json
from facekit.core.preprocess import Preprocess
from facekit.core.reporting import say
from facekit.core.runs import Run, config_hash
from facekit.core.schedule import Schedule
from facekit.data.classes import matched_columns
from facekit.data.overlap import shared_people
from facekit.data.pairs import PairSet, open_benchmark
from facekit.data.relabelled import truth_of
from facekit.data.sources import Source, choose_data, open_source
from facekit.engines.classifying import classes_of, input_of
from facekit.engines.fitting import (
    CLASSES,
    augment_of,
    build_network,
    check_family,
    check_same,
    now,
    open_batches,
    open_training_data,
    open_training_run,
    optimiser_of,
    seed_everything,
    train_to_end,
)
from facekit.engines.weighing import facts_of, refuse_shared
from facekit.evaluation.evaluator import tar_by_far
from facekit.evaluation.verification import support
from facekit.models import CLASSIFIERS
from facekit.models.loading import as_embedder, as_it_is_now
from facekit.training.classes import Classes
from facekit.training.episodereport import EpisodeReport
from facekit.training.episodes import EpisodePlan, Episodes, EpisodeSchedule
from facekit.training.policysearch import PolicySearch
from facekit.weighting.action import action_size
from facekit.weighting.agent import Controller
from facekit.weighting.errors import NeedsClean
from facekit.weighting.policy import Policy, write_policy
from facekit.weighting.profiles import PROFILES, Profile, profile_for
from facekit.weighting.stages import check_stages, check_steps

POLICY, REPORTS = "policy.json", "episodes.json"
AT_BOUND, MANY = 0.99, 0.95
"""From which share of the bound an action counts as being there, and how many such are worth a word."""
Metric = Callable[[nn.Module], float]
"""A network in eval mode -> percent on clean images."""


def search(verb: str, config: PolicySearchConfig, device: Device) -> Run:
    """Search a policy; leave it in the run folder as policy.json, with episodes.json beside it."""
    started = now()
    check_search(config)
    path = choose_data(config.data)
    run = open_training_run(verb, config, path, device)
    if run.done:
        return run
    seed_everything(config.seed)
    source = open_training_data(config, path, need_labels=True)
    check_same(run, "data", "fingerprint", source.fingerprint)
    built = build(config, source, device)
    task = built.task

    def finish() -> dict[str, Any]:
        return leave_policy(config, run, task, source) if device.rank == 0 else {}

    train_to_end(
        config,
        run,
        task,
        source,
        built.episodes,
        built.preprocess,
        device,
        built.meta,
        started,
        schedule=schedule_of_search(config, task.plan, built.episodes),
        finish=finish,
    )
    return run


class Built(NamedTuple):
    """A search, ready for the loop."""

    task: PolicySearch
    episodes: Episodes
    preprocess: Preprocess
    meta: dict[str, Any]


def build(config: PolicySearchConfig, source: Source, device: Device) -> Built:
    """Networks, reward, controller and batches."""
    network, architecture = build_network(config.model, config.embedding, config.dropout, source)
    preprocess = input_of(config, source, architecture)
    measure = metric_of(config, config.model, source, preprocess, device)
    batches = open_batches(config, source, config.seed, device)
    steps_per_stage = batches.steps_per_epoch * config.epochs // config.stages
    check_steps(steps_per_stage * config.stages, config.stages)
    profile, plan = chosen_profile(config), EpisodePlan(config.episodes, config.validate_every, config.validations)
    actions = action_size(len(config.features), config.hidden)
    controller = Controller(profile, config.stages, actions, config.episodes, config.seed)
    task = PolicySearch(
        partial(fresh_networks, config, source, device),
        lambda trained, episode: measure(trained),
        facts_of(source, config.epochs, batches.steps_per_epoch, config.seed, device),
        preprocess,
        device,
        optimiser_of(config),
        controller,
        features=config.features,
        hidden=config.hidden,
        stages=config.stages,
        warm_up=config.warm_up,
        steps_per_stage=steps_per_stage,
        plan=plan,
        augment=augment_of(config),
        scale=config.reward_scale,
        on_episode=tell_episode(plan),
    )
    episodes = Episodes(batches, steps_per_stage * config.stages)
    say(
        "search",
        f"{plan.total} trainings of {episodes.steps_per_epoch} steps, two networks each: {config.episodes} explore, "
        f"the others validate; {config.stages} stages, {config.warm_up} of warm-up, controller {profile.name}",
    )
    meta = {
        "architecture": architecture,
        "parameters": sum(p.numel() for p in network.parameters()),
        "licence": "yours, as far as the training images allow",
        "controller": controller.describe(),
        "steps_per_stage": steps_per_stage,
        "trainings": plan.total,
    }
    return Built(task, episodes, preprocess, meta)


def fresh_networks(
    config: PolicySearchConfig, source: Source, device: Device, episode: int
) -> tuple[nn.Module, Classes]:
    """A network and its classes, a function of seed and episode alone; the generators go on as if nothing was drawn."""
    state = device.rng_state()
    device.seed(config.seed, episode)
    network, _ = build_network(config.model, config.embedding, config.dropout, source)
    classes = classes_of(config, source, device)[0]
    device.set_rng_state(state)
    return network, classes


# --- what is asked -----------------------------------------------------------------------------------------


def check_search(config: PolicySearchConfig) -> None:
    """Refuse what a search cannot have."""
    check_family(config, config.model, None if config.embedding == PolicySearchConfig.embedding else config.embedding)
    check_stages(config.stages, config.warm_up)
    for given, flag, instead in (
        (config.dev is not None, "--dev", "what is measured is --val; leave it out"),
        (config.init is not None, "--init", "every training of a search starts anew; leave it out"),
        (config.accumulate > 1, "--accumulate", "give a larger --batch"),
        (config.clip > 0, "--clip", "twins share an update, and clipping would tie one to the other: give --clip 0"),
    ):
        if given:
            raise UsageError(f"{flag} does not go with a search: {instead}")


def chosen_profile(config: PolicySearchConfig) -> Profile:
    """The controller's constants."""
    return profile_for(config.episodes) if config.profile == "auto" else PROFILES[config.profile]


def schedule_of_search(config: PolicySearchConfig, plan: EpisodePlan, episodes: Episodes) -> Schedule:
    """The learning rate of every training, one after the other."""
    return EpisodeSchedule(
        epochs=plan.total,
        steps_per_epoch=episodes.steps_per_epoch,
        shape=config.schedule,
        warmup=config.warmup,
        milestones=config.milestones,
    )


# --- what is rewarded ----------------------------------------------------------------------------------------


def metric_of(options: RewardOptions, model: str, source: Source, preprocess: Preprocess, device: Device) -> Metric:
    """Accuracy on clean images of the same classes, or TAR on pairs of other people, in percent.

    The images are decoded once and stay in memory. Raises NeedsClean without --val, or where it shares images or people
    with the training data.
    """
    if options.val is None:
        raise NeedsClean("what a policy earns is measured on clean images that nobody trains on: add --val")
    if options.val.startswith(CLASSES):
        return class_metric(options, options.val.removeprefix(CLASSES), model, source, preprocess, device)
    return pair_metric(options, options.val, source, preprocess, device)


def class_metric(
    options: RewardOptions, path: str, model: str, source: Source, preprocess: Preprocess, device: Device
) -> Metric:
    """Accuracy of a network with classes of its own."""
    if options.val_far != RewardOptions.val_far:
        raise UsageError("--val-far is for pairs, and --val names classes; leave it out")
    if model not in CLASSIFIERS:
        raise UsageError(f"--val classes:{path} is for networks with classes of their own, and {model} embeds faces")
    clean = open_source(Path(path), images=options.val_images, need_labels=True, take=options.val_take)
    refuse_shared(clean, f"--val {path}", source, "training images")
    columns, note = matched_columns(clean.identities, source.identities, path)
    if note:
        say("note", note)
    labels = torch.from_numpy(np.ascontiguousarray(columns[clean.labels]))
    pixels = decoded(clean)

    def percent(network: nn.Module) -> float:
        outputs = as_it_is_now(network, preprocess, device)
        right = [
            (scored(outputs(images).logits).argmax(dim=1).cpu() == own).sum()
            for images, own in zip(pixels.split(256), labels.split(256), strict=True)
        ]
        return 100 * float(torch.stack(right).sum()) / len(labels)

    return percent


def pair_metric(options: RewardOptions, text: str, source: Source, preprocess: Preprocess, device: Device) -> Metric:
    """TAR at --val-far of an embedder, on pairs of people that it does not train on."""
    if options.val_take is not None:
        raise UsageError(f"--val-take chooses among the images of classes, and {text} is a list of pairs")
    pairs: PairSet = open_benchmark(text, options.val_images)
    if shared := shared_people(pairs.source, source):
        raise NeedsClean(
            f"{len(shared)} people of --val {text} are also in the training data, such as {shared[0]}: leave them out "
            "there, as by --exclude"
        )
    status, why = support(options.val_far, int((~pairs.same).sum()))
    if status == "not_measurable":
        raise InputError(f"--val {text} is too small for --val-far {options.val_far:g}: {why}")

    def percent(network: nn.Module) -> float:
        (value,) = tar_by_far(as_embedder(network, preprocess, device), pairs, (options.val_far,)).values()
        return 100 * value

    return percent


def scored(logits: Tensor | None) -> Tensor:
    """Class scores of a network that has some."""
    assert logits is not None
    return logits


def decoded(source: Source) -> Tensor:
    """All images, uint8 [N,3,H,W]."""
    return torch.from_numpy(source.read(np.arange(len(source)))).permute(0, 3, 1, 2)


# --- afterwards ----------------------------------------------------------------------------------------------


def tell_episode(plan: EpisodePlan) -> Callable[[EpisodeReport], None]:
    """A line for every validated round."""
    found: list[float] = []

    def tell(report: EpisodeReport) -> None:
        if report.search_episode is None:
            found.append(report.reward)
        if plan.closes_round(report.number):
            mean = sum(found) / len(found)
            say("policy", f"after training {report.number + 1} of {plan.total}: reward {mean:+.3f}" + kept(report.best))
            found.clear()

    return tell


def kept(best: bool) -> str:
    """Whether a round was the best so far."""
    return ", the best so far" if best else ""


def leave_policy(config: PolicySearchConfig, run: Run, task: PolicySearch, source: Source) -> dict[str, Any]:
    """Write policy.json and episodes.json; what run.json says of them."""
    if task.best is None:
        raise UsageError("--validations 0 leaves no policy to keep: give 1 or more")
    profile = chosen_profile(config)
    policy = Policy(
        actor=task.best.actor,
        features=config.features,
        hidden=config.hidden,
        stages=config.stages,
        warm_up=config.warm_up,
        profile=profile.name,
        bound=profile.bound,
        reward=task.best.reward,
        trace=task.best.trace,
        source=searched_on(config, run, source),
    )
    for warning in doubts(task.reports, profile.bound):
        say("note", warning)
    write_policy(run.folder / POLICY, policy)
    write_json(run.folder / REPORTS, {"episodes": [report.to_dict() for report in task.reports]})
    say("policy", f"mean reward {policy.reward:+.3f}; {run.folder / POLICY}")
    return {"policy": {"reward": policy.reward, "sha256": sha256_file(run.folder / POLICY)}}


def doubts(reports: Sequence[EpisodeReport], bound: float) -> Iterator[str]:
    """What a user should know before trusting a policy."""
    drift = max((report.drift or 0.0 for report in reports), default=0.0)
    if drift > 0:
        yield (
            f"the twins differed by up to {drift:.2g} before anything was weighed: part of every reward is chance; "
            "on a GPU give --deterministic"
        )
    actions = np.array(
        [number for report in reports for stage in report.stages if stage.reward for number in stage.action]
    )
    at_bound = float((np.abs(actions) > AT_BOUND * bound).mean()) if len(actions) else 0.0
    if at_bound > MANY:
        yield f"{at_bound:.0%} of all actions lie at their bound of {bound:g}: the policy says little but more or less"


def searched_on(config: PolicySearchConfig, run: Run, source: Source) -> dict[str, str]:
    """What a policy says of its origin."""
    truth = truth_of(source)
    plan = {} if config.noise_plan is None else {"noise_plan": sha256_file(config.noise_plan)}
    noise = {} if truth is None else {"mislabelled": f"{float((truth != source.labels).mean()):.4f}"}
    return {
        "config": config_hash(run.config),
        "data": source.fingerprint,
        "model": config.model,
        "val": str(config.val),
        **plan,
        **noise,
    }
