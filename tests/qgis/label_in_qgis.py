"""Labels the first unit of a sample in QGIS's own form, and prints what an interpreter sees as JSON.

Run by QGIS's own Python: ``python3 label_in_qgis.py FILE CLASS PICTURE``. Nothing of this package is
imported.
"""

import json
import os
import sys

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from qgis.core import QgsApplication, QgsProviderRegistry, QgsVectorLayer
from qgis.gui import QgsAttributeForm, QgsGui
from qgis.PyQt.QtWidgets import QComboBox, QLabel, QWidget


def main():
    path, chosen, picture = sys.argv[1:]
    application = QgsApplication([], True)
    application.initQgis()
    QgsGui.editorWidgetRegistry().initEditors()
    details = QgsProviderRegistry.instance().providerMetadata("ogr").querySublayers(path)
    (first, *_) = [d for d in details if d.name() == "sample"]
    layer = QgsVectorLayer(first.uri(), first.name(), "ogr")
    # As a user who drags the file in, without a style of any other place.
    setups = {f.name(): layer.editorWidgetSetup(i) for i, f in enumerate(layer.fields())}
    feature = next(layer.getFeatures())
    layer.startEditing()
    form = QgsAttributeForm(layer, feature)
    form.resize(420, 240)
    form.show()
    application.processEvents()
    form.grab().save(picture)
    # Hidden widgets have no place on the form.
    seen = [w for w in form.findChildren(QWidget) if w.isVisible()]
    boxes = [w for w in seen if isinstance(w, QComboBox)]
    before = [box.currentText() for box in boxes]
    boxes[0].setCurrentText(chosen)
    saved = form.save()
    layer.commitChanges()
    again = QgsVectorLayer(first.uri(), first.name(), "ogr")
    hidden = [c.name for c in layer.attributeTableConfig().columns() if c.hidden]
    print(
        json.dumps(
            {
                "layers": [d.name() for d in details],
                "valid": layer.isValid(),
                "widgets": {name: setup.type() for name, setup in setups.items()},
                "labels": [w.text() for w in seen if isinstance(w, QLabel)],
                "choices": [[box.itemText(i) for i in range(box.count())] for box in boxes],
                "at_first": before,
                "saved": saved,
                "hidden_columns": hidden,
                "read_only": [
                    f.name() for i, f in enumerate(layer.fields()) if layer.editFormConfig().readOnly(i)
                ],
                "renderer": type(layer.renderer()).__name__,
                "classes": sorted({str(f["class"]) for f in again.getFeatures()}),
                "of_the_first": str(next(again.getFeatures())["class"]),
            }
        ),
        flush=True,
    )
    # Tearing QGIS down from Python crashes now and then, which says nothing about the file.
    os._exit(0)


main()
