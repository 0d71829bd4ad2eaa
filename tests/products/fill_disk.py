"""Writes all products to a disk that is too small, and prints the error and the files that are left."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from maps import AWKWARD_LEGEND, confidence_of, write_map

from das2f_map.errors import Das2fMapError
from das2f_map.outputs.staging import StagedOutputs
from das2f_map.products.polygons import write_polygons

folder = Path(sys.argv[1])
# Noise does not compress.
classes = np.random.default_rng(0).choice(np.array(AWKWARD_LEGEND.ids, dtype=np.uint8), (400, 400))
error = "no error"
try:
    with StagedOutputs() as out:
        raster = out.stage(folder / "m.tif")
        write_map(
            raster, classes, confidence_path=out.stage(folder / "c.tif"), confidence=confidence_of(classes)
        )
        write_polygons(raster, out.stage(folder / "m.gpkg"), AWKWARD_LEGEND)
except Das2fMapError as e:
    error = f"{type(e).__name__}: {e}"
print(json.dumps([error, sorted(p.name for p in folder.rglob("*"))]))
