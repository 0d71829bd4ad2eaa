"""Data of another PROJ or GDAL are not used; those that fit are."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pyproj
import pytest
import rasterio

from das2f_map.scene.proj_gdal_data import gdal_data, proj_data, use_own_data

OWN_PROJ = Path(rasterio.__file__).parent / "proj_data"
OWN_GDAL = Path(rasterio.__file__).parent / "gdal_data"

pytestmark = pytest.mark.skipif(
    not OWN_PROJ.is_dir() or not OWN_GDAL.is_dir(), reason="rasterio has no data of its own here"
)


def database(folder: Path, major: int, minor: int) -> Path:
    """A folder with a proj.db of some layout version, and nothing else in it."""
    folder.mkdir()
    with closing(sqlite3.connect(folder / "proj.db")) as connection:
        connection.execute("CREATE TABLE metadata (key TEXT, value TEXT)")
        for part, number in (("MAJOR", major), ("MINOR", minor)):
            connection.execute(
                "INSERT INTO metadata VALUES (?, ?)", (f"DATABASE.LAYOUT.VERSION.{part}", number)
            )
        connection.commit()
    return folder


@pytest.mark.parametrize("variable", ["PROJ_LIB", "PROJ_DATA"])
def test_an_older_database_is_left_out(variable: str, tmp_path: Path) -> None:
    environment = {variable: str(database(tmp_path / "old", 1, 0)), "HOME": "/home"}
    remarks = use_own_data(environment)
    assert environment == {"HOME": "/home"}
    assert len(remarks) == 1
    assert f"{variable}={tmp_path / 'old'} holds the proj.db of another version" in remarks[0]


def test_a_newer_database_stays(tmp_path: Path) -> None:
    before = {"PROJ_DATA": str(database(tmp_path / "new", 1, 99))}
    environment = dict(before)
    assert use_own_data(environment) == ()
    assert environment == before


def test_a_folder_of_grids_beside_own_data_stays(tmp_path: Path) -> None:
    (tmp_path / "grids").mkdir()
    newest = max((p for p in proj_data({}).own.values() if p), key=lambda p: _minor(p))
    environment = {"PROJ_DATA": f"{tmp_path / 'grids'}:{newest}"}
    assert use_own_data(environment) == ()
    assert "grids" in environment["PROJ_DATA"]


def _minor(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "proj.db")) as connection:
        query = "SELECT value FROM metadata WHERE key = 'DATABASE.LAYOUT.VERSION.MINOR'"
        return int(connection.execute(query).fetchone()[0])


@pytest.mark.parametrize("content", [None, "no database"])
def test_folders_without_a_database(content: str | None, tmp_path: Path) -> None:
    if content:
        (tmp_path / "proj.db").write_text(content)
    environment = {"PROJ_LIB": str(tmp_path), "PROJ_DATA": str(tmp_path / "none")}
    assert len(use_own_data(environment)) == 2
    assert environment == {}


def test_gdal_data(tmp_path: Path) -> None:
    (tmp_path / "gcs.csv").write_text("a table of GDAL 2")
    environment = {"GDAL_DATA": str(tmp_path)}
    (remark,) = use_own_data(environment)
    assert "GDAL_DATA" in remark
    assert environment == {}
    whole = tmp_path / "whole"
    shutil.copytree(OWN_GDAL, whole)
    for folder in gdal_data({}).own.values():
        if folder is not None:
            shutil.copytree(folder, whole, dirs_exist_ok=True)
    environment = {"GDAL_DATA": str(whole)}
    assert use_own_data(environment) == ()
    assert environment == {"GDAL_DATA": str(whole)}


def test_the_folders_in_use_are_those_of_the_libraries() -> None:
    assert proj_data({}).in_use["pyproj"] == pyproj.datadir.get_data_dir()
    assert proj_data({}).in_use["rasterio"] == str(OWN_PROJ)
    assert set(gdal_data({"GDAL_DATA": "/somewhere"}).in_use.values()) == {"/somewhere"}
