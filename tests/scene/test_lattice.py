"""The pixels of a draft, against slices of NumPy and their centres on the map."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS

from das2f_map.scene.grid import Grid, Window
from das2f_map.scene.lattice import Lattice


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize(("height", "width"), [(12, 17), (1, 2), (5, 30)])
def test_cells_and_their_pixels(step: int, height: int, width: int) -> None:
    skewed = Affine(2.0, 0.3, 500.0, -0.2, -2.5, 900.0)
    grid, lattice = Grid(height, width, skewed, CRS.from_epsg(32633)), Lattice(step)
    numbers = np.arange(height * width).reshape(height, width)
    kept = numbers[lattice.offset :: step, lattice.offset :: step]
    cells, centred = lattice.cells(grid), lattice.centred(grid)
    assert (cells.height, cells.width) == (centred.height, centred.width) == kept.shape
    assert cells.pixel_to_map(0, 0) == pytest.approx(grid.pixel_to_map(0, 0))
    for (row, col), number in np.ndenumerate(kept):
        r, c = divmod(int(number), width)
        assert centred.pixel_to_map(row + 0.5, col + 0.5) == pytest.approx(
            grid.pixel_to_map(r + 0.5, c + 0.5)
        )
        assert cells.pixel_to_map(row, col) == pytest.approx(grid.pixel_to_map(row * step, col * step))
        # The pixel is the cell's middle one: no other is nearer to the middle.
        away = max(abs(r + 0.5 - (row + 0.5) * step), abs(c + 0.5 - (col + 0.5) * step))
        assert away == (0 if step % 2 else 0.5)
    if not kept.size:
        return
    part = Window(kept.shape[0] // 2, kept.shape[1] // 3, 1, kept.shape[1] - kept.shape[1] // 3)
    reach = numbers[lattice.reach(part).slices()]
    np.testing.assert_array_equal(lattice.taken(reach), kept[part.slices()])
    wanted = kept[part.slices()] % 2 == 0
    np.testing.assert_array_equal(
        np.sort(reach[lattice.spread(wanted)]), np.sort(kept[part.slices()][wanted])
    )
