"""Lists of scenes and patterns of file names, against what a reader of them expects."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from das2f_map.errors import InputError
from das2f_map.scene.mask import MaskFile
from das2f_map.scene.pair_list import is_pattern, listed_scenes, matched_scenes, read_pair_list


def written(folder: Path, text: str) -> Path:
    path = folder / "pairs.csv"
    path.write_text(text, encoding="utf-8")
    return path


def touched(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_paths_start_at_the_file_and_options_differ(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    path = written(
        tmp_path,
        "MS,pan,output,mask,mask-bits,nodata,bands,model,aoi\n"
        'a/ms.tif,a/pan.tif,out/a.tif,qa.tif,"3,4",0,"blue=3,nir=B8",mine,\n'
        "https://x.org/ms.tif,/abs/pan.tif,out/b.tif,,,,,landsat8-gulf,areas.gpkg\n"
        "product,,c.tif,clouds,,,,,\n",
    )
    a, b, c = read_pair_list(path)
    assert a.place == f"{path}, line 2"
    assert dict(a.values) == {
        "ms": f"{tmp_path}/a/ms.tif",
        "pan": f"{tmp_path}/a/pan.tif",
        "output": f"{tmp_path}/out/a.tif",
        "mask": MaskFile(f"{tmp_path}/qa.tif", (), (3, 4)),
        "nodata": 0.0,
        "bands": {"blue": 3, "nir": "B8"},
        "model": f"{tmp_path}/mine",
    }
    assert (b.values["ms"], b.values["pan"]) == ("https://x.org/ms.tif", "/abs/pan.tif")
    assert (b.values["model"], b.values["aoi"]) == ("landsat8-gulf", f"{tmp_path}/areas.gpkg")
    assert (c.values["ms"], c.values["pan"], c.values["mask"]) == (f"{tmp_path}/product", None, "clouds")


def test_products_and_semicolons(tmp_path: Path) -> None:
    (only,) = read_pair_list(written(tmp_path, "\ufeffscene;output\nLC08,1;map.tif\n"))
    assert dict(only.values) == {
        "ms": f"{tmp_path}/LC08,1",
        "pan": None,
        "output": f"{tmp_path}/map.tif",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ms,pan,outptu\n1,2,3\n", "the column 'outptu', which is not known"),
        ("ms,pan\n1,2\n", "lacks the columns"),
        ("output,pan\n1,2\n", "lacks the columns"),
        ("ms,pan,output,ms\n1,2,3,4\n", "a column twice"),
        ("ms,pan,output\n", "lists no scene"),
        ("", "lacks the columns"),
        ("ms,pan,output\n1,2,\n", "line 2: output is missing"),
        ("ms,pan,output\n1,2,3\n,2,4\n", "line 3: ms is missing"),
        ("ms,pan,output\n1,2,3,4\n", "line 2: there are more cells than columns"),
        ("scene,pan,output\n1,2,3\n", "line 2: a scene and ms or pan"),
        ("ms,pan,output,nodata\n1,2,3,none\n", "line 2: nodata 'none' is no number"),
        ("ms,pan,output,mask_bits\n1,2,3,4\n", "line 2: mask_values and mask_bits need a mask"),
        ("ms,pan,output,bands\n1,2,3,blue\n", "line 2: "),
        ('ms,pan,output\n"1,2,3\n', "no CSV file"),
    ],
)
def test_lists_that_cannot_be_used(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_pair_list(written(tmp_path, text))
    if "outptu" in text:
        assert caught.value.hint == "did you mean output?"


def test_lists_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_pair_list(tmp_path / "none.csv")
    (tmp_path / "bytes.csv").write_bytes(b"ms,pan,output\n\xff,1,2\n")
    with pytest.raises(InputError, match="no CSV file in UTF-8"):
        read_pair_list(tmp_path / "bytes.csv")
    for wrong in ([], [3], 5):
        with pytest.raises(InputError, match="pairs cannot be"):
            listed_scenes(wrong)


def test_fields_of_names_fill_in_the_other_paths(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touched(
        tmp_path,
        *("north/20240102_ms.tif", "north/20240305_ms.tif", "south/20240102_ms.tif"),
        *("north/20240102_pan.tif", "north/20240305_pan.tif", "south/20240102_pan.tif"),
        *("south/20241231_pan.tif", "north/20240305_ms.tif.bak", "north/ms.tif"),
    )
    caplog.set_level(logging.WARNING)
    mask = MaskFile("masks/{date}.tif", (), (3,))
    found = matched_scenes(
        {
            "ms": f"{tmp_path}/{{site}}/{{date}}_ms.tif",
            "pan": f"{tmp_path}/{{site}}/{{date}}_pan.tif",
            "output": Path("maps/{site}-{date}.tif"),
            "mask": mask,
            "aoi": "areas.gpkg",
        }
    )
    assert [(s.values["output"], s.values["mask"].path, s.values["mask"].bits) for s in found] == [
        ("maps/north-20240102.tif", "masks/20240102.tif", (3,)),
        ("maps/north-20240305.tif", "masks/20240305.tif", (3,)),
        ("maps/south-20240102.tif", "masks/20240102.tif", (3,)),
    ]
    assert {s.values["aoi"] for s in found} == {"areas.gpkg"}
    assert found[2].values["pan"] == f"{tmp_path}/south/20240102_pan.tif"
    assert found[2].place == found[2].values["ms"] == f"{tmp_path}/south/20240102_ms.tif"
    assert [r.getMessage() for r in caplog.records] == [
        f"No MS file belongs to PAN {tmp_path}/south/20241231_pan.tif: left out"
    ]


def test_a_field_that_comes_again_has_the_same_value(tmp_path: Path) -> None:
    touched(tmp_path, "a/a_ms.tif", "a/b_ms.tif", "[c]/[c]_ms.tif")
    patterns = {"ms": f"{tmp_path}/{{id}}/{{id}}_ms.tif", "pan": "p{id}.tif", "output": "{id}.tif"}
    assert [s.values["pan"] for s in matched_scenes(patterns)] == ["p[c].tif", "pa.tif"]


def test_patterns_that_cannot_be_used(tmp_path: Path) -> None:
    touched(tmp_path, "x_ms.tif", "{id}_odd.tif")
    assert not is_pattern(f"{tmp_path}/{{id}}_odd.tif"), "a file has this very name"
    assert not is_pattern("https://x.org/{id}.tif")
    assert not is_pattern("ms.tif")
    pan, output = f"{tmp_path}/{{id}}_pan.tif", "{id}.tif"
    with pytest.raises(InputError, match=r"has the field \{day\}, which .* does not have") as caught:
        matched_scenes({"ms": f"{tmp_path}/{{id}}_ms.tif", "pan": pan, "output": "{day}.tif"})
    assert caught.value.hint == "fields: {id}"
    with pytest.raises(InputError, match="no file matches"):
        matched_scenes({"ms": f"{tmp_path}/{{id}}_MS.tif", "pan": pan, "output": output})
    with pytest.raises(InputError, match="has no field"):
        matched_scenes({"ms": f"{tmp_path}/x_ms.tif", "pan": pan, "output": output})
