"""``facekit data pairs``: a verification set of a user's own people."""

from __future__ import annotations

from facekit.configs import PairsConfig
from facekit.core.errors import UsageError
from facekit.core.reporting import say
from facekit.data.makepairs import PairChoice, choose_pairs
from facekit.data.protocol import Store
from facekit.data.sources import choose_data
from facekit.data.writepairs import write_pairs
from facekit.engines.fitting import open_images

RULE_OF_30 = 30
"""False accepts below which a rate is known to no better than +-30 % (at 90 % confidence)."""


def run(config: PairsConfig) -> None:
    """Choose pairs among the people of --data and write them to --out."""
    if config.pairs < 2 * config.folds:
        raise UsageError(
            f"--pairs {config.pairs} are fewer than two in each of --folds {config.folds}; "
            f"give {2 * config.folds} or more"
        )
    if config.noise_plan is not None:
        raise UsageError("pairs measure models and need true labels; leave --noise-plan out")
    path = choose_data(config.data)
    source: Store = open_images(config, path, need_labels=True)  # type: ignore[assignment]  # every source is also a store
    for note in source.notes:
        say("note", note)
    choice = choose_pairs(
        source, pairs=config.pairs, folds=config.folds, per_person=config.per_person, seed=config.seed
    )
    images = write_pairs(source, choice, config.out, with_bin=config.bin)
    say("wrote", f"{config.out}: {len(choice.same):,} pairs, half of them of one person, {images:,} images")
    for note in notes(choice, config):
        say("note", note)


def notes(choice: PairChoice, config: PairsConfig) -> list[str]:
    """What was left out, what limits the set, and what it can measure."""
    found = []
    if choice.copies:
        found.append(f"{choice.copies:,} copies of other images of the same person were left out")
    if choice.doubtful:
        found.append(
            f"{choice.doubtful:,} images were left out because the same file lies under two people; "
            f"facekit data check --data {config.data} lists them"
        )
    if choice.limit:
        found.append(f"{len(choice.same):,} of {config.pairs:,} pairs could be made: {choice.limit}")
    elif len(choice.same) < config.pairs:
        found.append(f"{config.pairs:,} pairs do not make {config.folds} equal folds with as many of either kind")
    if config.bin and config.folds != 10:
        found.append("a .bin has no folds of its own: readers cut it into tenths")
    impostors = int((~choice.same).sum())
    found.append(
        f"{impostors:,} impostor pairs measure FAR down to {1 / impostors:.2g}, with {RULE_OF_30} false accepts down "
        f"to {min(1.0, RULE_OF_30 / impostors):.2g}; for lower ones take all pairs: --benchmark allpairs:{config.out}"
    )
    return found
