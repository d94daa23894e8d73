"""Does alignment do what it is for, and no harm where it cannot help? Crowded and lonely faces on a sphere."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from facekit.alignment.errors import PoorVirtualBank
from facekit.alignment.policy import over_correction
from facekit.alignment.scorers import SCORES, WITHOUT_SUPPORT, build_scorers
from facekit.alignment.settings import Settings
from facekit.alignment.statistics import BankStatistics, reference_of
from facekit.alignment.virtual import Mixture, judged, latentmix, noise, spearman, split_people, stream, virtual_bank
from facekit.evaluation.statistics import IdentityBootstrap, Interval, paired_difference
from facekit.evaluation.verification import Scores, pair_cosines, tar_at_far
from tests.alignment.sphere import MODEL, PREPROC, SEEDS, WIDTH, Sphere

NAMES = ("raw", "dao", "znorm", "tnorm", "snorm", "asnorm", "csls", "nicdm")


@cache
def mixed(seed: int) -> dict[str, float]:
    """TAR at FAR 1e-3 of all scores, with a bank like the test people."""
    sphere = Sphere.of(seed)
    bank = sphere.bank()
    search = BankStatistics(bank, Settings()).search
    search.want_moments()
    variants = {
        "full strength": Settings(alpha=1.0),
        "lse": Settings(alpha=1.0, statistic="lse"),
        "max": Settings(alpha=1.0, statistic="max"),
        "ratio": Settings(operator="ratio"),
    }
    found = sphere.tars(bank, NAMES, search=search)
    return found | {name: sphere.tars(bank, ("dao",), chosen, search)["dao"] for name, chosen in variants.items()}


def mean_of(name: str) -> float:
    return float(np.mean([mixed(seed)[name] for seed in SEEDS]))


@pytest.mark.parametrize("seed", SEEDS)
def test_alignment_helps_where_some_faces_are_crowded(seed: int) -> None:
    tar = mixed(seed)
    assert tar["raw"] <= 0.82
    assert tar["full strength"] >= 0.85
    assert tar["dao"] >= 0.89
    assert tar["dao"] - tar["raw"] >= 0.06
    assert tar["snorm"] <= 0.62, "statistics over the whole bank look like statistics over neighbours"


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("raw", 0.778),
        ("snorm", 0.573),
        ("znorm", 0.576),
        ("tnorm", 0.582),
        ("asnorm", 0.889),
        ("dao", 0.911),
        ("full strength", 0.880),
        ("lse", 0.883),
        ("max", 0.877),
        ("ratio", 0.610),
        ("nicdm", 0.908),
    ],
)
def test_the_means_are_those_measured_before(name: str, published: float) -> None:
    assert abs(mean_of(name) - published) < 0.02


@pytest.mark.parametrize("seed", SEEDS)
def test_a_wrong_bank_costs_little(seed: int) -> None:
    sphere = Sphere.of(seed)
    raw = mixed(seed)["raw"]
    lonely = sphere.bank(0, 1000)
    white = noise(WIDTH, candidates=1000, model_sha=MODEL, preproc_sha=PREPROC, seed=seed)
    for bank in (lonely, white):
        tar = sphere.tars(bank, ("dao", "asnorm"))
        assert abs(tar["dao"] - raw) <= 0.02
        assert tar["asnorm"] < raw - 0.05, "z is not safe with a wrong bank: the reason why add is the default"


@pytest.mark.parametrize("seed", SEEDS)
def test_without_crowds_nothing_changes(seed: int) -> None:
    sphere = Sphere.of(seed, bias=(0.0, 0.0))
    tar = sphere.tars(sphere.bank(), ("raw", "dao", "csls"))
    assert abs(tar["dao"] - tar["raw"]) <= 0.01
    assert abs(tar["csls"] - tar["raw"]) <= 0.01


# --- virtual people ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("partners", "seeds"), [("near", SEEDS[:3]), ("global", SEEDS[:1])])
def test_virtual_people_stand_for_real_ones(partners: str, seeds: tuple[int, ...]) -> None:
    gains = []
    for seed in seeds:
        sphere = Sphere.of(seed)
        training = sphere.bank(each=4, reduce="centre")
        others = sphere.bank(each=4, reduce="centre", draw=2)
        virtual = latentmix(training, candidates=1000, partners=partners, seed=seed)
        first, second = (BankStatistics(bank, Settings())(sphere.vectors).d for bank in (virtual, others))
        assert spearman(first, second) > 0.9
        assert virtual.report["spearman"] > 0.9
        assert virtual.parent == training.sha
        tar = sphere.tars(virtual, ("raw", "dao"))
        gains.append(tar["dao"] - tar["raw"])
    assert min(gains) > 0.05
    assert np.mean(gains) > 0.08


def test_virtual_people_of_the_measured_sigma() -> None:
    sphere = Sphere.of(0)
    training = sphere.bank(each=4, reduce="centre")
    mixture = Mixture(split_people(training, 0).prototypes, 1000, "near", stream(0, "test"))
    tar = sphere.tars(virtual_bank(mixture.at(1.0), "latentmix", training, 0, {}), ("raw", "dao"))
    assert tar["dao"] - tar["raw"] > 0.08


@pytest.mark.parametrize("seed", SEEDS[:3])
def test_noise_is_a_control_and_no_virtual_bank(seed: int) -> None:
    sphere = Sphere.of(seed)
    training = sphere.bank(each=4)
    white = noise(WIDTH, candidates=1000, model_sha=MODEL, preproc_sha=PREPROC, seed=seed)
    first, second = (BankStatistics(bank, Settings())(sphere.vectors).d for bank in (white, training))
    assert abs(spearman(first, second)) < 0.2
    tar = sphere.tars(white, ("raw", "dao"))
    assert tar["dao"] - tar["raw"] < 0.01
    with pytest.raises(PoorVirtualBank) as refused:
        judged(white, split_people(training, seed))
    assert refused.value.code == "ALIGN-VIRTUAL"


def test_centres_at_full_strength_over_correct_and_are_told() -> None:
    sphere = Sphere.of(0)
    tar = sphere.tars(sphere.bank(each=4, reduce="centre"), ("raw", "dao"), Settings(alpha=1.0))
    (note,) = over_correction("centre", tar["raw"], tar["dao"])
    assert "over-correction" in note
    assert over_correction("single", tar["raw"], tar["dao"]) == []
    assert over_correction("centre", 0.7, 0.7) == []


# --- honesty ----------------------------------------------------------------------------------------------


def test_labels_at_random_give_tar_equal_to_far() -> None:
    sphere = Sphere.of(0)
    source = BankStatistics(sphere.bank(), Settings())
    reference = reference_of(source.own())
    shuffled = np.random.default_rng(7).permutation(sphere.same)
    far = 0.01
    band = 2.58 * np.sqrt(far * (1 - far) / shuffled.sum())
    for scorer in build_scorers(
        ("raw", "dao", "asnorm"), Settings(), source, cosines=pair_cosines, reference=reference
    ):
        value = tar_at_far(Scores.of(sphere.pair_scores(scorer), shuffled), far).value
        assert value is not None
        assert abs(value - far) < band


def test_the_bootstrap_sees_the_gain_and_no_difference_where_there_is_none() -> None:
    sphere = Sphere.of(0)
    bank = sphere.bank()
    source = BankStatistics(bank, Settings())
    raw, dao = build_scorers(
        ("raw", "dao"), Settings(), source, cosines=pair_cosines, reference=reference_of(source.own())
    )
    boot = IdentityBootstrap(sphere.identity[sphere.left], sphere.identity[sphere.right], sphere.same, draws=100)
    first, second = (boot.tar_at_far(sphere.pair_scores(scorer), [1e-3])[0] for scorer in (raw, dao))
    gain = paired_difference(mixed(0)["dao"] - mixed(0)["raw"], first, second, 600)
    assert gain.low is not None and gain.low > 0
    same = Interval.of(first - boot.tar_at_far(sphere.cosines, [1e-3])[0])
    assert (same.low, same.high) == (0.0, 0.0)


def test_fmr_leaves_the_roc_as_it_is() -> None:
    sphere = Sphere.of(0)
    impostors = Sphere.of(1).cosines[~Sphere.of(1).same]
    (fmr,) = build_scorers(("fmr",), Settings(), cosines=pair_cosines, impostors=impostors)
    assert abs(sphere.tar(sphere.pair_scores(fmr)) - sphere.tar(sphere.cosines)) < 0.002


def test_six_scores_cost_one_search(monkeypatch: pytest.MonkeyPatch) -> None:
    sphere = Sphere.of(0, people=20, pairs=50)
    source = BankStatistics(sphere.bank(30, 30), Settings(neighbours=20))
    searched = []
    search = source.search._search
    monkeypatch.setattr(source.search, "_search", lambda *given: searched.append(len(given[0])) or search(*given))
    names = tuple(name for name in SCORES if name not in WITHOUT_SUPPORT)
    for scorer in build_scorers(names, Settings(neighbours=20), source, cosines=pair_cosines):
        sphere.pair_scores(scorer)
    assert searched == [len(sphere.vectors)]
