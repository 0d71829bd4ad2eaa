"""Play the interpreter: give the points of a sample the class of the polygon that they lie in.

    python examples/label_sample.py points.gpkg examples/gulf/labels.gpkg

Points outside the polygons stay without a class, as where an interpreter cannot tell. The polygons show clear
objects only, so the figures that follow are an exercise, not an assessment.
"""

from __future__ import annotations

import argparse
import sqlite3
from contextlib import closing

import geopandas as gpd

# Triggers of a GeoPackage name these functions. They never call them here: no geometry changes.
SPATIAL = ("ST_IsEmpty", "ST_MinX", "ST_MaxX", "ST_MinY", "ST_MaxY")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("sample", help="file of das2f-map sample")
    parser.add_argument("labels", help="polygons with the field class")
    chosen = parser.parse_args()
    points = gpd.read_file(chosen.sample, layer="sample", engine="pyogrio")[["sample_id", "geometry"]]
    labels = gpd.read_file(chosen.labels, engine="pyogrio").to_crs(points.crs)[["class", "geometry"]]
    found = gpd.sjoin(points, labels, predicate="within").drop_duplicates("sample_id")
    # Only the field changes: the design stays in the file.
    with closing(sqlite3.connect(chosen.sample)) as database, database:
        for name in SPATIAL:
            database.create_function(name, 1, lambda geometry: None)
        database.executemany(
            "UPDATE sample SET class = ? WHERE sample_id = ?",
            zip(found["class"].tolist(), found["sample_id"].tolist(), strict=True),
        )
    print(f"{len(found):,} of {len(points):,} points have a class")


if __name__ == "__main__":
    main()
