"""The benchmarks of accuracy: figures, checks, shares of labels, pairs of runs, disturbed images."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_scene import TINY, Scene

from das2f_map.legend import Legend
from das2f_map.progress import silent
from das2f_map.scene.request import PairRequest
from das2f_map.training.batches import PatchBatch, PatchDataset
from das2f_map.training.hardware import find_hardware
from das2f_map.training.pixels import TrainingPixels
from das2f_map.training.prepare import Prepared, prepare
from das2f_map.training.request import LabelRequest, SceneRequest, TrainRequest
from das2f_map.training.settings import TrainingSettings

SCRIPTS = Path(__file__).resolve().parents[1] / "benchmarks"
MODULES = ("ablated", "disturbed", "held_ground", "methods", "recipe", "runs", "tried", "worth", "worth_page")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmarks' modules by their names."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})


@pytest.fixture
def prepared(small_scene: Scene) -> Iterator[Prepared]:
    """A small scene, ready to train a tiny network."""
    settings = TrainingSettings(device="cpu", steps=2, checks=1)
    images, labels = PairRequest.of(small_scene.ms, small_scene.pan), LabelRequest(str(small_scene.labels))
    request = TrainRequest((SceneRequest(images, labels),), Path("unused"), settings, network=TINY)
    with prepare(request, find_hardware(settings), silent) as found:
        yield found


# --- figures ---------------------------------------------------------------------------------------------


def test_figures_as_those_of_scikit_learn(bench: Any) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="needs the extra train")
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 2000)
    found = np.where(rng.random(2000) < 0.6, truth, rng.integers(0, 4, 2000))
    counts = bench.held_ground.counts_of(truth, found, 4)
    assert counts == metrics.confusion_matrix(truth, found).tolist()
    got = bench.held_ground.figures(counts)
    assert got.overall == pytest.approx(metrics.accuracy_score(truth, found))
    assert got.average == pytest.approx(metrics.balanced_accuracy_score(truth, found))
    assert got.kappa == pytest.approx(metrics.cohen_kappa_score(truth, found))
    assert got.mean_f1 == pytest.approx(metrics.f1_score(truth, found, average="macro"))


def test_rarely_tested_classes_count_in_the_overall_accuracy_alone(bench: Any) -> None:
    counts = [[80, 20, 0], [10, 90, 0], [3, 2, 5]]
    got = bench.held_ground.figures(counts, least=50)
    assert got.overall == pytest.approx(175 / 210)
    assert got.average == pytest.approx((0.8 + 0.9) / 2)
    # F1 = 2 right / (reference + mapped); the rare class adds to the mapped pixels of the others.
    assert got.mean_f1 == pytest.approx((160 / 193 + 180 / 212) / 2)
    assert bench.held_ground.figures(counts, least=1).average == pytest.approx((0.8 + 0.9 + 0.5) / 3)


def test_figures_without_meaning_are_nan_and_of_no_quality(bench: Any) -> None:
    empty = bench.held_ground.figures(np.zeros((3, 3)))
    assert np.isnan([empty.overall, empty.average, empty.kappa, empty.mean_f1]).all()
    assert bench.held_ground.quality(np.zeros((3, 3))) == 0
    alone = bench.held_ground.figures([[60, 0], [0, 0]])
    assert alone.overall == alone.average == 1
    assert np.isnan(alone.kappa)


def matrix(right: int) -> list[list[int]]:
    """100 tested pixels of each of two classes, so many of them right."""
    return [[right, 100 - right], [100 - right, right]]


def test_a_fold_has_no_say_in_its_own_check(bench: Any) -> None:
    rising = [[matrix(n) for n in (50, 60, 70, 80)]]
    falling = [[matrix(n) for n in (80, 70, 60, 50)]]
    flat = [[matrix(60)] * 4]
    choose = bench.held_ground.chosen_checks
    # Rising and flat ones say "last" to the falling one, and the other way round.
    assert choose([rising, falling, flat])[:2] == [(0, 0), (0, 3)]
    for changed in (flat, [[matrix(1), matrix(99), matrix(1), matrix(1)]]):
        assert choose([changed, falling, flat])[0] == choose([rising, falling, flat])[0]
    # Longer curves are cut to the checks that all have.
    assert choose([rising, [rising[0][:2]]]) == [(0, 1), (0, 1)]


def test_a_single_fold_is_taken_at_its_last_check(bench: Any) -> None:
    assert bench.held_ground.chosen_checks([[[matrix(90), matrix(60), matrix(50)]]]) == [(0, 2)]
    assert bench.held_ground.chosen_checks([[[matrix(90), matrix(60)], [matrix(50), matrix(40)]]]) == [(1, 1)]


def test_folds_choose_kind_and_check_for_each_other(bench: Any) -> None:
    """Two kinds with two checks; runs.py takes the counts of the kind and check that the others choose."""
    one = [[matrix(50), matrix(50)], [matrix(60), matrix(90)]]
    other = [[matrix(70), matrix(95)], [matrix(40), matrix(40)]]
    assert bench.held_ground.chosen_checks([one, other]) == [(0, 1), (1, 1)]
    # A curve with more checks keeps its places.
    longer = [[*kind, matrix(0)] for kind in one]
    assert bench.held_ground.chosen_checks([longer, other]) == [(0, 1), (1, 1)]
    records = {(0, k): {"label_counts": curve[0], "counts": curve[1]} for k, curve in enumerate((one, other))}
    curves = bench.runs.curves_of(records)
    curves[0, 1] = np.concatenate([curves[0, 1], np.zeros_like(curves[0, 1])], axis=1)
    assert bench.runs.at_chosen_checks(curves)[0, 1].tolist() == matrix(40)
    found = bench.runs.at_chosen_checks(bench.runs.curves_of(records))
    assert found[0, 0].tolist() == matrix(50)
    assert found[0, 1].tolist() == matrix(40)
    last = bench.runs.at_last_check(bench.runs.curves_of(records))
    assert last[0, 0].tolist() == matrix(90)


# --- labels and results ----------------------------------------------------------------------------------


def test_share_of_labels(bench: Any) -> None:
    """Three classes of 3200, 1600 and 20 pixels on 100 rows of ground; the first 20 rows are not learnt."""
    rng = np.random.default_rng(0)
    cells = rng.permutation(100 * 100)[:4820]
    positions = np.repeat([0, 1, 2], [3200, 1600, 20])
    legend = Legend.from_names(["a", "b", "c"])
    rows, cols = (cells // 100).astype(np.int32), (cells % 100).astype(np.int32)
    pixels = TrainingPixels((), np.zeros(4820, np.int64), rows, cols, legend, positions)
    train = np.flatnonzero(rows >= 20)
    share = bench.held_ground.share_of
    kept = share(pixels, train, 0.05, seed=1)
    assert np.isin(kept, train).all()
    assert (np.diff(kept) > 0).all()
    wanted = [max(8, round(0.05 * n)) for n in np.bincount(positions[train])]
    assert np.bincount(positions[kept]).tolist() == wanted
    # They come from few blocks: labels are scarce on ground, not thinned everywhere.
    side = bench.held_ground.BLOCK
    blocks = {(r // side, c // side) for r, c in zip(rows[kept], cols[kept], strict=True)}
    everywhere = {(r // side, c // side) for r, c in zip(rows[train], cols[train], strict=True)}
    assert len(blocks) < len(everywhere) / 3
    np.testing.assert_array_equal(kept, share(pixels, train, 0.05, seed=1))
    assert not np.array_equal(kept, share(pixels, train, 0.05, seed=2))
    np.testing.assert_array_equal(share(pixels, train, 1.0, seed=1), train)


def test_results_grow_and_keep_those_of_another_process(bench: Any, tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.json"
    ours, theirs = bench.held_ground.Records(path), bench.held_ground.Records(path)
    theirs.add("theirs", {"a": [1, 2]})
    ours.add("ours", {"a": [3]})
    assert json.loads(path.read_text()) == {"ours": {"a": [3]}, "theirs": {"a": [1, 2]}}
    assert "theirs" in bench.held_ground.Records(path)
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


# --- runs ------------------------------------------------------------------------------------------------


def test_spread_over_seeds_and_over_the_folds_of_one_seed(bench: Any) -> None:
    overall = bench.runs.OVERALL.value
    one = {(0, 0): np.array(matrix(60)), (0, 1): np.array(matrix(70)), (0, 2): np.array(matrix(80))}
    found = bench.runs.spread(one, overall)
    assert (found.mean, found.deviation, found.runs) == (pytest.approx(0.7), pytest.approx(0.1), 3)
    assert found.text() == "70.0 ± 10.0"
    two = one | {(1, k): np.array(matrix(80)) for k in range(3)}
    found = bench.runs.spread(two, overall)
    assert found.mean == pytest.approx(0.75)
    assert found.deviation == pytest.approx(np.std([0.7, 0.8], ddof=1))
    # A seed that lacks folds is of other ground.
    assert bench.runs.spread(one | {(1, 0): np.array(matrix(10))}, overall).mean == pytest.approx(0.7)
    found = bench.runs.spread({(0, 0): np.array(matrix(60))}, overall)
    assert bench.runs.cell([bench.runs.OVERALL], [found]) == "60.0 (1 of 3 folds)"
    assert bench.runs.spread({}, overall) is None


def test_difference_is_of_runs_that_both_have(bench: Any) -> None:
    ours = {(0, 0): np.array(matrix(61)), (0, 1): np.array(matrix(93)), (1, 0): np.array(matrix(1))}
    theirs = {(0, 0): np.array(matrix(60)), (0, 1): np.array(matrix(90)), (0, 2): np.array(matrix(1))}
    found = bench.runs.difference(ours, theirs, bench.runs.OVERALL.value)
    assert (found.runs, found.mean) == (2, pytest.approx(0.02))
    # Folds differ by 30 points, pairs by one and three.
    assert found.deviation == pytest.approx(np.std([0.01, 0.03], ddof=1))
    assert found.text(sign=True) == "+2.0 ± 1.4"
    assert found.missing == " (2 of 3 folds)"
    assert bench.runs.difference(ours, {(2, 0): matrix(1)}, bench.runs.OVERALL.value) is None


def test_tables_of_the_recipe(bench: Any, tmp_path: Path) -> None:
    def record(*right: int, turns: int | None = None) -> dict[str, Any]:
        more = {} if turns is None else {"8 turns": matrix(turns)}
        return {"counts": [matrix(n) for n in right]} | more

    key = bench.held_ground.key_of
    found = {
        key("berlin", "default", 0, 0): record(60, 70, turns=75),
        key("berlin", "default", 0, 1): record(60, 80, turns=83),
        key("berlin", "dropout 0.5", 0, 1): record(60, 75),
    }
    tables = bench.recipe.tables(found)
    rows = [
        line.split(" | ") for line in tables["recipe figures"].splitlines() if line.startswith(("| d", "| 8"))
    ]
    assert [row[0] for row in rows] == ["| default", "| dropout 0.5", "| 8 turns"]
    assert rows[0][1] == "75.0 ± 7.1 / 75.0 ± 7.1 (2 of 3 folds)"
    assert rows[0][2] == "2 |"
    rows = [line.split(" | ") for line in tables["recipe differences"].splitlines()]
    rows = [row for row in rows if row[0].startswith(("| d", "| 8"))]
    # The second fold alone is in both.
    assert rows[0] == ["| dropout 0.5", "−5.0 / −5.0 (1 of 3 folds)", "1 |"]
    assert rows[1][1].startswith("+4.0 ± 1.4")
    bench.recipe.plots(found, tmp_path)
    assert (tmp_path / "recipe.png").read_bytes().startswith(b"\x89PNG")
    assert "0 of " in bench.recipe.tables({})["recipe figures"]


def test_tables_of_the_methods(bench: Any) -> None:
    forest, boosting = "random forest, pixel", "gradient boosting, pixel"
    key, network = bench.held_ground.key_of, bench.methods.DEFAULT
    found: dict[str, Any] = {}
    for k, (a, b) in enumerate([(60, 70), (70, 70), (80, 76)]):
        found[key("gulf", network, 0, k)] = {"counts": [matrix(a)]}
        found[key("gulf", forest, 0, k)] = {"counts": [matrix(b)]}
    found[key("gulf", boosting, 0, 0)] = {"counts": [matrix(99)]}
    part = "DAS²F, MS only"
    found[key("gulf", bench.methods.PLAIN, 0, 0)] = {"counts": [matrix(65)]}
    found[key("gulf", part, 0, 0)] = {"counts": [matrix(50)]}
    tables = bench.worth_page.tables(found)
    assert f"| {forest} | **72.0 ± 3.5** |" in tables["worth overall"]
    assert f"| {network} | 70.0 ± 10.0 |" in tables["worth overall"]
    # A method that lacks folds is not the best.
    assert f"| {boosting} | 99.0 (1 of 3 folds) |" in tables["worth overall"]
    assert f"| {forest} | −2.0 ± 7.2 / −2.0 ± 7.2 | 3 |" in tables["worth differences"]
    assert f"| {boosting} | −39.0 / −39.0 (1 of 3 folds)" in tables["worth differences"]
    # Parts are compared with the whole network in their own recipe.
    assert f"| {part} | +15.0 / +15.0 (1 of 3 folds) | 1 |" in tables["worth parts"]
    assert part not in tables["worth differences"]
    assert bench.worth_page.tables({})["worth parts"] == f"No runs of {bench.methods.PLAIN} yet."
    assert tables["worth runs"].startswith("9 of ")
    assert tables["worth disturbed"] == "No runs yet."


def test_runs_of_the_default_recipe_are_taken_over(bench: Any, tmp_path: Path) -> None:
    key, network = bench.held_ground.key_of, bench.methods.DEFAULT
    records = bench.held_ground.Records(tmp_path / "worth.json")
    records.add(key("gulf", network, 0, 0), {"counts": "own"})
    recipe = {"steps": [2], "counts": [matrix(1)], "labels": 9, "seconds": 1.0, "8 turns": matrix(2)}
    names = [("default", 0), ("default", 1), ("dropout 0.5", 2)]
    bench.worth.adopt(records, {key("gulf", name, 0, fold): recipe for name, fold in names})
    assert records.found.keys() == {key("gulf", network, 0, fold) for fold in (0, 1)}
    assert records.found[key("gulf", network, 0, 0)] == {"counts": "own"}
    assert records.found[key("gulf", network, 0, 1)]["counts"] == [matrix(1)]


def test_classical_classifiers_come_first(bench: Any) -> None:
    """Nothing of a network is run before all scenes have their forests; no run is there twice."""
    options = SimpleNamespace(methods=None, seeds=2, grounds=["berlin", "gulf"])
    found = [job.method in bench.methods.CLASSICAL for job in bench.worth.jobs(options)]
    assert found == sorted(found, reverse=True)
    keys = {job.key for job in bench.worth.jobs(options)}
    assert len(keys) == len(found) == len(bench.methods.METHODS) * 2 * 2 * bench.held_ground.FOLDS


# --- networks and classifiers ----------------------------------------------------------------------------


def test_networks_without_a_part(bench: Any, prepared: Prepared) -> None:
    from das2f_map.network.aalf import tokens_to_subtokens
    from das2f_map.training.fit import new_network

    ms, pan = prepared.pixels.patches(np.arange(4))
    with torch.inference_mode():
        network = bench.ablated.without_cmda(prepared).eval()
        tokens = network.ms_stem(ms), network.pan_stem(pan)
        stage = network.stages[0]
        output = stage(*tokens)
        torch.testing.assert_close(output.ms_common, sum(tokens) / 2)
        torch.testing.assert_close(output.pan_common, sum(tokens) / 2)
        torch.testing.assert_close(output.ms_specific, stage.spvm_ms(tokens[0]) - sum(tokens) / 2)

        network = bench.ablated.without_aalf(prepared).eval()
        output = network.stages[0](network.ms_stem(ms), network.pan_stem(pan))
        mean = (output.ms_common + output.pan_common) / 2
        expected = tokens_to_subtokens(output.ms_specific + output.pan_specific + mean).flatten(1)
        torch.testing.assert_close(network.features(ms, pan), expected)

    whole = new_network(prepared).state_dict()
    for made in (bench.ablated.without_cmda(prepared), bench.ablated.without_aalf(prepared)):
        own = made.state_dict()
        assert own.keys() < whole.keys()
        assert all(torch.equal(value, whole[name]) for name, value in own.items())
    assert len(bench.ablated.two_stages(prepared).stages) == 2


def test_networks_of_one_image_do_not_see_the_other(bench: Any, prepared: Prepared) -> None:
    ms, pan = prepared.pixels.patches(np.arange(4))
    ms_only, pan_only = bench.ablated.ms_only(prepared).eval(), bench.ablated.pan_only(prepared).eval()
    with torch.inference_mode():
        assert torch.equal(ms_only(ms, pan), ms_only(ms, pan + 1))
        assert not torch.equal(ms_only(ms, pan), ms_only(ms + 1, pan))
        assert torch.equal(pan_only(ms, pan), pan_only(ms + 1, pan))
        assert not torch.equal(pan_only(ms, pan), pan_only(ms, pan + 1))


@pytest.mark.slow
def test_settings_of_a_classifier_are_those_that_do_best(bench: Any, prepared: Prepared) -> None:
    """A forest whose leaves hold all pixels knows one class; it must not be chosen, whatever the order."""
    pytest.importorskip("sklearn", reason="needs the extra train")
    settings = bench.methods.ForestSettings
    good, bad = settings(trees=5), settings(trees=5, min_samples_leaf=10_000)
    rows = prepared.pixels.patches(np.arange(len(prepared.pixels)))[0][:, :, 7, 7].numpy()
    for grid in ((good, bad), (bad, good)):
        chosen, qualities = bench.worth.tuned(grid, prepared.pixels, rows, 4, seed=0)
        assert chosen == good
        assert min(qualities) < 0.5 < max(qualities)


@pytest.mark.slow
@pytest.mark.whole
@pytest.mark.parametrize("method", ["DAS²F, MS only", "small CNN", "random forest, windows"])
def test_a_run(bench: Any, prepared: Prepared, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from das2f_map.training.folds import spatial_folds

    methods = bench.methods
    few = methods.ClassicalMethod(methods.window_features, (methods.ForestSettings(trees=5),))
    monkeypatch.setitem(methods.CLASSICAL, "random forest, windows", few)
    monkeypatch.setattr(bench.disturbed, "DISTURBANCES", bench.disturbed.DISTURBANCES[:1])
    monkeypatch.setattr(
        bench.held_ground,
        "decided",
        lambda settings, labelled, on_cpu: replace(prepared.settings, distillation=settings.distillation),
    )
    folds = spatial_folds(prepared.pixels, 3, gap=4, seed=0)
    ground = bench.held_ground.Ground("gulf", prepared, folds, 1.0)
    record = bench.worth.run(ground, method, 0, 1, "cpu")
    fold = ground.fold(1, 0)
    (counts,) = record["counts"]
    assert np.sum(counts, axis=1).tolist() == np.bincount(prepared.pixels.positions[fold.held]).tolist()
    assert record["labels"] == fold.train.size
    assert ("disturbed" in record) == (method in methods.DISTURBED)
    if "disturbed" in record:
        assert record["disturbed"]["none"] == counts
        assert np.sum(record["disturbed"]["shift 1"]) == np.sum(counts)
    json.dumps(record, allow_nan=False)


# --- disturbed images ------------------------------------------------------------------------------------


def test_shifted_pan_is_of_the_scene(bench: Any, prepared: Prepared) -> None:
    """Four PAN pixels up are the patch of the MS pixel above; fewer are slices of the patches."""
    pixels, shifted = prepared.pixels, bench.disturbed.shifted_pan
    at = np.arange(len(pixels))[:40]
    plain = pixels.patches(at)[1]
    assert torch.equal(shifted(pixels, at, 0), plain)
    reader = pixels.readers[0]
    up, left = at % 2 == 0, at % 2 == 1
    neighbours = reader.patches(pixels.rows[at] - up, pixels.cols[at] - left)[1]
    far = shifted(pixels, at, 4)
    assert torch.equal(far, neighbours)
    some = shifted(pixels, at, 3)
    assert torch.equal(some[up][:, :, 3:], plain[up][:, :, :-3])
    assert torch.equal(some[up][:, :, :-1], far[up][:, :, 1:])
    assert torch.equal(some[left][..., 3:], plain[left][..., :-3])
    assert torch.equal(some[left][..., :-1], far[left][..., 1:])


def test_haze_and_noise(bench: Any, prepared: Prepared) -> None:
    pixels, normalisation = prepared.pixels, prepared.normalisation
    batch = PatchBatch(np.arange(6), np.zeros(6, np.int64))
    ms, pan, target = PatchDataset(pixels)[batch]

    def images(kind: str, level: float) -> tuple[Any, Any]:
        dataset = bench.disturbed.DisturbedPatches(
            pixels, bench.disturbed.Disturbance(kind, level), normalisation
        )
        found = dataset[batch]
        assert torch.equal(found[2], target)
        return found[0], found[1]

    band = normalisation.bands[1]
    hazy = images("haze", 0.3)
    # In the units of the file: 70 % of the ground, 30 % of the bright value.
    ground = ms[:, 1] * band.std + band.mean
    expected = (0.7 * ground + 0.3 * band.p99 - band.mean) / band.std
    torch.testing.assert_close(hazy[0][:, 1], expected, rtol=0, atol=1e-5)
    last = normalisation.bands[-1]
    expected = 0.7 * pan + 0.3 * (last.p99 - last.mean) / last.std
    torch.testing.assert_close(hazy[1], expected, rtol=0, atol=1e-5)

    noisy = images("noise", 0.4)
    assert float((noisy[0] - ms).std()) == pytest.approx(0.4, rel=0.05)
    assert float((noisy[1] - pan).std()) == pytest.approx(0.4, rel=0.05)
    assert all(torch.equal(a, b) for a, b in zip(noisy, images("noise", 0.4), strict=True))


# --- what the ablation tries -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "SGD, rate 0.05",
        "trunk's rate 3e-4, head's 3e-3",
        "MS and PAN shifted",
        "consistency without labels",
        "self-supervised start",
    ],
)
def test_a_tried_recipe_learns_otherwise_than_the_default(
    bench: Any, prepared: Prepared, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from das2f_map.training.folds import spatial_folds

    monkeypatch.setattr(bench.tried, "PRETEXT_STEPS", 2)
    monkeypatch.setattr(bench.recipe, "settings_of", lambda *given: prepared.settings)
    monkeypatch.setattr(
        bench.held_ground,
        "decided",
        lambda settings, labelled, on_cpu: replace(settings, steps=settings.steps or 2),
    )
    ground = bench.held_ground.Ground("gulf", prepared, spatial_folds(prepared.pixels, 3, gap=4, seed=0), 1.0)
    kept = []
    run_loop = bench.recipe.run_loop
    monkeypatch.setattr(bench.recipe, "run_loop", lambda *given: kept.append(run_loop(*given)) or kept[-1])
    for variant in (name, "default", name):
        record = bench.recipe.run(ground, variant, 0, 1, "cpu")
        assert np.sum(record["counts"]) == ground.fold(1, 0).held.size
        json.dumps(record, allow_nan=False)
    tried, default, again = (outcome.logits for outcome in kept)
    np.testing.assert_array_equal(tried, again)
    assert np.abs(tried - default).max() > 1e-4


def test_patches_shifted_by_parts_of_a_pixel(bench: Any) -> None:
    image = torch.arange(20.0).reshape(1, 1, 4, 5) + torch.tensor([0.0, 100.0])[:, None, None, None]
    moved = bench.tried.shifted(image, [[1.0, 0.0], [0.0, -1.0]])
    assert torch.equal(moved[0, 0, 1:], image[0, 0, :-1])
    assert torch.equal(moved[0, 0, 0], image[0, 0, 0])
    assert torch.equal(moved[1, 0, :, :-1], image[1, 0, :, 1:])
    half = bench.tried.shifted(image, [[0.5, 0.25], [0.0, 0.0]])
    # Rows are 5 apart, columns 1: half a row down and a quarter of a column right.
    assert torch.equal(half[0, 0, 1:, 1:], image[0, 0, 1:, 1:] - 2.5 - 0.25)
    assert torch.equal(half[1], image[1])
