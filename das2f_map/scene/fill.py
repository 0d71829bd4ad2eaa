"""Fill invalid pixels around valid ones, and count the invalid pixels of patches.

Invalid pixels are filled ring by ring from the valid area outwards. Each takes the mean of those of its eight
neighbours that are valid or in an earlier ring. Its value depends only on pixels within ``radius`` of it. So
it is the same in every block with a margin that wide, and the same for all patches that see the pixel. It
lies between the smallest and the largest valid value around; neither the nodata value nor the other side of
the image enters it. Each band is filled separately.
"""

from __future__ import annotations

import numpy as np

from das2f_map.types import Bool, Float32, Float64

_AROUND = tuple((r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if (r, c) != (0, 0))


def fill_invalid(values: Float32, radius: int) -> Float32:
    """Values with invalid pixels filled up to a distance from valid ones, see the module's note.

    Parameters
    ----------
    values:
        float32 (bands, h, w), NaN where invalid.
    radius:
        Chebyshev distance from valid pixels, pixels.

    Returns
    -------
    float32 (bands, h, w), NaN farther than ``radius`` from valid pixels.
    """
    out = values.copy()
    for plane in out:
        valid = np.isfinite(plane)
        if valid.all() or not valid.any():
            continue
        near = np.pad(plane, 1, constant_values=np.nan).astype(np.float64)
        known = np.pad(valid, 1)
        for _ in range(radius):
            row, col = np.nonzero(_grown(known) & ~known)
            # The outermost frame lies outside the image.
            inside = (row > 0) & (col > 0) & (row < known.shape[0] - 1) & (col < known.shape[1] - 1)
            row, col = row[inside], col[inside]
            if not row.size:
                break
            total = np.zeros(row.size)
            count = np.zeros(row.size, dtype=np.int64)
            for dr, dc in _AROUND:
                total += np.where(known[row + dr, col + dc], near[row + dr, col + dc], 0.0)
                count += known[row + dr, col + dc]
            near[row, col] = total / count
            known[row, col] = True
        plane[:] = near[1:-1, 1:-1]
    return out


def _grown(mask: Bool) -> Bool:
    """A mask grown by the eight pixels around each of its pixels."""
    out = mask.copy()
    out[1:] |= mask[:-1]
    out[:-1] |= mask[1:]
    wide = out.copy()
    wide[:, 1:] |= out[:, :-1]
    wide[:, :-1] |= out[:, 1:]
    return wide


def invalid_shares(invalid: Bool, size: int) -> Float64:
    """Part of each ``size`` × ``size`` square that is invalid, 0..1.

    Parameters
    ----------
    invalid:
        bool (h + size - 1, w + size - 1).

    Returns
    -------
    float64 (h, w), by the square's first pixel.
    """
    if not invalid.any():
        return np.zeros((invalid.shape[0] - size + 1, invalid.shape[1] - size + 1))
    total = np.zeros((invalid.shape[0] + 1, invalid.shape[1] + 1), dtype=np.int64)
    total[1:, 1:] = invalid.cumsum(axis=0).cumsum(axis=1)
    inside = total[size:, size:] - total[:-size, size:] - total[size:, :-size] + total[:-size, :-size]
    return inside / float(size * size)
