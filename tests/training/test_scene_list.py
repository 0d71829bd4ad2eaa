"""Labelled scenes from a CSV file."""

from __future__ import annotations

from pathlib import Path

import pytest

from das2f_map.errors import InputError
from das2f_map.training.scene_list import read_scene_list


def written(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "scenes.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_paths_start_at_the_folder_of_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    lists = tmp_path / "lists"
    (lists / "a").mkdir(parents=True)
    for name in ("a/ms.tif", "a/pan.tif", "labels one.gpkg"):
        (lists / name).touch()
    absolute = tmp_path / "elsewhere" / "ms.tif"
    absolute.touch()
    url = "https://example.org/pan.tif"
    path = written(
        lists, f"ms,pan,labels\na/ms.tif,a/pan.tif,labels one.gpkg\n{absolute},{url},labels one.gpkg\n"
    )
    first, second = read_scene_list(path)
    assert [Path(p).resolve() for p in first] == [
        lists / "a" / "ms.tif",
        lists / "a" / "pan.tif",
        lists / "labels one.gpkg",
    ]
    assert second == (str(absolute), url, str(lists / "labels one.gpkg"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lists_of_spreadsheets(encoding: str, end: str, tmp_path: Path) -> None:
    """A byte order mark, other columns, another order, quotes and spaces."""
    text = end.join(["labels,place,ms,pan", '"é, 1.gpkg",Genève, m.tif ,p.tif', "b.gpkg,,n.tif,q.tif", ""])
    names = [("m.tif", "p.tif", "é, 1.gpkg"), ("n.tif", "q.tif", "b.gpkg")]
    # Missing files too: the error that follows names where they were looked for.
    expected = [tuple(str(tmp_path / name) for name in line) for line in names]
    assert read_scene_list(written(tmp_path, text, encoding)) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no column ms, pan, labels"),
        ("ms;pan;labels\na;b;c\n", "has no column ms, pan, labels"),
        ("ms,pan,label\na,b,c\n", "has no column labels"),
        ("ms,pan,labels\n", "lists no scene"),
        ("ms,pan,labels\na,b,c\nd,e,\n", "line 3: ms, pan and labels are needed"),
        ("ms,pan,labels\na,b,c\n,,f\n", "line 3: ms, pan and labels are needed"),
        ("ms,pan,labels\na,b\n", "line 2: ms, pan and labels are needed"),
    ],
)
def test_incomplete_lists_name_what_is_missing(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says) as caught:
        read_scene_list(written(tmp_path, text))
    assert "scenes.csv" in caught.value.message
    assert "\n" not in str(caught.value)


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.csv cannot be read: No such file"):
        read_scene_list(tmp_path / "none.csv")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_scene_list(tmp_path)
    with pytest.raises(InputError, match="no CSV file in UTF-8"):
        read_scene_list(written(tmp_path, "ms,pan,labels\né,é,é\n", "latin-1"))
    (tmp_path / "big.csv").touch()
    with (tmp_path / "big.csv").open("r+b") as file:
        file.truncate(11_000_000)
    with pytest.raises(InputError, match=r"big\.csv is too large for a list of scenes"):
        read_scene_list(tmp_path / "big.csv")


def test_without_pan_ms_is_a_product(tmp_path: Path) -> None:
    (tmp_path / "LC08").mkdir()
    text = "ms,pan,labels\nLC08,,a.gpkg\nm.tif,p.tif,b.gpkg\n"
    assert read_scene_list(written(tmp_path, text)) == [
        (str(tmp_path / "LC08"), None, str(tmp_path / "a.gpkg")),
        (str(tmp_path / "m.tif"), str(tmp_path / "p.tif"), str(tmp_path / "b.gpkg")),
    ]
