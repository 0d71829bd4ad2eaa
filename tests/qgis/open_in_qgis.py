"""Opens products in QGIS as a user would drag them in, and prints what came up as JSON.

Run by QGIS's own Python: ``python3 open_in_qgis.py OUTPUT_FOLDER FILE...``. Files are rasters or
vector files, of which every layer is opened. Nothing of this package is imported.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from qgis.core import (
    QgsApplication,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsProviderRegistry,
    QgsRasterLayer,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor


def render(layer, path):
    settings = QgsMapSettings()
    settings.setLayers([layer])
    settings.setDestinationCrs(layer.crs())
    settings.setExtent(layer.extent())
    settings.setOutputSize(QSize(300, 240))
    settings.setBackgroundColor(QColor(255, 0, 255, 0))
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    image = job.renderedImage()
    image.save(path, "PNG")
    seen = {}
    for y in range(image.height()):
        for x in range(image.width()):
            c = image.pixelColor(x, y)
            key = c.name() if c.alpha() == 255 else "transparent"
            seen[key] = seen.get(key, 0) + 1
    return seen


def raster(path):
    layer = QgsRasterLayer(path, Path(path).name, "gdal")
    renderer = layer.renderer()
    out = {
        "valid": layer.isValid(),
        "crs": layer.crs().authid(),
        "wkt": layer.crs().toProj(),
        "renderer": type(renderer).__name__,
        "nodata": layer.dataProvider().sourceNoDataValue(1),
    }
    if hasattr(renderer, "classes"):
        out["classes"] = [[c.value, c.label, c.color.name()] for c in renderer.classes()]
    return layer, out


def vectors(path):
    details = QgsProviderRegistry.instance().providerMetadata("ogr").querySublayers(path)
    for sub in details:
        layer = QgsVectorLayer(sub.uri(), sub.name(), "ogr")
        renderer = layer.renderer()
        out = {
            "layer": sub.name(),
            "valid": layer.isValid(),
            "crs": layer.crs().authid(),
            "wkt": layer.crs().toProj(),
            "features": layer.featureCount(),
            "spatial": layer.isSpatial(),
            "fields": [f.name() for f in layer.fields()],
            "renderer": None if renderer is None else type(renderer).__name__,
        }
        if hasattr(renderer, "categories"):
            out["classes"] = [
                [int(c.value()), c.label(), c.symbol().color().name()] for c in renderer.categories()
            ]
        elif hasattr(renderer, "symbol"):
            out["color"] = renderer.symbol().color().name()
        yield layer, out


def main():
    folder, paths = sys.argv[1], sys.argv[2:]
    application = QgsApplication([], False)
    application.initQgis()
    found = {}
    for path in paths:
        name = Path(path).name
        layers = [raster(path)] if path.endswith(".tif") else list(vectors(path))
        for number, (layer, out) in enumerate(layers):
            if layer.isValid() and layer.isSpatial():
                picture = str(Path(folder) / f"{name}.{number}.png")
                out["picture"] = picture
                out["colors"] = render(layer, picture)
        found[name] = [out for _, out in layers]
        del layers
    print(json.dumps(found), flush=True)
    # Tearing QGIS down from Python crashes now and then, which says nothing about the files.
    os._exit(0)


main()
