"""Compare a class map with reference data: ``das2f-map evaluate``."""

from __future__ import annotations

from pathlib import Path

from das2f_map.assess.map_comparison import Evaluation, compare, match_classes, open_map
from das2f_map.errors import LabelError
from das2f_map.labels.files import open_labels
from das2f_map.legend import Legend
from das2f_map.progress import Progress, silent
from das2f_map.scene.paths import given_path


def evaluate_map(
    map_path: str | Path,
    reference_path: str | Path,
    *,
    class_field: str | None = None,
    layer: str | None = None,
    legend: Legend | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Compare a class raster with reference polygons, points (any CRS) or a label raster (any grid).

    Parameters
    ----------
    map_path:
        Raster of class numbers; nodata is unmapped, and so is 0 without a name. Pixels of the class
        ``unsure`` of `classify --reject` are counted apart.
    class_field:
        Attribute of the reference with the class; by default the only plausible one. Of a reference raster,
        the column of its attribute table.
    layer:
        Layer of the reference; by default the only one that fits.
    legend:
        Names of the map's classes; by default those in the file.

    Raises
    ------
    InputError
        The map is missing, no raster of class numbers, or has no CRS; or an argument is no path.
    LabelError
        The reference cannot be used, lies elsewhere, or shares no class with the map; or one of the two has
        names and the other codes that are not the map's values.
    """
    map_path = given_path(map_path, "map_path")
    reference_path = given_path(reference_path, "reference_path")
    with (
        open_map(map_path, legend) as mapped,
        open_labels(reference_path, mapped.grid, class_field=class_field, layer=layer) as reference,
    ):
        match = match_classes(mapped, reference, reference_path)
        if not match.map_id:
            raise LabelError(
                f"map {map_path} and reference {reference_path} have no class in common",
                f"the map has {', '.join(mapped.legend.names)}; "
                f"the reference has {', '.join(reference.legend.names)}",
            )
        return compare(mapped, reference, match, reference_path, progress)
