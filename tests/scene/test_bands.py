"""Matching of bands: by names as real files have them, by the user's choice, and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from synthetic import make_pair, pair_grids, write_raster

from das2f_map.errors import InputError
from das2f_map.scene.bands import (
    FileBand,
    UnmatchedBands,
    given_bands,
    match_bands,
    own_bands,
    parse_bands,
    roles_of,
)
from das2f_map.scene.pair import open_pair
from das2f_map.scene.source import RasterSource

BGRN = ("blue", "green", "red", "nir")
LANDSAT8 = ("coastal", *BGRN, "swir_1", "swir_2")


def bands(*names: str, alpha: int = 0) -> list[FileBand]:
    return [FileBand(i, n, i == alpha) for i, n in enumerate(names, start=1)]


def numbers(wanted: tuple[str, ...], file: list[FileBand], given: dict[str, int | str] | None = None) -> str:
    return "".join(str(c.number) for c in match_bands(wanted, file, given, "ms.tif"))


@pytest.mark.parametrize(
    ("names", "roles"),
    [
        (("Blue", "GREEN", " red ", "NIR"), BGRN),
        (("B", "G", "R", "N"), BGRN),
        (("band 2 - blue", "Green (560nm)", "SR_red", "Near-Infrared"), BGRN),
        (("bleu", "vert", "rouge", "proche infrarouge"), ("blue", "green", "red", None)),
        (("Coastal Blue", "Yellow", "Red Edge", "NIR2"), ("coastal", "yellow", "red_edge", "nir_2")),
        (
            ("rededge_1", "RedEdge2", "SWIR 1", "swir2", "NIR1"),
            ("red_edge_1", "red_edge_2", "swir_1", "swir_2", "nir"),
        ),
        (("B02", "B03", "B04", "B08"), BGRN),
        (("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12"), None),
        (("SR_B2", "SR_B3", "SR_B4", "SR_B5"), BGRN),
        (tuple(f"SR_B{n}" for n in range(1, 8)), LANDSAT8),
        (tuple(f"Landsat 8 B{n}" for n in range(1, 8)), LANDSAT8),
        (tuple(f"LC09_L2SP_123_B{n}" for n in range(1, 8)), LANDSAT8),
        (
            tuple(f"B{n}" for n in range(1, 12)),
            (*LANDSAT8, "pan", "cirrus", "thermal", "thermal_2"),
        ),
        ((*(f"B{n}" for n in range(1, 8)), "B10"), (*LANDSAT8, "thermal")),
        # Landsat 5 and 7 have these numbers too, counted from blue.
        (tuple(f"B{n}" for n in range(1, 8)), (None,) * 7),
        (("B2", "B3", "B4", "B5"), (None,) * 4),
        (("SR_B1", "SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B7"), (None,) * 6),
        (tuple(f"LE07_SR_B{n}" for n in (2, 3, 4, 5)), (None,) * 4),
        # The satellite is not certain, or there are no names at all.
        (("B1", "B2", "B3", "B4"), (None,) * 4),
        (("B1", "B2", "B3", "B4", "B5"), (None,) * 5),
        (("Band 2", "Band 3", "Band 4", "Band 5"), (None,) * 4),
        (("band_1", "layer", "bluefield", "reduced", ""), (None,) * 5),
        (("red minus green",), (None,)),
    ],
    ids=lambda v: str(v)[:40],
)
def test_roles(names: tuple[str, ...], roles: tuple[str | None, ...] | None) -> None:
    if roles is None:
        roles = (*BGRN[:3], *(f"red_edge_{n}" for n in (1, 2, 3)), "nir", "nir_2", "swir_1", "swir_2")
    assert roles_of(names) == roles


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (bands("red", "green", "blue", "nir"), "3214"),
        (bands("Red", "Green", "Blue", "band_4"), "3214"),
        (bands("band_1", "band_2", "band_3", "band_4"), "1234"),
        (bands("a", "b2", "c", "d"), "1234"),
        (bands("red", "green", "blue", "alpha", "nir", alpha=4), "3215"),
        (bands("coastal", "blue", "green", "yellow", "red", "red edge", "nir1", "nir2"), "2357"),
        (bands(*(f"SR_B{n}" for n in range(1, 8))), "2345"),
    ],
    ids=lambda v: "-".join(b.name for b in v) if isinstance(v, list) else v,
)
def test_found_by_themselves(file: list[FileBand], expected: str) -> None:
    assert numbers(BGRN, file) == expected


def test_names_of_the_model_may_be_anything() -> None:
    """A model trained on nameless bands takes bands by place, whatever they are called."""
    nameless = ("band_1", "band_2")
    assert numbers(nameless, bands("red", "nir")) == "12"
    assert numbers(nameless, bands("band_1", "band_2")) == "12"
    assert numbers(("B2", "B3", "B4", "B8"), bands("red", "green", "blue", "nir")) == "3214"


def test_said_by_the_user() -> None:
    eight = bands(*(f"band_{n}" for n in range(1, 9)))
    assert numbers(BGRN, eight, {"nir": 8, "blue": 2, "red": 4, "green": 3}) == "2348"
    assert numbers(BGRN, bands("b", "x", "r", "y"), {"green": 4, "nir": "X"}) == "1432"
    # An alpha band that is named is an image band.
    assert numbers(BGRN, bands("blue", "green", "red", "alpha", alpha=4), {"nir": 4}) == "1234"
    assert [str(c) for c in given_bands({"nir": "b8", "red": 1}, bands("B4", "B8"), "ms.tif")] == [
        "nir = band 2 (B8)",
        "red = band 1 (B4)",
    ]


@pytest.mark.parametrize(
    ("file", "given", "message", "hint"),
    [
        (bands("a", "b", "c"), None, r"needs 4 MS bands \(blue, green, red, nir\), ms.tif has 3", "fewer"),
        (bands("a", "q", "c", "d", "e"), None, "ms.tif has 5 .1 a, 2 q", "--bands blue=1,green=2"),
        (bands("red", "green", "blue", "alpha", alpha=4), None, r"beside an alpha band \(4\)", "--bands"),
        (bands("blue", "green", "red", "swir"), None, "needs a band nir, ms.tif has 1 blue", "--bands"),
        (
            bands("blue", "green", "red", "nir", "NIR"),
            {"nir": "NIR"},
            "more than one band 'NIR': 4 and 5",
            "number",
        ),
        (bands("blue", "green", "red", "nir", "infrared", "x"), None, None, None),
        (bands("blue", "green", "red", "infrared", "near infrared"), None, "several: 4 and 5", "--bands nir"),
        (bands(*BGRN), {"nir": 5}, "no band 5 for nir: it has 4", "from 1"),
        (bands(*BGRN), {"nir": 0}, "no band 0 for nir", "from 1"),
        (bands(*BGRN), {"nir": "nier"}, "no band 'nier' for nir: it has blue, green", "mean 'nir'"),
        (bands(*BGRN), {"nir": 4, "red": 4}, "band 4 of ms.tif cannot be nir and red", "each"),
        (bands(*BGRN), {"swir": 4}, "no band 'swir', it takes blue, green, red, nir", "--bands"),
        (bands(*BGRN), {"nir": 4, "infrared": 3}, "names nir twice", "once"),
        # A user who names one of many nameless bands has to name the others.
        (bands("a", "q", "c", "d"), {"nir": 1}, "needs a band blue and green and red", "--bands"),
    ],
)
def test_refused(
    file: list[FileBand], given: dict[str, int | str] | None, message: str | None, hint: str | None
) -> None:
    if message is None:
        assert numbers(BGRN, file, given) == "1234"
        return
    with pytest.raises(InputError, match=message) as caught:
        match_bands(BGRN, file, given, "ms.tif")
    assert hint is not None
    assert hint in str(caught.value.hint)


def test_what_a_model_lacks_is_told_apart_from_what_a_file_lacks() -> None:
    with pytest.raises(UnmatchedBands):
        match_bands(BGRN, bands("a"), None, "ms.tif")
    with pytest.raises(InputError) as caught:
        match_bands(BGRN, bands(*BGRN), {"nir": 7}, "ms.tif")
    assert not isinstance(caught.value, UnmatchedBands)


def test_the_option() -> None:
    assert parse_bands("blue=3, green=B3,nir = Near IR") == {"blue": 3, "green": "B3", "nir": "Near IR"}
    for text, message in (("blue", "NAME=BAND"), ("", "NAME=BAND"), ("a=1,A=2", "twice"), ("=1", "NAME")):
        with pytest.raises(ValueError, match=message):
            parse_bands(text)


def test_a_files_own_bands() -> None:
    own = own_bands(bands("B04", "junk", "B03", "alpha", "B02", "B08", alpha=4))
    assert [(c.role, c.number) for c in own] == [
        ("red", 1),
        ("junk", 2),
        ("green", 3),
        ("blue", 5),
        ("nir", 6),
    ]
    # Two bands of one role keep their names.
    assert [c.role for c in own_bands(bands("NIR", "infrared"))] == ["NIR", "infrared"]


def test_colours_of_a_file(tmp_path: Path) -> None:
    grid, _ = pair_grids(ms_shape=(8, 8))
    path = write_raster(tmp_path / "ms.tif", np.ones((5, 8, 8)), grid, dtype="uint16", names=["", "Green"])
    with rasterio.open(path, "r+") as ds:
        c = ColorInterp
        ds.colorinterp = [c.coastal, c.red, c.nir, c.undefined, c.alpha]
    with RasterSource(path, "MS") as source:
        assert source.bands == (
            FileBand(1, "coastal"),
            FileBand(2, "Green"),  # a description counts for more than a colour
            FileBand(3, "nir"),
            FileBand(4, "band_4"),
            FileBand(5, "alpha", alpha=True),
        )


def test_a_fourth_band_of_bytes_is_not_always_alpha(tmp_path: Path) -> None:
    """GDAL marks it as alpha; if a description or the user makes it an image band, it masks nothing."""
    ms, pan = make_pair(tmp_path, ms_shape=(16, 16), dtype="float32")
    with rasterio.open(ms) as src:
        values, profile = np.rint(src.read() / 20).astype("uint8"), src.profile
    values[3, 4:6, 7] = 0
    profile.update(dtype="uint8", photometric="RGB", alpha="yes")
    for names, alpha in ((("", "", "", ""), True), (("red", "green", "blue", "nir"), False)):
        with rasterio.open(ms, "w", **profile) as out:
            out.write(values)
            out.descriptions = names
        with rasterio.open(ms) as src:
            assert src.colorinterp[3] == ColorInterp.alpha
        with open_pair(ms, pan) as pair:
            assert pair.file_bands[3].alpha is alpha
            block = pair.read_block(pair.grids.ms.window, 0, 0)
            assert block.ms.shape[0] == (3 if alpha else 4)
            assert (~block.valid).sum() == (2 if alpha else 0)
            named = pair.with_bands(
                given_bands({"blue": 3, "green": 2, "red": 1, "nir": 4}, pair.file_bands, "ms.tif")
            )
            block = named.read_block(pair.grids.ms.window, 0, 0)
            assert block.valid.all()
            np.testing.assert_array_equal(block.ms, values[[2, 1, 0, 3]])


def test_descriptions_without_a_letter() -> None:
    """A band described as "-" matches no other name, and can be named."""
    found = given_bands({"nir": "B8", "red": "-"}, [FileBand(1, "-"), FileBand(2, "B8 NIR")], "ms.tif")
    assert [c.number for c in found] == [2, 1]
    with pytest.raises(InputError, match="no band 'swir'"):
        given_bands({"swir": "swir"}, [FileBand(1, "-")], "ms.tif")
