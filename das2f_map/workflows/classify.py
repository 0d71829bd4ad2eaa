"""Classify a scene: from two image files to the finished products."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal

import torch

from das2f_map._version import __version__
from das2f_map.bundle.catalogue import find_model
from das2f_map.bundle.files import bundle_files
from das2f_map.bundle.fit import FittedModel, Radiometry, SceneViews, choose_bundle, fit_model
from das2f_map.bundle.model import ModelBundle
from das2f_map.engines import Engine
from das2f_map.engines.choose import check_choice, make_engine
from das2f_map.engines.device import resolve_device
from das2f_map.errors import OutputError
from das2f_map.outputs.staging import StagedOutputs
from das2f_map.products.areas import ClassArea, class_areas
from das2f_map.products.class_raster import ClassRasterWriter
from das2f_map.products.polygons import check_vector_path, write_polygons
from das2f_map.products.qgis import style_raster
from das2f_map.products.report import ModelReport, RunReport, class_reports
from das2f_map.progress import Progress, silent
from das2f_map.running.blocks import BLOCK_SIZE, classify_blocks
from das2f_map.scene.area import Area
from das2f_map.scene.bands import GivenBands
from das2f_map.scene.grid import Grid, Window
from das2f_map.scene.mask import MaskFile
from das2f_map.scene.pair import open_pair
from das2f_map.scene.registration import DEFAULT_MAX_SHIFT, CoregisterMode, coregister

log = logging.getLogger(__name__)

RASTER_SUFFIXES = (".tif", ".tiff")


def classify(
    ms: str | Path,
    pan: str | Path,
    output: str | Path,
    *,
    model: str | Path | ModelBundle | None = None,
    vectors: str | Path | Literal[False] | None = None,
    confidence: str | Path | None = None,
    aoi: str | Path | None = None,
    min_area_m2: float | None = None,
    bands: GivenBands | None = None,
    nodata: float | None = None,
    mask: str | Path | MaskFile | None = None,
    radiometry: Radiometry = "model",
    coregistration: CoregisterMode = "auto",
    max_shift: float = DEFAULT_MAX_SHIFT,
    engine: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    force: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
) -> RunReport:
    """Classify every valid MS pixel of a scene and write the map.

    Parameters
    ----------
    ms, pan:
        The image pair.
    output:
        Class raster, a ``.tif``. Beside it appear a QGIS style (``.qml``), the class names
        (``.tif.aux.xml``) and the run report (``.json``).
    model:
        A bundled model's name, a bundle's path, or a loaded bundle; by default the bundled model whose
        card fits the scene.
    vectors:
        Polygon file, its format by extension; by default a GeoPackage beside the raster, ``False`` for none.
    confidence:
        Raster for the probability of each pixel's class; by default none is kept.
    aoi:
        Vector file with polygons: only pixels whose centre lies inside are classified, and the map is cut
        to their bounding box.
    min_area_m2:
        Polygons smaller than this, in m², are merged into their neighbours (the raster is left alone).
    bands:
        Which MS band is which: the model's name → number in the file, from 1, or name there. What is not
        said is found by name and colour, see :mod:`das2f_map.scene.bands`.
    nodata:
        Value of undeclared invalid pixels, of both files; in MS where all bands that are used have it.
    mask:
        Pixels that are not to be classified: a vector or raster file, or a :class:`MaskFile`.
    radiometry:
        Normalise with the statistics of the ``model``'s card, or with those of the ``scene``, taken once
        from a sample of all of it.
    coregistration, max_shift:
        What to do about a shift between the contents of the images, and PAN pixels over which they are
        refused; see :func:`das2f_map.scene.registration.coregister`.
    engine, device, precision:
        ``auto``, ``shared``, ``patch`` or ``onnx``; ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; ``auto``,
        ``fp32``, ``bf16`` or ``fp16``. What ``auto`` came to stands in the report.
    batch_size:
        Patches at a time; by default what suits the engine.
    force:
        Take MS : PAN ratios under 1.5 or over 8.
    overwrite:
        Replace existing outputs.
    progress:
        Told how the work goes on.

    Returns
    -------
    The run report, which also stands in the JSON file.

    Raises
    ------
    InputError, ModelError, OutputError, DeviceError
        See their own words. Nothing is left behind then.
    """
    timings = _Timings()
    output = Path(output)
    for raster in (output, *([] if confidence is None else [Path(confidence)])):
        if raster.suffix.lower() not in RASTER_SUFFIXES:
            raise OutputError(f"output {raster} is not a GeoTIFF", "give it the extension .tif")
    vector_path = None if vectors is False else Path(vectors) if vectors else output.with_suffix(".gpkg")
    if vector_path is not None:
        check_vector_path(vector_path)
    check_choice(engine, precision)
    resolve_device(device)  # says at once if it is not there
    mask_file = MaskFile(mask) if isinstance(mask, (str, Path)) else mask
    inputs = [str(p) for p in (ms, pan, aoi, mask_file and mask_file.path) if p is not None]
    if isinstance(model, (str, Path)):
        inputs += [str(p) for p in bundle_files(find_model(model))]
    with StagedOutputs(inputs=inputs, overwrite=overwrite) as staged:
        finals = {"raster": output, "report": output.with_suffix(".json")}
        if vector_path is not None:
            finals["vectors"] = vector_path
        if confidence is not None:
            finals["confidence"] = Path(confidence)
        paths = {kind: staged.stage(final) for kind, final in finals.items()}
        with open_pair(ms, pan, force=force, nodata=nodata, mask=mask_file) as opened:
            with timings.phase("model"):
                views = SceneViews(opened, bands)
                bundle = choose_bundle(views, model, radiometry)
            # By the bands that are used: others may be invalid where these are not, or no images at all.
            with timings.phase("coregistration"):
                coregistered = coregister(
                    views.pair_for_model(bundle.card), coregistration, max_shift=max_shift
                )
            pair = coregistered.pair
            coregistered.log()
            area = Area.from_file(aoi, pair.grids.ms) if aoi is not None else None
            window = area.window if area is not None else pair.grids.ms.window
            with timings.phase("model"):
                fitted = fit_model(
                    SceneViews(pair, bands) if coregistered.corrected else views, bundle, radiometry
                )
                runner = make_engine(
                    bundle, engine=engine, device=device, precision=precision, batch_size=batch_size
                )
            log.info(
                "%s pixels (%d × %d) with %s, engine %s on %s in %s (scan: %s)",
                f"{window.height * window.width:,}",
                window.width,
                window.height,
                bundle.card.name,
                runner.name,
                runner.device,
                runner.precision,
                runner.scan,
            )
            # Reports and polygons need the confidence whether or not it is asked for.
            scratch = paths["raster"].with_name("confidence-scratch.tif")
            sure = paths.get("confidence", scratch)
            with timings.phase("classify"):
                _write_raster(fitted, runner, area, window, paths["raster"], sure, progress)
            legend = bundle.card.legend
            with timings.phase("areas"):
                areas, nodata_pixels = class_areas(paths["raster"], legend, confidence_raster=sure)
            if not any(a.pixels for a in areas.values()):
                raise fitted.pair.nothing_valid(aoi, classified=bundle.card.patch.max_invalid_share < 1)
            style_raster(paths["raster"], legend)
            polygons: dict[int, ClassArea] | None = None
            if vector_path is not None:
                with timings.phase("polygons"):
                    polygons = write_polygons(
                        paths["raster"],
                        paths["vectors"],
                        legend,
                        confidence_raster=sure,
                        min_area_m2=min_area_m2,
                        progress=progress,
                    )
            scratch.unlink(missing_ok=True)
            report = RunReport(
                software_version=__version__,
                torch_version=torch.__version__,
                scene=fitted.pair.describe(),
                aoi=None if aoi is None else str(aoi),
                model=ModelReport(
                    name=bundle.card.name, path=None if bundle.path is None else str(bundle.path)
                ),
                radiometry={
                    "statistics": radiometry,
                    "ms": [b.model_dump() for b in fitted.ms_bands],
                    "pan": fitted.pan_band.model_dump(),
                },
                coregistration=coregistered.describe(),
                engine=runner.name,
                device=runner.device,
                precision=runner.precision,
                scan=runner.scan,
                settings={
                    "engine": engine,
                    "device": device,
                    "precision": precision,
                    "batch_size": batch_size,
                    "min_area_m2": min_area_m2,
                    "max_shift": max_shift,
                    "force": force,
                },
                warnings=[*pair.notices, *coregistered.warnings, *fitted.warnings],
                grid=_grid_summary(pair.grids.ms.cropped(window)),
                classes=class_reports(legend, areas, polygons),
                nodata_pixels=nodata_pixels,
                seconds=timings.seconds,
                outputs={kind: str(final) for kind, final in finals.items()},
            )
            paths["report"].write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return report


def _write_raster(
    fitted: FittedModel,
    engine: Engine,
    area: Area | None,
    window: Window,
    raster: Path,
    confidence: Path,
    progress: Progress,
) -> None:
    """Classify the window block by block into the raster files, which have the window's grid."""
    pair, card = fitted.pair, fitted.bundle.card
    grid = pair.grids.ms.cropped(window)
    tags = {"model": card.name, "software": f"das2f-map {__version__}"}
    wanted = None if area is None else area.mask
    statistics = (fitted.ms_bands, fitted.pan_band)
    # An engine with room for larger blocks gets them: less of them is halo.
    size = max(BLOCK_SIZE, int(getattr(engine, "block_size", 0)))
    with (
        ClassRasterWriter(raster, grid, card.legend, confidence_path=confidence, tags=tags) as writer,
        progress("Classifying", window.height * window.width) as advance,
        closing(
            classify_blocks(pair, engine, card, window, statistics=statistics, wanted=wanted, block_size=size)
        ) as blocks,
    ):
        for block in blocks:
            part = block.window
            place = Window(part.row - window.row, part.col - window.col, part.height, part.width)
            writer.write(place, block.classes, block.confidence)
            advance(part.height * part.width)


class _Timings:
    """Seconds per phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 3)


def _grid_summary(grid: Grid) -> dict[str, object]:
    epsg = grid.crs.to_epsg()
    return {
        "height": grid.height,
        "width": grid.width,
        "transform": list(grid.transform)[:6],
        "crs": f"EPSG:{epsg}" if epsg else grid.crs.to_wkt(),
        "pixel_size": list(grid.pixel_size),
    }
