"""Compare a class map with reference data: ``das2f-map evaluate``."""

from __future__ import annotations

from pathlib import Path

from das2f_map.assess.map_comparison import Evaluation, compare, match_classes, numbered_legend, open_map
from das2f_map.errors import LabelError
from das2f_map.labels.files import open_labels
from das2f_map.legend import Legend
from das2f_map.products.class_raster import read_legend, read_unsure
from das2f_map.progress import Progress, silent


def evaluate_map(
    map_path: str | Path,
    reference_path: str | Path,
    *,
    class_field: str | None = None,
    legend: Legend | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Compare a class raster with reference polygons, points (any CRS) or a label raster (any grid).

    Parameters
    ----------
    map_path:
        Raster of class numbers; 0 and nodata are unmapped. Pixels of the class ``unsure`` of
        `classify --reject` are counted apart.
    class_field:
        Attribute of the reference with the class; by default the only plausible one.
    legend:
        Names of the map's classes; by default those in the file.

    Raises
    ------
    InputError
        The map is missing, no raster of class numbers, or has no CRS.
    LabelError
        The reference cannot be used, lies elsewhere, or shares no class with the map; or one of the two has
        names and the other codes that are not the map's values.
    """
    with open_map(map_path) as mapped:
        legend = legend or read_legend(map_path) or numbered_legend(mapped)
        unsure = read_unsure(map_path)
        if unsure in legend.ids and len(legend) > 1:
            legend = legend.without(unsure)
        with open_labels(reference_path, mapped.grid, class_field=class_field) as reference:
            match = match_classes(legend, reference, mapped.path, str(reference_path))
            if not match.map_id:
                raise LabelError(
                    f"map {map_path} and reference {reference_path} have no class in common",
                    f"the map has {', '.join(legend.names)}; "
                    f"the reference has {', '.join(reference.legend.names)}",
                )
            return compare(mapped, legend, reference, match, str(reference_path), progress, unsure)
