"""Scenes in the layouts in which they are delivered, made from an MS file of four bands and a PAN file.

The four bands of MS are blue, green, red and near infrared. Every function makes the folder of one product
and returns it.
"""

from __future__ import annotations

import json
import shutil
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine

ROOT = Path(__file__).resolve().parents[1]
GULF = ROOT / "examples" / "gulf"
ROLES = ("blue", "green", "red", "nir")
SUN = 47.5
"""Sun's elevation in all products, degrees."""

MULT, ADD = 2.0e-05, -0.1
"""Landsat's scale and offset to reflectance, before the sun's elevation."""


@dataclass(frozen=True)
class Pair:
    """Two files: MS of four bands, and PAN."""

    ms: Path
    pan: Path


def crop(folder: Path, row: int = 100, col: int = 100, size: int = 40) -> Pair:
    """A part of the bundled imagery: ``size`` MS pixels a side."""
    pair = Pair(folder / "ms.tif", folder / "pan.tif")
    for source, target, scale, more in ((GULF / "ms.tif", pair.ms, 1, 0), (GULF / "pan.tif", pair.pan, 2, 1)):
        with rasterio.open(source) as ds:
            window = rasterio.windows.Window(
                col * scale, row * scale, size * scale + more, size * scale + more
            )
            write(target, ds.read(window=window), ds.window_transform(window), ds.crs, ds.descriptions)
    return pair


def write(
    path: Path,
    image: npt.NDArray[Any],
    transform: Affine,
    crs: Any,
    names: Sequence[str | None] = (),
    **options: Any,
) -> Path:
    """Write an image of (bands, rows, columns) as a GeoTIFF, or in the format of ``driver``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {
        "driver": "GTiff",
        "count": image.shape[0],
        "height": image.shape[1],
        "width": image.shape[2],
        "dtype": image.dtype,
        "transform": transform,
        "crs": crs,
    } | options
    with rasterio.open(path, "w", **profile) as out:
        out.write(image)
        for number, name in enumerate(names, start=1):
            if name is not None:
                out.set_band_description(number, name)
    return path


def read(path: Path) -> tuple[npt.NDArray[Any], Affine, Any]:
    """Values, transform and CRS of a file."""
    with rasterio.open(path) as ds:
        return ds.read(), ds.transform, ds.crs


# --- Landsat ---------------------------------------------------------------------------------------------

PRODUCTS = {
    "": "LC80210392016330LGN00",
    "1": "LC08_L1TP_021039_20161125_20170317_01_T1",
    "2": "LC08_L1TP_021039_20161125_20200905_02_T1",
}
"""Collection → name of a product."""


def landsat(
    folder: Path,
    pair: Pair,
    *,
    collection: str = "2",
    satellite: int = 8,
    qa: npt.NDArray[np.uint16] | None = None,
    level: str = "L1TP",
) -> Path:
    """A folder with a file for each band, a quality band if given, and the MTL file."""
    name = PRODUCTS[collection] if satellite == 8 else f"LE07_L1TP_021039_20161125_20200905_0{collection}_T1"
    product = folder / name
    ms, transform, crs = read(pair.ms)
    first = 2 if satellite >= 8 else 1
    files = {f"FILE_NAME_BAND_{n}": f"{name}_B{n}.TIF" for n in range(first, first + 4)}
    for band, file in zip(ms, files.values(), strict=True):
        write(product / file, band[None], transform, crs)
    pan, pan_transform, _ = read(pair.pan)
    files["FILE_NAME_BAND_8"] = f"{name}_B8.TIF"
    write(product / files["FILE_NAME_BAND_8"], pan, pan_transform, crs)
    if qa is not None:
        key = "FILE_NAME_QUALITY_L1_PIXEL" if collection == "2" else "FILE_NAME_BAND_QUALITY"
        files[key] = f"{name}_{'QA_PIXEL' if collection == '2' else 'BQA'}.TIF"
        write(product / files[key], qa[None], transform, crs)
    (product / f"{name}_MTL.txt").write_text(mtl(name, files, collection, satellite, level))
    return product


def mtl(name: str, files: Mapping[str, str], collection: str, satellite: int, level: str) -> str:
    """The text of an MTL file, in the groups of its collection."""
    product: dict[str, Any] = {"LANDSAT_SCENE_ID": "LC80210392016330LGN00"}
    if collection:
        product |= {"LANDSAT_PRODUCT_ID": name, "COLLECTION_NUMBER": f"0{collection}"}
    product |= {"PROCESSING_LEVEL" if collection == "2" else "DATA_TYPE": level, **files}
    attributes = {
        "SPACECRAFT_ID": f"LANDSAT_{satellite}",
        "SENSOR_ID": "OLI_TIRS" if satellite >= 8 else "ETM",
        "DATE_ACQUIRED": "2016-11-25",
        "SCENE_CENTER_TIME": "16:24:31.0230580Z",
        "SUN_ELEVATION": SUN,
    }
    scale = {f"REFLECTANCE_{k}_BAND_{n}": v for n in range(1, 10) for k, v in (("MULT", MULT), ("ADD", ADD))}
    groups = {"PRODUCT_CONTENTS": product, "IMAGE_ATTRIBUTES": attributes, "RADIOMETRIC_RESCALING": scale}
    lines = ["GROUP = LANDSAT_METADATA_FILE" if collection == "2" else "GROUP = L1_METADATA_FILE"]
    for group, values in groups.items():
        lines.append(f"  GROUP = {group}")
        lines += [f"    {k} = {json.dumps(v)}" for k, v in values.items()]
        lines.append(f"  END_GROUP = {group}")
    return "\n".join([*lines, "END_GROUP = X", "END", ""])


def tar(folder: Path, mode: str = "w") -> Path:
    """An archive of a product's files, without a folder, as Landsat comes; mode ``w:gz`` compresses."""
    path = folder.with_name(f"{folder.name}.tar{'.gz' if mode.endswith('gz') else ''}")
    with tarfile.open(path, mode) as archive:
        for file in sorted(folder.iterdir()):
            archive.add(file, file.name)
    return path


def zipped(folder: Path) -> Path:
    """A zip archive with the product's folder in it."""
    path = folder.with_name(f"{folder.name}.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent))
    return path


# --- Airbus ----------------------------------------------------------------------------------------------

DIMAP_GAIN, DIMAP_BIAS, IRRADIANCE = 9.5, 0.25, 1500.0
"""Radiance is number / gain + bias."""


def dimap(folder: Path, pair: Pair, *, tiles: int = 1, index_list: bool = False) -> Path:
    """A delivery with an MS and a P product, each cut into ``tiles`` × ``tiles`` images.

    The images have the bands red, green, blue, near infrared. With ``index_list`` near infrared comes first,
    and the metadata say so.
    """
    delivery = folder / "SO16012345-1-01_DS_PHR1A_201611251624"
    order = ("B3", "B2", "B1", "B0") if index_list else ("B2", "B1", "B0", "B3")
    ms, transform, crs = read(pair.ms)
    ms = ms[[int(band[1]) for band in order]]
    _dimap(delivery, "MS", ms, transform, crs, order, tiles, index_list)
    pan, pan_transform, _ = read(pair.pan)
    _dimap(delivery, "P", pan, pan_transform, crs, ("P",), tiles, index_list)
    (delivery / "VOL_PHR.XML").write_text("<Dimap_Document/>")
    return delivery


def _dimap(
    delivery: Path,
    spectral: str,
    image: npt.NDArray[Any],
    transform: Affine,
    crs: Any,
    order: Sequence[str],
    tiles: int,
    index_list: bool,
) -> None:
    name = f"PHR1A_{spectral}_201611251624000_ORT_1234567890-001"
    part = delivery / f"IMG_PHR1A_{spectral}_001"
    hrefs = []
    rows, cols = (np.array_split(np.arange(n), tiles) for n in image.shape[1:])
    for r, row in enumerate(rows, start=1):
        for c, col in enumerate(cols, start=1):
            href = f"IMG_{name}_R{r}C{c}.TIF"
            tile = image[:, row[0] : row[-1] + 1, col[0] : col[-1] + 1]
            write(part / href, tile, transform * Affine.translation(col[0], row[0]), crs)
            hrefs.append(f'<Data_File tile_R="{r}" tile_C="{c}"><DATA_FILE_PATH href="{href}"/></Data_File>')
    listed = "".join(
        f"<Raster_Index><BAND_ID>{band}</BAND_ID><BAND_INDEX>{n}</BAND_INDEX></Raster_Index>"
        for n, band in enumerate(order, start=1)
    )
    display = (
        f"<Raster_Display><Raster_Index_List>{listed}</Raster_Index_List></Raster_Display>"
        if index_list
        else "<Raster_Display><Band_Display_Order><RED_CHANNEL>B2</RED_CHANNEL>"
        "<GREEN_CHANNEL>B1</GREEN_CHANNEL>"
        "<BLUE_CHANNEL>B0</BLUE_CHANNEL><ALPHA_CHANNEL>B3</ALPHA_CHANNEL></Band_Display_Order>"
        "<Special_Value><SPECIAL_VALUE_TEXT>NODATA</SPECIAL_VALUE_TEXT><SPECIAL_VALUE_COUNT>0"
        "</SPECIAL_VALUE_COUNT></Special_Value></Raster_Display>"
    )
    bands = "".join(
        f"<Band_Radiance><BAND_ID>{b}</BAND_ID><GAIN>{DIMAP_GAIN}</GAIN><BIAS>{DIMAP_BIAS}</BIAS></Band_Radiance>"
        f"<Band_Solar_Irradiance><BAND_ID>{b}</BAND_ID><VALUE>{IRRADIANCE}</VALUE></Band_Solar_Irradiance>"
        for b in order
    )
    (part / f"DIM_{name}.XML").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n<Dimap_Document>'
        '<Metadata_Identification><METADATA_FORMAT version="2.15">DIMAP</METADATA_FORMAT>'
        "</Metadata_Identification>"
        f"<Dataset_Identification><DATASET_NAME>DS_{name}</DATASET_NAME></Dataset_Identification>"
        f"<Raster_Data><Data_Access><Data_Files>{''.join(hrefs)}"
        f"{display if index_list else ''}</Data_Files></Data_Access>{'' if index_list else display}"
        "</Raster_Data><Processing_Information><Product_Settings>"
        f"<SPECTRAL_PROCESSING>{spectral}</SPECTRAL_PROCESSING></Product_Settings></Processing_Information>"
        "<Dataset_Sources><Source_Identification><Strip_Source><MISSION>PHR</MISSION><MISSION_INDEX>1A</MISSION_INDEX>"
        "<IMAGING_DATE>2016-11-25</IMAGING_DATE><IMAGING_TIME>16:24:00.0Z</IMAGING_TIME></Strip_Source>"
        "</Source_Identification></Dataset_Sources><Geometric_Data><Use_Area><Located_Geometric_Values>"
        f"<Solar_Incidences><SUN_ELEVATION>{SUN}</SUN_ELEVATION></Solar_Incidences></Located_Geometric_Values>"
        f"</Use_Area></Geometric_Data><Radiometric_Data>{bands}</Radiometric_Data></Dimap_Document>\n"
    )


# --- Maxar, Gaofen ---------------------------------------------------------------------------------------


def maxar(folder: Path, pair: Pair, *, metadata: str = "IMD", split: bool = True) -> Path:
    """A delivery with an M2AS image, in two tiles if ``split``, and a P2AS image; metadata IMD or XML."""
    delivery, order = folder / "056083330010_01", "056083330010_01_P001"
    ms, transform, crs = read(pair.ms)
    for kind, image, place in (("M2AS", ms, transform), ("P2AS", *read(pair.pan)[:2])):
        part = delivery / f"{order}_{'MUL' if kind == 'M2AS' else 'PAN'}"
        half = image.shape[2] // 2
        pieces = {"_R1C1": (0, half), "_R1C2": (half, None)} if split and kind == "M2AS" else {"": (0, None)}
        for tile, (start, stop) in pieces.items():
            write(
                part / f"16NOV25162400-{kind}{tile}-{order}.TIF",
                image[:, :, start:stop],
                place * Affine.translation(start, 0),
                crs,
            )
        codes = ("B", "G", "R", "N") if kind == "M2AS" else ("P",)
        path = part / f"16NOV25162400-{kind}-{order}.{metadata}"
        if metadata == "IMD":
            groups = "".join(
                f"BEGIN_GROUP = BAND_{c}\n\tabsCalFactor = 9.2e-03;\nEND_GROUP = BAND_{c}\n" for c in codes
            )
            path.write_text(
                f'version = "28.4";\n{groups}BEGIN_GROUP = IMAGE_1\n\tsatId = "WV02";\n'
                "\tfirstLineTime = 2016-11-25T16:24:00.123456Z;\nEND_GROUP = IMAGE_1\nEND;\n"
            )
        elif metadata == "XML":
            groups = "".join(f"<BAND_{c}><ABSCALFACTOR>0.01</ABSCALFACTOR></BAND_{c}>" for c in codes)
            path.write_text(
                f"<isd><IMD>{groups}<IMAGE><SATID>WV02</SATID><FIRSTLINETIME>2016-11-25T16:24:00.1Z</FIRSTLINETIME>"
                "</IMAGE></IMD></isd>"
            )
    return delivery


def gaofen(folder: Path, pair: Pair) -> Path:
    """A delivery with an MSS1 and a PAN1 image and their XML files."""
    name = "GF2_PMS1_E88.1_N30.6_20161125_L2A0001234567"
    delivery = folder / name
    for kind, file in (("MSS1", pair.ms), ("PAN1", pair.pan)):
        write(delivery / f"{name}-{kind}.tiff", *read(file))
        (delivery / f"{name}-{kind}.xml").write_text(
            "<ProductMetaData><SatelliteID>GF2</SatelliteID><SensorID>PMS1</SensorID>"
            "<ReceiveTime>2016-11-25 04:10:11</ReceiveTime></ProductMetaData>"
        )
    return delivery


# --- STAC ------------------------------------------------------------------------------------------------


def stac(
    folder: Path,
    pair: Pair,
    *,
    single: bool = True,
    version: str = "1.0.0",
    qa: npt.NDArray[Any] | None = None,
) -> Path:
    """An Item with an asset for each band, or with one for all MS bands; the path of its JSON file."""
    item = folder / "stac"
    ms, transform, crs = read(pair.ms)
    new = version >= "1.1"
    assets: dict[str, Any] = {
        "thumbnail": {"href": "./look.png", "roles": ["thumbnail"], "eo:bands": [{"common_name": "red"}]}
    }

    def asset(file: str, names: Sequence[str]) -> dict[str, Any]:
        own = {"scale": 0.0001, "offset": -0.1, "nodata": 0}
        if new:
            bands: dict[str, Any] = {"bands": [{"name": n, "eo:common_name": n, **own} for n in names]}
        else:
            bands = {
                "eo:bands": [{"name": n, "common_name": n} for n in names],
                "raster:bands": [own] * len(names),
            }
        return {"href": f"./{file}", "roles": ["data"], **bands}

    if single:
        for band, role in zip(ms, ROLES, strict=True):
            write(item / f"{role}.tif", band[None], transform, crs)
            assets[role] = asset(f"{role}.tif", ["nir08" if role == "nir" else role])
    else:
        write(item / "ms.tif", ms[[3, 2, 1, 0]], transform, crs)
        assets["analytic"] = asset("ms.tif", ["nir", "red", "green", "blue"])
    shutil.copy(pair.pan, item / "pan.tif")
    assets["pan"] = asset("pan.tif", ["pan"])
    if qa is not None:
        write(item / "qa.tif", qa[None], transform, crs)
        assets["qa_pixel"] = {
            "href": "./qa.tif",
            "roles": ["cloud"],
            "classification:bitfields": [
                {"name": "fill", "offset": 0, "length": 1},
                {"name": "cloud", "offset": 3, "length": 1},
                {"name": "cloud_shadow", "offset": 4, "length": 1},
                {"name": "cloud_confidence", "offset": 8, "length": 2},
            ],
        }
    path = item / "item.json"
    path.write_text(
        json.dumps(
            {
                "type": "Feature",
                "stac_version": version,
                "id": "gulf-20161125",
                "properties": {
                    "datetime": "2016-11-25T16:24:31Z",
                    "platform": "landsat-8",
                    "instruments": ["oli"],
                },
                "geometry": None,
                "assets": assets,
                "links": [],
            }
        )
    )
    return path
