"""A map as a user asks for it: the request, its checks, and the parts that identify it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from das2f_map._version import __version__
from das2f_map.bundle.catalogue import find_model
from das2f_map.bundle.files import bundle_files
from das2f_map.bundle.fit import Radiometry
from das2f_map.bundle.model import ModelBundle
from das2f_map.bundle.stac_parts import ITEM_SUFFIX, require_pystac
from das2f_map.engines.choose import EngineChoice, check_choice
from das2f_map.engines.device import resolve_device
from das2f_map.errors import OutputError
from das2f_map.products.map_files import MapPaths
from das2f_map.products.polygons import check_vector_path
from das2f_map.running.cluster import require_dask
from das2f_map.running.map_options import MapOptions
from das2f_map.running.plan import FileIdentity
from das2f_map.running.recorded import recorded_arguments
from das2f_map.running.resources import Resources, bytes_of
from das2f_map.scene.bands import GivenBands
from das2f_map.scene.mask import MaskFile
from das2f_map.scene.paths import given_path, is_local, readable
from das2f_map.scene.registration import CoregisterMode
from das2f_map.scene.request import PairRequest
from das2f_map.scene.vector_path import local_file
from das2f_map.scene.virtual_files import with_sources

log = logging.getLogger(__name__)

RASTER_SUFFIXES = (".tif", ".tiff")


@dataclass(frozen=True)
class ClassifyRequest:
    """A map as a user asks for it.

    Attributes
    ----------
    pair:
        The images.
    outputs:
        Files to write.
    model:
        A bundled model's name, a bundle's path, or a loaded bundle; ``None`` for the one that fits.
    radiometry:
        Source of the statistics that values are normalised with: the model's card or the scene.
    engine:
        How to compute.
    aoi:
        Vector file that limits the map, with its layer as in ``a.gpkg|layername=b``; ``None`` for the whole
        scene.
    options:
        What is done with probabilities, regions and outlines.
    overwrite:
        Replace existing outputs.
    resume:
        Go on with a run on the same outputs that was ended.
    resources:
        Limit of memory, and the processes that compute the blocks.
    given:
        The arguments that the request is made of, for the report; empty where it is made otherwise.
    """

    pair: PairRequest
    outputs: MapPaths
    model: str | Path | ModelBundle | None = None
    radiometry: Radiometry = "model"
    engine: EngineChoice = field(default_factory=EngineChoice)
    aoi: str | None = None
    options: MapOptions = field(default_factory=MapOptions)
    overwrite: bool = False
    resume: bool = False
    resources: Resources = field(default_factory=Resources)
    given: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        ms: str | Path,
        pan: str | Path | None,
        output: str | Path,
        *,
        model: str | Path | ModelBundle | None,
        vectors: str | Path | Literal[False] | None,
        confidence: str | Path | None,
        probabilities: str | Path | None,
        entropy: str | Path | None,
        stac: bool,
        reject: float | None,
        smooth: int | None,
        aoi: str | Path | None,
        aoi_layer: str | None,
        min_area_m2: float | None,
        simplify_m: float | None,
        bands: GivenBands | None,
        nodata: float | None,
        mask: str | Path | MaskFile | None,
        reflectance: bool,
        radiometry: Radiometry,
        coregistration: CoregisterMode,
        max_shift: float,
        engine: str,
        device: str,
        precision: str,
        batch_size: int | None,
        turns: int | None,
        force: bool,
        overwrite: bool,
        resume: bool,
        max_memory: str | int | None,
        workers: int | None,
        cluster: str | None,
        every: int,
    ) -> ClassifyRequest:
        """The request of the arguments of :func:`classify`, which explains them and has the defaults.

        Raises
        ------
        InputError, OutputError
            A value cannot be used.
        """
        given = recorded_arguments(locals())
        output = Path(output)
        if not output.name:
            raise OutputError(f"output {output} is a folder", "give the path of a file")
        for option, path in (
            ("vectors", vectors),
            ("confidence", confidence),
            ("probabilities", probabilities),
            ("entropy", entropy),
        ):
            # `Path("")` is the working folder.
            if path is not None and path is not False and not Path(path).name:
                raise OutputError(
                    f"--{option} names no file: its path is {'empty' if str(path) in ('', '.') else path}",
                    "give the path of a file, or leave the option out",
                )
        vector_path = None if vectors is False else Path(vectors) if vectors else output.with_suffix(".gpkg")
        return cls(
            PairRequest.of(
                ms,
                pan,
                bands=bands,
                nodata=nodata,
                mask=mask,
                coregistration=coregistration,
                max_shift=max_shift,
                force=force,
                reflectance=reflectance,
            ),
            MapPaths(
                output,
                output.with_suffix(".json"),
                vector_path,
                confidence=_path(confidence),
                probabilities=_path(probabilities),
                entropy=_path(entropy),
                stac=output.with_suffix(ITEM_SUFFIX) if stac else None,
            ),
            model=model,
            radiometry=radiometry,
            engine=EngineChoice(engine, device, precision, batch_size, turns),
            aoi=None if aoi is None else _with_layer(given_path(aoi, "aoi"), aoi_layer),
            options=MapOptions(min_area_m2, simplify_m, reject, smooth, every),
            overwrite=overwrite,
            resume=resume,
            resources=Resources(bytes_of(max_memory), workers, cluster),
            given=given,
        )

    def check(self) -> None:
        """Check everything that can be checked without opening a file.

        Raises
        ------
        InputError, OutputError, DeviceError, MissingDependencyError
            The smallest area, the tolerance or the lowest probability is no such number; an output's
            extension, an engine or a device is unknown; or a package is missing.
        """
        for raster in self.outputs.rasters():
            if raster.suffix.lower() not in RASTER_SUFFIXES:
                raise OutputError(f"output {raster} is not a GeoTIFF", "give it the extension .tif")
        if self.outputs.vectors is not None:
            check_vector_path(self.outputs.vectors)
        if self.outputs.stac is not None:
            require_pystac()
        self.options.check()
        if self.resources.spread:
            require_dask()
        check_choice(self.engine.engine, self.engine.precision)
        if isinstance(self.engine.device, str):
            resolve_device(self.engine.device)

    @cached_property
    def parts(self) -> dict[str, str]:
        """A hash of each thing that the map depends on, by its name in words.

        Files count by path, size and time of change. How and where the blocks are computed does not count.
        """
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("pair", "outputs", "overwrite", "resume", "resources", "model", "given", "options"):
            del own[name]
        own |= asdict(self.options)
        whole = [str(Path(p).resolve()) if is_local(p) else p for p in self.inputs]
        model = self.model.digest() if isinstance(self.model, ModelBundle) else self.model
        pair = {f.name: getattr(self.pair, f.name) for f in fields(self.pair) if f.name not in ("ms", "pan")}
        # Paths count among the input files, wherever the command runs.
        if isinstance(self.pair.mask, MaskFile):
            pair["mask"] = replace(self.pair.mask, path="")
        own["aoi"] = None if self.aoi is None else Path(self.aoi).name
        things = {
            "the version of das2f-map": __version__,
            "the input files": [asdict(FileIdentity.of(p)) for p in whole],
            "the model": model,
            "the kinds of outputs": sorted(self.outputs.by_kind()),
            "bands, nodata, mask or shift of the pair": pair,
            "engine, device, precision, batch size or turns": own.pop("engine"),
            **{f"--{_option(name)}": value for name, value in own.items()},
        }
        return {name: hashlib.sha256(repr(value).encode()).hexdigest()[:32] for name, value in things.items()}

    @property
    def scene_files(self) -> tuple[str, ...]:
        """Paths of the images, the mask and the area of interest."""
        return (*self.pair.files, *(() if self.aoi is None else (self.aoi,)))

    @property
    def recorded(self) -> dict[str, Any] | None:
        """The arguments for the report; ``None`` where they are not known."""
        if not self.given:
            return None
        paths = self.outputs.by_kind()
        kinds = ("vectors", "confidence", "probabilities", "entropy")
        files: dict[str, Any] = {kind: readable(paths.get(kind)) for kind in kinds}
        files["vectors"] = files["vectors"] or False
        pair = {"ms": readable(self.pair.ms), "pan": readable(self.pair.pan)}
        return {**self.given, **pair, "output": readable(self.outputs.raster), **files}

    @property
    def read_files(self) -> list[str]:
        """Paths of all files that are read but for the model's, those behind a VRT too."""
        return with_sources(local_file(path) for path in self.scene_files)

    @property
    def inputs(self) -> list[str]:
        """Paths of all files that are read, those behind a VRT too."""
        paths = self.read_files
        if isinstance(self.model, (str, Path)):
            paths += [str(p) for p in bundle_files(find_model(self.model))]
        return paths


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)


def _with_layer(path: str, layer: str | None) -> str:
    return path if layer is None else f"{local_file(path)}|layername={layer}"


def _option(name: str) -> str:
    """The option on the command line for an argument in Python, without its dashes."""
    return name.removesuffix("_m2").removesuffix("_m").replace("_", "-")
