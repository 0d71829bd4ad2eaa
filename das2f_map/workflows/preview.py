"""Draw a class map as a picture: ``das2f-map preview``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from das2f_map.errors import OutputError
from das2f_map.legend import NODATA_CLASS
from das2f_map.outputs.staging import StagedOutputs
from das2f_map.outputs.write_errors import writing
from das2f_map.products.map_figure import PAPER, draw_map, read_at_a_glance
from das2f_map.scene.virtual_files import with_sources


def preview(
    map_path: str | Path,
    png_path: str | Path,
    *,
    title: str | None = None,
    max_pixels: int = 2_000_000,
    dpi: int = 200,
    overwrite: bool = False,
) -> Path:
    """Draw a class map, of this package or a foreign one, as PNG.

    At most ``max_pixels`` are read: from the map's overviews, or without them as the most frequent class of
    several pixels (in large maps as one of them). Shares in the legend are those of the pixels read. North is
    up: a rotated grid is turned.

    Parameters
    ----------
    map_path:
        uint8 raster of classes. Its own legend, attribute table or colour table is used if there is
        one, else classes get generic names and colours.
    png_path:
        The picture.
    title:
        Above the map; none by default.
    max_pixels:
        Read at most this many.
    dpi:
        Dots per inch of the picture, which is about 9 inches wide.
    overwrite:
        Replace an existing picture.

    Returns
    -------
    Path
        The picture.

    Raises
    ------
    InputError
        The map cannot be read, or is no class map.
    OutputError
        The picture cannot be written, or exists already.
    """
    png_path = Path(png_path)
    if png_path.suffix.lower() != ".png":
        raise OutputError(f"output {png_path} is not a PNG", "give it the extension .png")
    glance = read_at_a_glance(map_path, max_pixels)
    classes = glance.classes
    present, counts = np.unique(classes[classes != NODATA_CLASS], return_counts=True)
    shares = dict(zip(present.tolist(), (counts / max(1, counts.sum())).tolist(), strict=True))
    figure = draw_map(classes, glance.grid, glance.full, glance.legend, shares, title)
    with StagedOutputs(inputs=with_sources([map_path]), overwrite=overwrite) as staged:
        picture = staged.stage(png_path)
        with writing(picture):
            figure.savefig(
                picture, format="png", dpi=dpi, facecolor=PAPER, metadata={"Software": "das2f-map"}
            )
    return png_path
