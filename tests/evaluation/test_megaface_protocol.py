"""MegaFace in one pass over blocks equals the definition over the whole matrix, ties included."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest

from facekit.core.errors import InputError
from facekit.data.megaface import MegaFaceSet
from facekit.data.vectors import NamedOnly
from facekit.evaluation import megaface
from facekit.evaluation.manyscores import Tail
from facekit.evaluation.megaface import marks, measure_megaface, pieces
from facekit.evaluation.probedraws import ProbeBootstrap
from facekit.evaluation.results import Row
from facekit.evaluation.rivals import Mates, Rivals, place_among
from facekit.evaluation.scoring import RAW, Asked, Measured, People, Scorer
from facekit.evaluation.statistics import draw_identities


@dataclass(frozen=True)
class Shifted:
    """A stand-in for an alignment: the cosine minus half of one number of each image, one-sided on request."""

    name: str = "shifted"
    support: str | None = "toy"
    alpha: float | None = 0.5
    neighbours: int | None = 3
    transductive: bool = False
    probe_weight: float = 0.5

    def terms(self, vectors: np.ndarray, people: People | None = None) -> np.ndarray:
        return vectors[:, :1] ** 2

    def combine(self, cosine: np.ndarray, enrolled: np.ndarray, probe: np.ndarray) -> np.ndarray:
        return np.asarray(cosine - 0.5 * enrolled[..., 0] - self.probe_weight * probe[..., 0], np.float64)

    def pairs(self, enrolled: object, probe: object, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        raise NotImplementedError


def coarse(rng: np.random.Generator, count: int, width: int = 8) -> np.ndarray:
    """Unit vectors with four entries of +-1/2: every product is a multiple of 1/4, exact in any precision; all tie."""
    out = np.zeros((count, width), np.float32)
    for row in out:
        row[rng.choice(width, 4, replace=False)] = rng.choice([-0.5, 0.5], 4)
    return out


def smooth(rng: np.random.Generator, count: int, width: int = 16) -> np.ndarray:
    return rng.normal(size=(count, width)).astype(np.float32)


def make(
    kind: Callable[..., np.ndarray],
    sizes: tuple[int, ...] = (4, 3, 1, 5),
    distractors: int = 230,
    seed: int = 0,
    noise: str = "original",
) -> MegaFaceSet:
    """A set whose sources bring their embeddings. Images of a person are alike, some distractors are copies of them."""
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(len(sizes)), sizes)
    probes = kind(rng, len(person))
    if kind is smooth:
        probes += 1.2 * kind(rng, len(sizes))[person]
    crowd = kind(rng, distractors)
    copies = np.arange(5, distractors, 40)
    crowd[copies] = probes[np.arange(len(copies)) % len(probes)]
    names = [f"{person[i]}/{i}" for i in range(len(person))]
    labels = np.full(distractors, -1)
    return MegaFaceSet(
        name="megaface",
        path="toy",
        noise=noise,
        seed=0,
        probes=NamedOnly(names, person, tuple("abcdefgh"[: len(sizes)]), probes[:, None]),
        probe=np.arange(len(person)),
        person=person,
        people=tuple("abcdefgh"[: len(sizes)]),
        replaced=np.zeros(len(person), bool),
        distractors=NamedOnly([f"d{i}" for i in range(distractors)], labels, (), crowd[:, None]),
        distractor=np.arange(distractors),
        ignored=np.zeros(distractors, bool),
        failed=2,
        notes=(),
    )


def no_table(source: object) -> np.ndarray:
    raise AssertionError("the sources bring their embeddings")


def unit(x: np.ndarray) -> np.ndarray:
    """float64 rows of length 1, rounded as products are made exact; copies stay copies."""
    x = x.astype(np.float64)
    return np.rint(x / np.linalg.norm(x, axis=1, keepdims=True) * 2**26) / 2**26


def literal(
    bench: MegaFaceSet, scorer: Scorer, distractors: int, optimistic: bool = False
) -> tuple[list[int], list[float], list[float]]:
    """(distractors that beat the mate in each trial, genuine scores, impostor scores), pair by pair."""
    p = unit(bench.probes.embeddings[:, 0][bench.probe])  # type: ignore[attr-defined]
    d = unit(bench.distractors.embeddings[:, 0][bench.distractor[:distractors]])  # type: ignore[attr-defined]

    def score(enrolled: np.ndarray, probe: np.ndarray) -> float:
        terms = scorer.terms(enrolled[None]), scorer.terms(probe[None])
        return float(scorer.combine(np.array([sum((enrolled * probe).tolist())]), *terms)[0])

    impostor = [[score(e, probe) for e, ignored in zip(d, bench.ignored, strict=False) if not ignored] for probe in p]
    beaten, genuine = [], []
    for i in range(len(p)):
        for j in range(len(p)):
            if i != j and bench.person[i] == bench.person[j]:
                mate = score(p[j], p[i])
                beaten.append(sum(s > mate if optimistic else s >= mate for s in impostor[i]))
                if j < i:
                    genuine.append(mate)
    return beaten, genuine, [s for row in impostor for s in row]


def value(found: Measured, metric: str, at: float, variant: str, score: str = "raw") -> Row:
    (row,) = [
        r
        for r in found.rows
        if (r.metric, r.at, r.score) == (metric, at, score) and (r.variant or "").endswith(f",{variant}")
    ]
    return row


@pytest.mark.parametrize("kind", [coarse, smooth])
@pytest.mark.parametrize("scorer", [RAW, Shifted(), Shifted(probe_weight=0.0)])
@pytest.mark.parametrize("ties", ["pessimistic", "optimistic"])
def test_rates_are_those_of_the_definition(kind: Callable[..., np.ndarray], scorer: Scorer, ties: str) -> None:
    bench = make(kind)
    fars = (0.3, 0.05, 0.01)
    asked = Asked(scorers=(scorer,), fars=fars, ranks=(1, 3, 20), draws=0)
    found = measure_megaface(bench, no_table, dataclasses.replace(asked, ties=ties), block=64)
    for n in (10, 100, 230):
        beaten, genuine, impostor = literal(bench, scorer, n, ties == "optimistic")
        assert len(beaten) == 4 * 3 + 3 * 2 + 0 + 5 * 4 == 2 * len(genuine)
        for rank in asked.ranks:
            row = value(found, "cmc", rank, f"D={n}", scorer.name)
            assert row.value == pytest.approx(np.mean(np.array(beaten) < rank), abs=1e-15)
            assert (row.protocol, row.n_genuine, row.n_impostor) == ("megaface-id", 38, n)
        descending = np.sort(np.array(impostor, np.float32))[::-1]
        for far in fars:
            row = value(found, "tar@far", far, f"D={n}", scorer.name)
            bound = descending[int(Fraction(str(far)) * len(impostor))]
            assert row.value == np.mean(np.array(genuine, np.float32) > bound)
            assert (row.protocol, row.n_genuine, row.n_impostor) == ("megaface-ver", 19, 13 * n)


def test_ties_matter_and_are_named() -> None:
    bench = make(coarse)
    asked = Asked(fars=(), ranks=(1,), draws=0)
    strict, lenient = (
        measure_megaface(bench, no_table, dataclasses.replace(asked, ties=ties))
        for ties in ("pessimistic", "optimistic")
    )
    a = value(strict, "cmc", 1, "D=230")
    b = value(lenient, "cmc", 1, "optimistic,D=230")
    assert a.value is not None and b.value is not None and a.value < b.value
    assert (a.variant, b.variant) == ("flip-none,original,D=230", "flip-none,original,optimistic,D=230")


@pytest.mark.parametrize("scorers", [(RAW,), (RAW, Shifted())])
def test_result_does_not_depend_on_the_block(scorers: tuple[Scorer, ...]) -> None:
    bench = make(coarse)
    asked = Asked(scorers=scorers, fars=(0.1,), draws=50)
    assert len({str(measure_megaface(bench, no_table, asked, block=b).rows) for b in (1, 7, 64, 4096)}) == 1
    bench = make(smooth)  # products of float32 depend on the shape of the block; what is counted does not
    found = [measure_megaface(bench, no_table, asked, block=b).rows for b in (1, 50, 4096)]
    for rows in zip(*found, strict=True):
        assert len({(r.metric, r.value, r.low, r.high) for r in rows}) == 1


def test_a_copy_of_the_mate_is_a_tie_in_any_precision() -> None:
    """The float32 products of equal vectors may differ in the last bit: near a mate they are computed exactly."""
    rng = np.random.default_rng(3)
    for width in (16, 63, 512):
        bench = make(smooth, distractors=40, seed=width)
        probes = rng.normal(size=(13, 1, width)).astype(np.float32)
        crowd = rng.normal(size=(40, 1, width)).astype(np.float32)
        crowd[17] = probes[1] * 4  # the same direction, exactly
        bench = dataclasses.replace(
            bench,
            probes=NamedOnly(bench.probes.names, bench.person, bench.people, probes),
            distractors=NamedOnly(bench.distractors.names, bench.distractors.labels, (), crowd),
        )
        counts = {}
        for ties in (False, True):
            contest = megaface.Contest(RAW, unit(probes[:, 0]), bench, Asked(draws=0), ties)
            block = megaface.Distractors(megaface.views_of(bench.distractors, no_table, "none"), np.arange(40))
            contest.meet(block, block.quick())
            contest.judge(slice(0, 13), unit(probes[:, 0]).astype(np.float32) @ block.quick().T)
            counts[ties] = contest.rivals.beaten()
        mate = contest.mates.who == 1
        assert np.array_equal(counts[False][mate] - counts[True][mate], [1, 1, 1])
        assert np.array_equal(counts[False][~mate], counts[True][~mate])


def test_one_mate_at_a_time() -> None:
    """Joined galleries would let the closest of the other images win for all of them."""
    angles = np.radians([0, 10, 80])
    probes = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    bench = make(smooth, sizes=(3,), distractors=10)
    crowd = np.tile(np.array([[np.cos(np.radians(-30)), np.sin(np.radians(-30))]], np.float32), (10, 1))
    bench = dataclasses.replace(
        bench,
        probes=NamedOnly(bench.probes.names, bench.person, bench.people, probes[:, None]),
        distractors=NamedOnly(bench.distractors.names, bench.distractors.labels, (), crowd[:, None]),
    )
    found = measure_megaface(bench, no_table, Asked(fars=(), ranks=(1, 10, 11), draws=0))
    # 0-10, 10-0 and 80-10 are closer than the crowd, 10-80 too (70 against 40 degrees is not), 0-80 and 80-0 are ...
    close = {(0, 10): 30, (0, 80): 30, (10, 0): 40, (10, 80): 40, (80, 0): 110, (80, 10): 110}
    wins = [abs(a - b) < crowd_angle for (a, b), crowd_angle in close.items()]
    assert value(found, "cmc", 1, "D=10").value == np.mean(wins) == 4 / 6
    assert value(found, "cmc", 10, "D=10").value == 4 / 6  # all ten of the crowd beat a mate, or none
    assert value(found, "cmc", 11, "D=10").value == 1  # rank is counted from 1: eleventh of eleven


def centred(bench: MegaFaceSet) -> np.ndarray:
    return megaface.probe_vectors(bench, megaface.views_of(bench.probes, no_table, "none"))


def test_replaced_probes_become_their_centre() -> None:
    bench = make(smooth, noise="insightface")
    replaced = np.zeros(13, bool)
    replaced[[1, 9]] = True
    bench = dataclasses.replace(bench, replaced=replaced)
    views = bench.probes.embeddings  # type: ignore[attr-defined]
    found = centred(bench)
    plain = views[:, 0] / np.linalg.norm(views[:, 0].astype(float), axis=1, keepdims=True)
    centre = plain[[0, 2, 3]].sum(axis=0)
    assert found[1] @ centre / np.linalg.norm(centre) > 0.9999
    assert not np.allclose(found[1], centre / np.linalg.norm(centre), atol=1e-7)  # a little noise
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)
    np.testing.assert_allclose(found[~replaced], plain[~replaced], atol=1e-7)
    assert np.array_equal(found, centred(bench))  # seeded
    other = centred(dataclasses.replace(bench, seed=1))
    assert not np.array_equal(found[1], other[1]) and np.array_equal(found[0], other[0])
    rates = [measure_megaface(b, no_table, Asked(fars=(), draws=0)) for b in (bench, make(smooth))]
    flattering, honest = (value(r, "cmc", 1, "D=230").value for r in rates)
    assert flattering is not None and honest is not None and flattering > honest


def test_ignored_distractors_are_counted_and_never_similar() -> None:
    """InsightFace's 513th coordinate: as if dropped in identification, still impostors in verification."""
    ignored = np.zeros(230, bool)
    ignored[:40] = True
    bench = dataclasses.replace(make(smooth, noise="insightface"), ignored=ignored)
    dropped = dataclasses.replace(bench, distractor=np.arange(40, 230), ignored=np.zeros(190, bool))
    asked = Asked(fars=(0.05,), draws=0)
    ours, without = (measure_megaface(b, no_table, asked) for b in (bench, dropped))
    assert value(ours, "cmc", 1, "D=230").value == value(without, "cmc", 1, "D=190").value
    row = value(ours, "tar@far", 0.05, "D=230")
    _, genuine, impostor = literal(bench, RAW, 230)
    assert len(impostor) == 13 * 190 and row.n_impostor == 13 * 230
    bound = np.sort(np.array(impostor, np.float32))[::-1][int(0.05 * 13 * 230)]
    assert row.value == np.mean(np.array(genuine, np.float32) > bound)
    assert value(ours, "tar@far", 0.05, "D=10").value is not None  # nothing but ignored ones: nobody passes
    assert value(ours, "tar@far", 0.05, "D=10").n_false == 0


def test_saturated_counts_stay_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact below the limit, at least the limit beyond it: all ranks up to it are right."""
    monkeypatch.setattr(megaface, "EXACT_RANKS", 4)
    bench = make(coarse)
    found = measure_megaface(bench, no_table, Asked(fars=(0.1,), ranks=(1, 2, 4), draws=0), block=16)
    for n in (10, 100, 230):
        beaten, genuine, impostor = literal(bench, RAW, n)
        for rank in (1, 2, 4):
            assert value(found, "cmc", rank, f"D={n}").value == np.mean(np.array(beaten) < rank)
        bound = np.sort(impostor)[::-1][int(0.1 * len(impostor))]
        assert value(found, "tar@far", 0.1, f"D={n}").value == np.mean(np.array(genuine) > bound)


def test_saturated_probes_are_not_looked_at_again() -> None:
    mates = Mates(np.array([[0.1, 0.3, np.inf], [0.2, 0.2, 0.4]]), np.array([[1, 2, -1], [0, 2, 3]]))
    rivals = Rivals(mates, limit=2)
    rivals.add(np.array([0, 0, 1, 1, 1]), np.array([0.1, 0.35, 0.2, 0.19, 0.5]))
    assert rivals.beaten().tolist() == [[2, 1, 0], [2, 2, 1]]
    rivals.drop_the_lost(slice(0, 2))
    assert rivals.floor.tolist() == [0.3, 0.4]
    rivals.add(np.array([0, 1]), np.array([0.3, 0.4]))
    rivals.drop_the_lost(slice(0, 2))
    assert rivals.floor.tolist() == [np.inf, np.inf]
    lenient = Rivals(mates, limit=2, optimistic=True)
    lenient.add(np.array([0, 1]), np.array([0.1, 0.2]))
    assert not lenient.beaten().any()


def test_place_among_is_searchsorted_per_row() -> None:
    rng = np.random.default_rng(0)
    for width in (1, 2, 7, 8):
        table = np.sort(rng.integers(0, 5, (6, width)).astype(float), axis=1)
        row, wanted = rng.integers(0, 6, 200), rng.integers(-1, 6, 200).astype(float)
        for above, side in ((False, "right"), (True, "left")):
            literal = [np.searchsorted(table[r], w, side) for r, w in zip(row, wanted, strict=True)]  # type: ignore[call-overload]
            assert place_among(table, row, wanted, above).tolist() == literal


def test_marks_and_pieces() -> None:
    assert marks(1_000_000) == [10, 100, 1000, 10_000, 100_000, 1_000_000]
    assert (marks(7), marks(10), marks(11)) == ([7], [10], [10, 11])
    assert list(pieces(230, 64)) == [(0, 10), (10, 74), (74, 100), (100, 164), (164, 228), (228, 230)]


# --- intervals --------------------------------------------------------------------------------------------


def test_draws_are_those_of_repeating_every_probe() -> None:
    rng = np.random.default_rng(0)
    person = np.repeat([0, 1, 2, 3], [3, 2, 4, 2])
    genuine, of_trial = rng.normal(1, 1, 30).round(1), rng.integers(0, 4, 30)
    impostor = rng.normal(0, 1, (len(person), 25)).round(1).astype(np.float32)  # with ties
    boot = ProbeBootstrap(person, of_trial, 25, draws=40, seed=3)
    order = np.argsort(-impostor.ravel(), kind="stable")
    tail = Tail(impostor.ravel()[order], impostor.size)
    drawn = boot.tail_tar(genuine, tail, np.repeat(person, 25)[order], [0.01, 0.1, 0.5, 1.0])
    weight = draw_identities(4, 40, 3)
    for far, rates in zip((0.01, 0.1, 0.5, 1.0), drawn, strict=True):
        assert rates is not None
        for draw in range(40):
            g = np.repeat(genuine, weight[of_trial, draw])
            i = np.sort(np.repeat(impostor, weight[person, draw], axis=0).ravel())[::-1]
            k = int(Fraction(str(far)) * len(i))
            wanted = np.mean(g > i[k]) if k < len(i) else 1.0
            assert rates[draw] == pytest.approx(wanted, abs=1e-12)
    mean = boot.mean(genuine > 1)
    assert mean[7] == pytest.approx(np.mean(np.repeat(genuine > 1, weight[of_trial, 7])))


def test_short_tail_gives_no_draws() -> None:
    person = np.array([0, 0, 1, 1])
    boot = ProbeBootstrap(person, np.array([0, 1]), 100, draws=200, seed=0)
    tail = Tail(np.linspace(1, 0.5, 45, dtype=np.float32), 400)
    fine, low = boot.tail_tar(np.array([0.9, 0.7]), tail, np.arange(45) % 2, [0.02, 0.112])
    # 44 of 400 may pass: where only the second person is drawn, twice, the tail ends with the 44th.
    assert fine is not None and low is None
    (nobody,) = boot.tail_tar(np.array([0.9, 0.7]), tail, np.zeros(45, int), [0.02])
    assert nobody is None  # in some draws the person of all these impostors is not there


def test_rows_carry_intervals_and_aligned_ones_a_difference() -> None:
    bench = make(smooth, sizes=(6, 6, 6, 6, 6, 6))
    asked = Asked(scorers=(RAW, Shifted(probe_weight=0.0)), fars=(0.1, 1e-6), ranks=(1,), draws=200, curves=True)
    found = measure_megaface(bench, no_table, asked)
    for name in ("raw", "shifted"):
        for metric, at in (("cmc", 1), ("tar@far", 0.1)):
            row = value(found, metric, at, "D=230", name)
            assert row.ci_method in ("identity_bootstrap", "wilson") and row.low is not None and row.value is not None
            assert row.high is not None and row.low <= row.value <= row.high
    assert value(found, "tar@far", 1e-6, "D=230").status == "not_measurable"
    delta = value(found, "delta.tar@far", 0.1, "D=230", "shifted")
    a, b = (value(found, "tar@far", 0.1, "D=230", name).value for name in ("raw", "shifted"))
    assert a is not None and b is not None and delta.value == pytest.approx(b - a)
    assert delta.note.split(":")[0] in ("better", "worse", "undecided")
    curve = found.curves[0]
    assert curve.rank[0] == 1 and curve.rate[0] == value(found, "cmc", 1, "D=230").value  # type: ignore[union-attr]
    assert (np.diff(curve.rate) >= 0).all()  # type: ignore[union-attr]


def test_own_embeddings_of_one_view_are_not_mirrored() -> None:
    found = measure_megaface(make(smooth), no_table, Asked(flip="sum", fars=(), draws=0))
    plain = measure_megaface(make(smooth), no_table, Asked(flip="none", fars=(), draws=0))
    assert value(found, "cmc", 1, "D=230").value == value(plain, "cmc", 1, "D=230").value


@pytest.mark.parametrize("flip", ["none", "sum", "concat"])
def test_views_of_a_model_are_fused_first(flip: str) -> None:
    bench, rng = make(smooth), np.random.default_rng(9)
    tables = {id(s): rng.normal(size=(len(s), 1 + (flip != "none"), 6)) for s in (bench.probes, bench.distractors)}
    fuse = {
        "none": lambda x: x[:, :1],
        "sum": lambda x: x.sum(axis=1, keepdims=True),
        "concat": lambda x: x.reshape(len(x), 1, -1),
    }[flip]
    fused = dataclasses.replace(
        bench,
        probes=NamedOnly(bench.probes.names, bench.person, bench.people, fuse(tables[id(bench.probes)])),
        distractors=NamedOnly(bench.distractors.names, np.full(230, -1), (), fuse(tables[id(bench.distractors)])),
    )
    for source in (bench.probes, bench.distractors):
        source.embeddings = None  # type: ignore[attr-defined]
    for scorers in ((RAW,), (RAW, Shifted())):
        asked = Asked(flip=flip, scorers=scorers, fars=(0.1,), draws=0)
        ours = measure_megaface(bench, lambda source: tables[id(source)].astype(np.float32), asked)
        wanted = measure_megaface(fused, no_table, asked)
        assert [(r.metric, r.value) for r in ours.rows] == [(r.metric, r.value) for r in wanted.rows]


@pytest.mark.parametrize("broken", [0.0, np.nan])
@pytest.mark.parametrize("side", ["probes", "distractors"])
def test_broken_embeddings_are_named(broken: float, side: str) -> None:
    bench = make(smooth)
    source = getattr(bench, side)
    source.embeddings[7] = broken
    with pytest.raises(InputError, match=f"embedding of {source.names[7]} is zero or not finite"):
        measure_megaface(bench, no_table, Asked(draws=0))
