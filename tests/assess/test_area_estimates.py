"""Estimates against the printed figures of papers and of R's survey, plain loops, and repeated sampling."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from das2f_map.assess.area_estimates import LabelledUnits, MappedGround, estimate
from das2f_map.assess.estimates import AreaEstimates
from das2f_map.assess.intervals import modified_wilson, wilson
from das2f_map.assess.sampled_units import ClusteredUnits, StratifiedUnits, occupied
from das2f_map.types import Float64, Int64

Z = 1.959964


def of_counts(counts: list[list[int]], pixels: list[int], pixel_area: float = 1.0) -> AreaEstimates:
    """Estimates of a sample that is stratified by the map: counts of map classes down, reference across."""
    mapped, reference = np.nonzero(np.array(counts))
    repeats = np.array(counts)[mapped, reference]
    mapped, reference = np.repeat(mapped, repeats), np.repeat(reference, repeats)
    n = len(pixels)
    names = tuple(f"class {k + 1}" for k in range(n))
    labelled = LabelledUnits(names, tuple(range(1, n + 1)), mapped, reference)
    size = np.array(pixels, float)
    own = occupied(mapped, n)
    units = StratifiedUnits(
        own.position[mapped],
        size[own.keep],
        size[own.keep] * pixel_area,
        np.full(mapped.size, pixel_area),
        np.eye(n, dtype=bool)[own.keep],
    )
    return estimate(labelled, units, MappedGround(np.array(pixels), size * pixel_area), design="stratified")


def test_deforestation_of_olofsson_2014() -> None:
    """Tables 8 and 9: deforestation, forest gain, stable forest, stable non-forest; Landsat pixels."""
    found = of_counts(
        [[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]],
        [200_000, 150_000, 3_200_000, 6_450_000],
        900.0,
    )
    deforestation = found.classes[0].area_m2
    assert deforestation.value is not None
    assert deforestation.standard_error is not None
    assert deforestation.value / 900 == pytest.approx(235_086, abs=0.6)
    # The paper leaves the finite population out, and computes with four digits.
    assert 1.96 * deforestation.standard_error / 900 == pytest.approx(68_418, rel=5e-5)
    overall = found.overall_accuracy
    assert round(overall.value or 0, 3) == 0.947
    assert round(Z * (overall.standard_error or 0), 4) == 0.0185
    users = [c.users_accuracy for c in found.classes]
    assert [round(u.value or 0, 2) for u in users] == [0.88, 0.73, 0.93, 0.96]
    assert [round(Z * (u.standard_error or 0), 2) for u in users] == [0.07, 0.10, 0.04, 0.02]
    producers = [c.producers_accuracy for c in found.classes]
    assert [round(p.value or 0, 2) for p in producers] == [0.75, 0.85, 0.93, 0.96]
    assert [round(Z * (p.standard_error or 0), 2) for p in producers] == [0.21, 0.25, 0.03, 0.02]
    assert found.area_m2 == 900 * 10_000_000


STEHMAN_STRATA = "A" * 10 + "B" * 10 + "C" * 10 + "D" * 10
STEHMAN_MAP = "AAAAAAABBBABBBBBBBBBBBCCCCCCBBDDDDDDDDDD"
STEHMAN_REFERENCE = "AAAAACBABCABBBBBAABBCCCCCDDBBADDDDDDDCCB"


def stehman() -> AreaEstimates:
    """Table 2 of Stehman (2014): 40 units in four strata that are not the map's classes."""
    at = {letter: k for k, letter in enumerate("ABCD")}
    stratum, mapped, reference = (
        np.array([at[letter] for letter in text]) for text in (STEHMAN_STRATA, STEHMAN_MAP, STEHMAN_REFERENCE)
    )
    size = np.array([40_000.0, 30_000.0, 20_000.0, 10_000.0])
    labelled = LabelledUnits(tuple("ABCD"), (1, 2, 3, 4), mapped, reference)
    units = StratifiedUnits(stratum, size, size, np.ones(40))
    # The example ignores the finite population: the share that was sampled is 1 in 1,000 to 4,000.
    return estimate(labelled, units, MappedGround(np.zeros(4, np.int64), np.zeros(4)), design="stratified")


def test_example_of_stehman_2014() -> None:
    found = stehman()
    a, b, c, _ = found.classes
    assert (a.share.value, c.share.value) == (pytest.approx(0.35), pytest.approx(0.20))
    assert [round(x.share.standard_error or 0, 3) for x in (a, c)] == [0.082, 0.064]
    assert found.overall_accuracy.value == pytest.approx(0.63)
    assert round(found.overall_accuracy.standard_error or 0, 3) == 0.085
    assert round(b.users_accuracy.value or 0, 3) == 0.574
    assert round(b.users_accuracy.standard_error or 0, 3) == 0.125
    assert round(b.producers_accuracy.value or 0, 3) == 0.794
    assert round(b.producers_accuracy.standard_error or 0, 3) == pytest.approx(0.116, abs=0.0011)
    assert found.cells[1, 2] == pytest.approx(0.08)


# Districts of R's data set apiclus2 (package survey): schools there are, and the API 2000 of those drawn.
DISTRICTS: list[tuple[int, list[int]]] = [
    (1, [821]),
    (1, [773]),
    (3, [600, 740, 716]),
    (1, [811]),
    (3, [472, 520, 568]),
    (3, [591, 544, 612]),
    (4, [926, 890, 903, 901]),
    (1, [453]),
    (4, [569, 545, 584, 601]),
    (11, [622, 610, 622, 783, 612]),
    (2, [536, 524]),
    (1, [636]),
    (5, [666, 698, 713, 614, 701]),
    (4, [927, 934, 933, 903]),
    (5, [911, 889, 874, 861, 842]),
    (4, [652, 554, 553, 601]),
    (1, [607]),
    (5, [717, 646, 644, 631, 690]),
    (2, [622, 566]),
    (5, [615, 596, 547, 541, 621]),
    (5, [912, 929, 909, 951, 912]),
    (2, [759, 803]),
    (36, [660, 502, 479, 545, 478]),
    (1, [710]),
    (28, [769, 865, 808, 840, 840]),
    (7, [818, 821, 868, 892, 824]),
    (72, [580, 807, 537, 690, 489]),
    (14, [641, 542, 645, 543, 486]),
    (7, [756, 795, 773, 772, 743]),
    (2, [794, 751]),
    (4, [631, 555, 608, 627]),
    (3, [772, 738, 670]),
    (2, [673, 711]),
    (2, [730, 711]),
    (1, [468]),
    (9, [766, 742, 776, 742, 626]),
    (1, [747]),
    (2, [620, 602]),
    (6, [895, 844, 869, 851, 861]),
    (1, [653]),
]


def test_two_stage_clusters_as_survey_of_r() -> None:
    """``svymean(~api00, svydesign(id = ~dnum + snum, fpc = ~fpc1 + fpc2, data = apiclus2))``."""
    sizes = np.array([size for size, _ in DISTRICTS], float)
    values = np.concatenate([found for _, found in DISTRICTS]).astype(float)
    cluster = np.repeat(np.arange(len(DISTRICTS)), [len(found) for _, found in DISTRICTS])
    units = ClusteredUnits.of_equal_chance(cluster, sizes, 757, np.ones(values.size), 1.0)
    assert values.size == 126
    mean = float(units.weights @ values)
    error = math.sqrt(float(units.variance((values - mean)[:, None])[0]))
    assert (round(mean, 2), round(error, 3)) == (670.81, 30.099)


def test_finite_population_as_survey_of_r() -> None:
    """``svymean(~stype, svydesign(id = ~1, fpc = ~fpc, data = apisrs))``: 142, 25 and 33 of 6,194 schools."""
    reference = np.repeat([0, 1, 2], [142, 25, 33])
    labelled = LabelledUnits(("E", "H", "M"), (1, 2, 3), reference, reference)
    units = StratifiedUnits(
        np.zeros(200, np.int64), np.array([6194.0]), np.array([6194.0]), np.ones(200), np.ones((1, 3), bool)
    )
    found = estimate(
        labelled, units, MappedGround(np.zeros(3, np.int64), np.zeros(3)), design="simple random"
    )
    errors = [0.0316427633974734, 0.0230624405297003, 0.02588400293758]
    assert [c.share.value for c in found.classes] == pytest.approx([0.71, 0.125, 0.165])
    assert [c.share.standard_error for c in found.classes] == pytest.approx(errors)


def two_stage(cluster: Int64, values: Float64, sizes: Float64, count: int) -> tuple[float, float]:
    """Mean and its variance, written out with loops (Cochran 1977, eq. 11.30, with a ratio)."""
    m = len(sizes)
    own = [values[cluster == j] for j in range(m)]
    total = sum(size * v.mean() for size, v in zip(sizes, own, strict=True))
    mean = total / sizes.sum()
    off = [size * (v.mean() - mean) for size, v in zip(sizes, own, strict=True)]
    between = count**2 * (1 - m / count) / m * np.var(off, ddof=1)
    within = sum(
        size**2 * (1 - len(v) / size) / len(v) * np.var(v, ddof=1) for size, v in zip(sizes, own, strict=True)
    )
    return mean, (between + count / m * within) / (count / m * sizes.sum()) ** 2


def test_clusters_against_loops() -> None:
    rng = np.random.default_rng(3)
    sizes = rng.integers(60, 100, 12).astype(float)
    cluster = np.repeat(np.arange(12), 8)
    reference = (rng.random(96) < 0.3 + 0.03 * cluster).astype(np.int64)
    mapped = np.where(rng.random(96) < 0.8, reference, 1 - reference)
    labelled = LabelledUnits(("a", "b"), (1, 2), mapped, reference)
    units = ClusteredUnits.of_equal_chance(cluster, sizes, 40, np.ones(96), 3000.0)
    found = estimate(labelled, units, MappedGround(np.zeros(2, np.int64), np.zeros(2)), design="cluster")
    for figure, values in (
        (found.classes[1].share, reference == 1),
        (found.overall_accuracy, mapped == reference),
    ):
        mean, variance = two_stage(cluster, values.astype(float), sizes, 40)
        assert figure.value == pytest.approx(mean)
        assert figure.standard_error == pytest.approx(math.sqrt(variance))
    f1, kappa = found.classes[0].f1, found.kappa
    for figure in (f1, kappa):
        assert figure.lower is not None
        assert figure.upper is not None
        assert figure.value is not None
        assert figure.lower < figure.value < figure.upper


def test_areas_of_a_geographic_grid() -> None:
    """Pixels of different areas: a stratum's area is that of the map, whichever pixels were drawn."""
    mapped = np.array([0] * 30 + [1] * 30)
    reference = np.array([0] * 30 + [1] * 24 + [0] * 6)
    areas = np.random.default_rng(0).uniform(80, 120, 60)
    units = StratifiedUnits(
        mapped, np.array([1e5, 2e5]), np.array([1.0e7, 1.9e7]), areas, np.eye(2, dtype=bool)
    )
    labelled = LabelledUnits(("a", "b"), (1, 2), mapped, reference)
    found = estimate(labelled, units, MappedGround(np.array([1, 1]), np.ones(2)), design="stratified")
    assert found.area_m2 == 2.9e7
    share = areas[54:].sum() / areas[30:].sum()
    assert found.classes[0].area_m2.value == pytest.approx(1.0e7 + 1.9e7 * share)
    assert sum(c.area_m2.value or 0 for c in found.classes) == pytest.approx(2.9e7)


def test_no_interval_has_width_0() -> None:
    """A sample without an error, and classes that map or reference lack."""
    found = of_counts([[40, 0, 0], [0, 40, 0], [0, 0, 0]], [1000, 100_000, 0])
    every = [found.overall_accuracy, found.kappa]
    for c in found.classes:
        every += [c.share, c.area_m2, c.users_accuracy, c.producers_accuracy, c.f1]
    for figure in every:
        if figure.value is not None:
            assert figure.lower is not None
            assert figure.upper is not None
            assert figure.lower <= figure.value <= figure.upper
            assert figure.upper - figure.lower > 1e-4
    last = found.classes[2]
    assert (last.users_accuracy.value, last.producers_accuracy.value) == (None, None)
    assert last.share.value == 0
    assert any("class 3" in note and "upper end" in note for note in found.notes)
    assert any("width" in note for note in found.notes)
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert json.loads(text)["classes"][2]["users_accuracy"]["estimate"] is None
    assert "<table>" in found.to_html()


def test_units_without_an_answer_count_for_areas_alone() -> None:
    mapped = np.array([0] * 20 + [1] * 20 + [-1] * 10)
    reference = np.array([0] * 20 + [1] * 20 + [0] * 10)
    units = StratifiedUnits(
        np.repeat([0, 1, 2], [20, 20, 10]),
        np.array([1000.0, 1000.0, 500.0]),
        np.array([1000.0, 1000.0, 500.0]),
        np.ones(50),
        np.array([[1, 0], [0, 1], [0, 0]], bool),
    )
    labelled = LabelledUnits(("a", "b"), (1, 2), mapped, reference)
    found = estimate(labelled, units, MappedGround(np.array([1000, 1000]), np.ones(2)), design="stratified")
    assert found.overall_accuracy.value == 1.0
    assert found.classes[0].area_m2.value == pytest.approx(1500)
    assert any("10 of 50 units" in note for note in found.notes)


def test_stratum_with_one_unit_is_told() -> None:
    found = of_counts([[1, 0], [3, 40]], [500, 10_000])
    assert any("single unit" in note for note in found.notes)
    share = found.classes[0].share
    assert share.standard_error is not None
    assert share.standard_error > 0


def test_wilson_of_the_textbook() -> None:
    """Newcombe (1998), Statistics in Medicine 17, 857–872: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    share, size = np.array([81 / 263, 15 / 148, 0.0, 1 / 29]), np.array([263.0, 148.0, 20.0, 29.0])
    low, high = wilson(share, size, Z)
    assert low == pytest.approx([0.2553, 0.0624, 0.0, 0.0061], abs=5e-5)
    assert high == pytest.approx([0.3662, 0.1605, 0.1611, 0.1718], abs=5e-5)


def test_a_census_leaves_no_doubt() -> None:
    found = of_counts([[30, 10], [0, 20]], [40, 20])
    area = found.classes[1].area_m2
    assert (area.value, area.standard_error) == (pytest.approx(30), pytest.approx(0, abs=1e-9))
    assert any("wholly" in note for note in found.notes)
    # Neither an interval without a width is printed, nor a stratum with errors called flawless.
    assert found.accuracy_table()[1][1] == "75.0 % (exact)"
    assert [row[5] for row in found.area_table()[1:]] == ["exact", "exact"]
    assert found.overall_table()[1][:2] == ["83.3 % (exact)", "0.667 (exact)"]
    assert not any("all right or all wrong" in note for note in found.notes)
    assert any("class 1 are all" in note for note in of_counts([[9, 0], [2, 7]], [500, 9]).notes)


def test_kappa_of_few_right_units_stays_in_its_range() -> None:
    kappa = of_counts([[3, 0], [0, 1]], [95_000, 5_000]).kappa
    assert (kappa.value, kappa.lower, kappa.upper) == (1.0, -1.0, 1.0)


def test_few_units_have_the_bounds_of_brown_cai_and_dasgupta() -> None:
    """The modified interval of 1, 2 and 3 of 100: 0.0513, 0.3554 and 0.8177 over 100; from 4 on Wilson's."""
    share, size = np.array([0.01, 0.02, 0.03, 0.04, 0.97]), np.full(5, 100.0)
    low, high = modified_wilson(share, size, Z)
    plain = wilson(share, size, Z)
    assert low[:3] * 100 == pytest.approx([0.0513, 0.3554, 0.8177], abs=1e-4)
    assert high[4] == pytest.approx(1 - 0.008177, abs=1e-6)
    assert low[3:].tolist() == plain[0][3:].tolist()
    assert high[:4].tolist() == plain[1][:4].tolist()
    nothing_left = modified_wilson(np.array([0.02]), np.array([np.inf]), Z)
    assert nothing_left[0] == nothing_left[1] == pytest.approx(0.02)
