"""Compare a class map with reference data: ``das2f-map evaluate``."""

from __future__ import annotations

from pathlib import Path

from das2f_map.assess.map_comparison import Evaluation, compare, match_classes, numbered_legend, open_map
from das2f_map.errors import LabelError
from das2f_map.labels.files import open_labels
from das2f_map.legend import Legend
from das2f_map.products.class_raster import read_legend
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
        Raster of class numbers; 0 and nodata are unmapped.
    class_field:
        Attribute of the reference with the class; by default the only plausible one.
    legend:
        What the map's numbers mean; by default what the file says.

    Raises
    ------
    InputError
        The map is missing, no raster of class numbers, or has no CRS.
    LabelError
        The reference cannot be used, lies elsewhere, or shares no class with the map; or one of the two has
        names and the other codes that are not the map's values.
    """
    with open_map(map_path) as (dataset, grid):
        mapped_legend = legend or read_legend(map_path) or numbered_legend(dataset, grid, str(map_path))
        with open_labels(reference_path, grid, class_field=class_field) as reference:
            pairs, matched_by = match_classes(mapped_legend, reference, str(map_path), str(reference_path))
            if not pairs:
                raise LabelError(
                    f"map {map_path} and reference {reference_path} have no class in common",
                    f"the map has {', '.join(mapped_legend.names)}; "
                    f"the reference has {', '.join(reference.legend.names)}",
                )
            return compare(
                dataset, grid, mapped_legend, reference, pairs, matched_by, str(reference_path), progress
            )
