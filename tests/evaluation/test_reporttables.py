"""Rows into tables: order, what stands beside what, and who keeps a frozen threshold."""

from __future__ import annotations

import dataclasses

import pytest

from facekit.evaluation.reporttables import Way, in_order, sections, steadiest, way_of
from facekit.evaluation.results import Row

RAW = Row(model="m@1", benchmark="b", variant="flip-none", protocol="1:1", metric="tar@far", at=0.01, value=0.5)
DAO = dataclasses.replace(RAW, score="dao", support="cohort", alpha=0.5, neighbours=50)
NOISE = dataclasses.replace(DAO, support="noise")
ZERO = dataclasses.replace(DAO, alpha=0.0)


def test_raw_first_then_aligned_then_controls() -> None:
    rows = [NOISE, ZERO, DAO, dataclasses.replace(DAO, score="asnorm", alpha=None), RAW]
    assert [(way.score, way.support, way.alpha) for way in in_order(map(way_of, rows))] == [
        ("raw", None, None),
        ("dao", "cohort", 0.5),
        ("asnorm", "cohort", None),
        ("dao", "noise", 0.5),
        ("dao", "cohort", 0.0),
    ]


def test_models_are_kept_together() -> None:
    other = dataclasses.replace(RAW, model="n@2")
    assert [way.model for way in in_order(map(way_of, [DAO, other, RAW]))] == ["m@1", "m@1", "n@2"]


def test_what_a_way_says_of_itself() -> None:
    assert (way_of(RAW).label, way_of(RAW).details) == ("raw", "")
    assert (way_of(DAO).label, way_of(DAO).details) == ("dao, cohort", "alpha 0.5, K 50")
    gallery = dataclasses.replace(NOISE, transductive=True)
    assert way_of(gallery).details == "alpha 0.5, K 50, transductive, control"
    assert way_of(ZERO).control and not way_of(DAO).control
    assert (
        way_of(dataclasses.replace(RAW, transductive=False))
        == way_of(RAW)
        == Way("m@1", "raw", None, None, None, False)
    )


def test_a_line_finds_its_effect_and_its_change() -> None:
    rows = [
        RAW,
        dataclasses.replace(RAW, metric="smallest_effect.tar@far", value=0.04),
        DAO,
        dataclasses.replace(DAO, metric="smallest_effect.tar@far", value=0.03),
        dataclasses.replace(DAO, metric="delta.tar@far", value=0.02, low=0.01, high=0.03, note="better: more than"),
        dataclasses.replace(DAO, metric="smallest_effect.delta.tar@far", value=0.015),
        dataclasses.replace(DAO, metric="delta.tar@far", at=0.001, value=9.0, note="worse: another rate"),
        NOISE,
    ]
    (section,) = sections(rows, [])
    (table,) = section.rates
    ((at, (raw, dao, noise)),) = table.points
    assert at == 0.01 and table.several and not table.thresholds and table.unit == "FAR" and table.variant is None
    assert (raw.row, raw.effect, raw.change, raw.word) == (RAW, 0.04, None, None)
    assert (dao.row, dao.effect, dao.change_effect, dao.word) == (DAO, 0.03, 0.015, "better")
    assert dao.change is not None and dao.change.value == 0.02
    assert (noise.row, noise.effect, noise.change, noise.word) == (NOISE, None, None, None)


def test_every_row_lands_in_its_table() -> None:
    def row(metric: str, **fields: object) -> Row:
        return dataclasses.replace(RAW, **{"metric": metric, "at": None, **fields})  # type: ignore[arg-type]

    rows = [
        RAW,
        row("threshold.cosine", at=0.01),
        row("accuracy_10fold", protocol="10fold"),
        row("partial_auc", at=1e-3),
        row("eer"),
        row("tar@far_nearest", at=0.01, status="compat"),
        row("cmc", at=1, protocol="1:N-closed"),
        row("far@tercile1.raw", at=0.01, score="dao"),
        row("far@tercile1.dao", at=0.01, score="dao"),
        row("mcnemar", protocol="paired", score="dao"),
        row("delta.tar@far", at=0.01, model="m@1 against n@2", protocol="paired"),
        row("smallest_effect.delta.tar@far", at=0.01, model="m@1 against n@2", protocol="paired"),
        row("tar@threshold", at=0.01),
        row("far@threshold", at=0.01),
        row("auc", benchmark="other"),
    ]
    first, other = sections(rows, [{"name": "b", "images": 7}])
    assert (first.name, first.about, other.name, other.about) == ("b", {"name": "b", "images": 7}, "other", {})
    assert [(table.title, table.unit) for table in first.rates] == [
        ("Genuine pairs that pass (TAR)", "FAR"),
        ("Identification rate", "rank"),
    ]
    assert first.numbers is not None and first.published is not None and first.thirds is not None
    assert first.numbers.columns == ("Accuracy, 10 folds", "Mean TAR to FAR 0.001", "EER")
    assert first.published.columns == ("TAR at the nearest FAR 0.01",)
    assert [row.metric for row in first.compared] == ["delta.tar@far"]
    assert first.thirds.fars == (0.01,)
    ((way, ((raw_label, raw_cells), (label, cells))),) = first.thirds.groups
    assert (way.score, raw_label, label) == ("dao", "raw", "dao")
    assert [c and c.metric for c in raw_cells] == ["far@tercile1.raw", None, None]
    assert [c and c.metric for c in cells] == ["far@tercile1.dao", None, None]
    assert len(first.frozen) == 1 and not first.several_models
    assert other.numbers is not None and other.rates == () and other.thirds is None


def test_variants_have_tables_of_their_own() -> None:
    rows = [dataclasses.replace(RAW, variant=name) for name in ("G1", "G2")]
    assert [table.variant for table in sections(rows, [])[0].rates] == ["G1", "G2"]


def test_notes_are_those_of_marked_rows() -> None:
    few = dataclasses.replace(RAW, at=0.001, status="low_support", note="three false accepts")
    (section,) = sections([dataclasses.replace(RAW, note="folds"), few, few], [])
    assert section.notes == ("three false accepts",) and section.statuses == {"ok", "low_support"}


# --- frozen thresholds ---------------------------------------------------------------------------------------


def held(value: float | None, low: float | None, high: float | None) -> Row:
    return dataclasses.replace(RAW, metric="far@threshold", at=0.01, value=value, low=low, high=high)


@pytest.mark.parametrize(
    ("raw", "dao", "said"),
    [
        ((0.01, 0.008, 0.012), (0.011, 0.009, 0.013), "both keep it"),
        ((0.03, 0.02, 0.04), (0.011, 0.009, 0.013), "dao"),
        ((0.01, 0.008, 0.012), (0.05, 0.04, 0.06), "raw"),
        ((0.03, 0.02, 0.04), (0.05, 0.041, 0.06), "none; raw is nearest"),
        ((0.03, 0.02, 0.04), (0.05, 0.03, 0.06), "none; undecided which is nearer"),
        # By ratio: a quarter of the target is farther from it than three times as much.
        ((0.0025, 0.002, 0.003), (0.03, 0.02, 0.04), "none; dao is nearest"),
        ((0.0, 0.0, 0.001), (0.5, 0.4, 0.6), "none; dao is nearest"),
        ((0.03, None, None), (0.01, 0.008, 0.012), ""),
        ((None, None, None), (0.01, 0.008, 0.012), ""),
    ],
)
def test_who_keeps_the_far(raw: tuple[float | None, ...], dao: tuple[float | None, ...], said: str) -> None:
    assert steadiest([("raw", held(*raw)), ("dao", held(*dao))]) == said


def test_more_than_two_scores() -> None:
    keeps, loses = held(0.01, 0.008, 0.012), held(0.05, 0.04, 0.06)
    assert steadiest([("a", keeps), ("b", loses), ("c", keeps)]) == "a; c"
    assert steadiest([("a", keeps), ("b", keeps), ("c", keeps)]) == "all keep it"
    assert steadiest([("a", keeps)]) == "", "alone there is nothing to compare"


def test_conditions_stand_below_each_other_and_scores_side_by_side() -> None:
    rows = [
        dataclasses.replace(base, metric=metric, variant=variant, value=value, low=value, high=value, note="from dev")
        for variant, value in (("flip-none", 0.01), ("flip-none,mask", 0.05))
        for base in (RAW, DAO)
        for metric in ("tar@threshold", "far@threshold")
    ]
    (table,) = sections(rows, [])[0].frozen
    assert (table.at, [way.label for way in table.ways], table.source) == (0.01, ["raw", "dao, cohort"], "from dev")
    assert [name for name, _, _ in table.conditions] == ["as they are", "mask"]
    for (_, cells, _), variant in zip(table.conditions, ("flip-none", "flip-none,mask"), strict=True):
        for (tar, far), score in zip(cells, ("raw", "dao"), strict=True):
            assert tar is not None and far is not None
            assert (tar.metric, far.metric, tar.variant, tar.score) == (
                "tar@threshold",
                "far@threshold",
                variant,
                score,
            )


def test_what_is_counted_depends_on_the_protocol() -> None:
    pairs = dataclasses.replace(RAW, n_genuine=3, n_impostor=7, n_images=9, n_identities=4, n_failed=0)
    search = dataclasses.replace(pairs, metric="cmc", at=1, protocol="1:N-closed")
    query = dataclasses.replace(pairs, metric="recall@k", at=1, protocol="retrieval", n_impostor=None)
    (section,) = sections([pairs, search, query], [])
    assert section.counts == ((9, "images"), (4, "people"), (0, "images failed"))
    assert [table.trials for table in section.rates] == [
        [(3, "genuine pairs"), (7, "impostor pairs")],
        [(3, "searches of enrolled people"), (7, "searches of others")],
        [(3, "queries with a match")],
    ]
