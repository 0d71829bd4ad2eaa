"""Invalid pixels around valid ones: how many a patch has, and what the network sees in their place.

Invalid pixels are filled ring by ring from the valid area outwards: each takes the mean of its neighbours
(of the eight around it) that are valid or in an earlier ring. What a pixel becomes depends only on pixels
within ``radius`` of it, so it is the same in every block that has so much around it, and the same for all
patches that see it. It lies between the smallest and the largest valid value around; nothing comes from
the nodata value or from the other side of the image. Each band is filled by itself.
"""

from __future__ import annotations

import numpy as np

from das2f_map.types import Bool, Float32, Float64

_AROUND = tuple((r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if (r, c) != (0, 0))


def fill_invalid(values: Float32, radius: int) -> Float32:
    """Invalid pixels within ``radius`` (Chebyshev distance) of valid ones filled, see the module's note.

    Parameters
    ----------
    values:
        float32 (bands, h, w), NaN where invalid.
    radius:
        Pixels.

    Returns
    -------
    float32 (bands, h, w), NaN farther from valid pixels.
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
    """With the eight pixels around each pixel."""
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
    total = np.zeros((invalid.shape[0] + 1, invalid.shape[1] + 1), dtype=np.int64)
    total[1:, 1:] = invalid.cumsum(axis=0).cumsum(axis=1)
    inside = total[size:, size:] - total[:-size, size:] - total[size:, :-size] + total[:-size, :-size]
    return inside / float(size * size)
