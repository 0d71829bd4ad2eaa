"""The report of a map as a page: valid, escaped, and with the figures of its sources."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import geopandas
import matplotlib.image
import numpy as np
import pytest
import rasterio
import shapely
from maps import UTM, patchy_classes, write_map

from das2f_map.assess.area_estimates import AreaEstimates, LabelledUnits, MappedGround, estimate
from das2f_map.assess.confusion_matrix import ConfusionMatrix
from das2f_map.assess.sampled_units import StratifiedUnits
from das2f_map.errors import InputError, OutputError
from das2f_map.legend import Legend
from das2f_map.workflows.report import MapReport, report_map

EVIL = Legend.from_names(["<script>alert(1)</script>", "a & b]]>", '"x" onload="y'])
CLASSES = patchy_classes(60, 80, (1, 2, 3))


def estimates() -> AreaEstimates:
    """Estimates of the map from a sample that is stratified by its classes."""
    counts = np.array([[50, 3, 0], [2, 40, 1], [0, 0, 30]])
    mapped, reference = (np.repeat(at, counts[counts > 0]) for at in np.nonzero(counts))
    pixels = np.bincount(CLASSES.ravel())[1:]
    units = StratifiedUnits(
        mapped, pixels.astype(float), 900.0 * pixels, np.full(mapped.size, 900.0), np.eye(3, dtype=bool)
    )
    labelled = LabelledUnits(EVIL.names, EVIL.ids, mapped, reference)
    return estimate(labelled, units, MappedGround(pixels, 900.0 * pixels), design="stratified by class")


def made(folder: Path) -> MapReport:
    path = write_map(folder / "m.tif", CLASSES, legend=EVIL)
    matrix = ConfusionMatrix(EVIL, np.array([[50, 2, 0], [3, 40, 0], [0, 1, 30]], np.int64)).to_dict()
    (folder / "e.json").write_text(json.dumps({**matrix, "estimates": estimates().to_dict()}))
    return report_map(path, folder / "r.html", evaluation=folder / "e.json", title="a\x1bb", checksums=True)


def test_page_is_well_formed_and_holds_names_as_text(tmp_path: Path) -> None:
    made(tmp_path)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    root = ET.fromstring(text)
    assert not list(root.iter("script"))
    assert "<script>alert(1)</script>" in "".join(root.itertext())
    assert "\x1b" not in text
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    assert len(ids) == len({*ids})
    assert {e.get("href") for e in root.iter("a")} == {f"#{i}" for i in ids}
    assert all(e.get("alt") for e in root.iter("img"))
    assert all((e.get("src") or "").startswith("data:") for e in root.iter("img"))
    assert not any(name.startswith("on") for e in root.iter() for name in e.attrib)


def test_page_has_the_figures_and_the_checksum(tmp_path: Path) -> None:
    made(tmp_path)
    text = "".join(ET.fromstring((tmp_path / "r.html").read_text(encoding="utf-8")).itertext())
    found = estimates()
    overall = found.overall_accuracy
    assert f"{100 * overall.value:.1f} %" in text
    assert f"{100 * overall.lower:.1f} – {100 * overall.upper:.1f} %" in text
    for c in found.classes:
        assert f"{c.area_m2.lower / 1e4:.1f} – {c.area_m2.upper / 1e4:.1f}" in text
        assert f"{c.area_m2.value / 1e4:.1f}" in text
        assert f"{c.users_accuracy.value:.1%}".replace("%", " %") in text
    assert all(note in text for note in found.notes)
    assert "stratified by class" in text
    assert hashlib.sha256((tmp_path / "m.tif").read_bytes()).hexdigest() in text


def test_intervals_of_a_reference_that_is_no_sample(tmp_path: Path) -> None:
    path = write_map(tmp_path / "m.tif", CLASSES, legend=EVIL)
    matrix = ConfusionMatrix(EVIL, np.array([[50, 2, 0], [3, 40, 0], [0, 1, 30]], np.int64)).to_dict()
    ends = {"lower": 0.8125, "upper": 0.9875, "standard_error": 0.04}
    nothing = {"lower": None, "upper": None, "standard_error": None}
    intervals = {
        "overall_accuracy": ends,
        "kappa": nothing,
        "classes": [{"name": EVIL.names[0], "users_accuracy": ends, "producers_accuracy": nothing}],
    }
    found = {**matrix, "estimates": None, "intervals": intervals, "notices": ["Not a probability sample: x"]}
    text = "".join(ET.fromstring(report_map(path, evaluation=found).page.html()).itertext())
    assert "81.2 – 98.8 % (95 %), 126 reference pixels" in text
    assert text.count("81.2 – 98.8") == 2
    assert text.count("ot a probability sample") == 1


def test_notebook_form_is_a_part_of_a_page(tmp_path: Path) -> None:
    path = write_map(tmp_path / "m.tif", CLASSES, legend=EVIL)
    form = report_map(path).page.notebook_form()
    assert "<html" not in form
    assert ET.fromstring(f"<div>{form}</div>").find("div") is not None
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".html"] == []


def test_codes_beyond_a_byte_are_counted_and_compared(tmp_path: Path) -> None:
    codes = np.where(CLASSES == 0, -1, CLASSES.astype(np.int32) * 111)
    profile = {"driver": "GTiff", "height": 60, "width": 80, "count": 1, "dtype": "int32", "nodata": -1}
    for name, values in (("m.tif", codes), ("r.tif", np.where(codes == 222, 111, codes))):
        with rasterio.open(tmp_path / name, "w", crs=UTM.crs, transform=UTM.transform, **profile) as file:
            file.write(values, 1)
    report = report_map(tmp_path / "m.tif", reference=tmp_path / "r.tif")
    found = {report.facts.legend[i].name: a.pixels for i, a in report.facts.areas.items()}
    assert found == {f"class {c}": int((codes == c).sum()) for c in (111, 222, 333)}
    assert sum(a.area_m2 for a in report.facts.areas.values()) == pytest.approx(
        900 * (codes > 0).sum(), 0.002
    )
    assert report.facts.places.wrong == (codes == 222).sum()
    assert report.facts.places.right == np.isin(codes, (111, 333)).sum()


def test_the_reference_may_be_a_table(tmp_path: Path) -> None:
    path = write_map(tmp_path / "m.tif", CLASSES, legend=EVIL)
    x, y = UTM.transform.c, UTM.transform.f
    whole = shapely.box(x, y - 30 * 60, x + 30 * 80, y)
    table = geopandas.GeoDataFrame({"class": [EVIL.names[0]]}, geometry=[whole], crs=UTM.crs)
    report = report_map(path, reference=table)
    assert report.facts.places.right == (CLASSES == 1).sum()
    assert report.facts.places.wrong == np.isin(CLASSES, (2, 3)).sum()


def test_refuses_what_is_no_evaluation_and_existing_pages(tmp_path: Path) -> None:
    path = write_map(tmp_path / "m.tif", CLASSES, legend=EVIL)
    (tmp_path / "e.json").write_text("[1]")
    with pytest.raises(InputError, match="not an evaluation"):
        report_map(path, evaluation=tmp_path / "e.json")
    with pytest.raises(OutputError, match="not an HTML page"):
        report_map(path, tmp_path / "r.pdf")
    report_map(path, tmp_path / "r.html")
    with pytest.raises(OutputError, match="exists already"):
        report_map(path, tmp_path / "r.html")


@pytest.mark.slow
def test_a_strict_parser_takes_the_page(tmp_path: Path) -> None:
    python = "/usr/bin/python3"
    if subprocess.run([python, "-c", "import html5lib"], capture_output=True, check=False).returncode:
        pytest.skip("html5lib is not installed")
    made(tmp_path)
    script = "import html5lib, sys; html5lib.HTMLParser(strict=True).parse(open(sys.argv[1], 'rb'))"
    subprocess.run([python, "-c", script, tmp_path / "r.html"], check=True)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_shows_the_map(tmp_path: Path) -> None:
    report = made(tmp_path)
    shot, size = tmp_path / "s.png", "--window-size=1000,1600"
    options = ["--headless", "--no-sandbox", "--disable-gpu", size, f"--screenshot={shot}"]
    subprocess.run(
        ["chromium", *options, f"file://{report.path}"], check=True, timeout=120, capture_output=True
    )
    seen = (matplotlib.image.imread(shot)[..., :3] * 255).round().astype(int)
    for c in EVIL.each():
        assert (seen == c.rgb).all(axis=-1).sum() > 2000, c
