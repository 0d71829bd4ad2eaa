"""Passes over all pixels of a block, compiled (``pixels.cpp``), with the same results in NumPy.

The library is built with the package. Where the build found no compiler there is none, and NumPy does the
work; the numbers are the same to the last bit.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np

from das2f_map.scene.finite import all_finite
from das2f_map.types import Float32, Float64, UInt8

_ABI: Final = 1
_CHUNK: Final = 1 << 15
"""Values that NumPy normalises at once: in float64 they fit into a core's cache."""

_pointer, _int64, _double = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    """The loaded library; ``None`` where it was not built, or for another version."""
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = Path(__file__).parent / f"_pixels{suffix}"
        if not path.exists():
            continue
        try:
            library = ctypes.CDLL(str(path))
            if library.das2f_pixels_abi() != _ABI:
                return None
            library.das2f_normalise.argtypes = (_pointer, _int64, _double, _double, _pointer)
            library.das2f_add_values.argtypes = (_pointer, _pointer, _int64, _pointer)
            library.das2f_add_known.argtypes = (_pointer, _pointer, _int64, _pointer, _pointer)
            library.das2f_normalise.restype = None
            library.das2f_add_values.restype = library.das2f_add_known.restype = None
        except (OSError, AttributeError):
            return None
        return library
    return None


def is_compiled() -> bool:
    """Whether the compiled library is in use."""
    return _library() is not None


def normalise(values: Float32, mean: float, std: float, out: Float32) -> None:
    """``(value - mean) / std`` in float64, rounded to float32; 0 where that is not finite.

    Parameters
    ----------
    values, out:
        float32, contiguous, of the same size; they may be the same array.
    mean, std:
        Of the values.

    Raises
    ------
    ValueError
        An array is not contiguous, or the sizes differ.
    """
    if not (values.flags.c_contiguous and out.flags.c_contiguous and values.size == out.size):
        raise ValueError("values and out must be contiguous arrays of the same size")
    library = _library()
    if library is not None:
        library.das2f_normalise(values.ctypes.data, values.size, mean, std, out.ctypes.data)
        return
    given, made, exact = values.reshape(-1), out.reshape(-1), np.empty(_CHUNK, dtype=np.float64)
    for start in range(0, given.size, _CHUNK):
        part, done = given[start : start + _CHUNK], made[start : start + _CHUNK]
        room = exact[: part.size]
        # Subtracted in float64: float32 would lose digits where the mean is far larger than the spread.
        room[:] = part
        room -= mean
        room /= std
        with np.errstate(over="ignore"):
            done[:] = room
        if not all_finite(done):
            np.nan_to_num(done, copy=False, nan=0.0, posinf=0.0, neginf=0.0)


def add_by_class(ids: UInt8, values: Float64, sums: Float64) -> None:
    """``sums[id] += value`` for each pixel, one after the other in their order.

    Parameters
    ----------
    ids, values:
        uint8 and float64 of the same size.
    sums:
        float64 (256,); changed.
    """
    ids, values = np.ascontiguousarray(ids).reshape(-1), np.ascontiguousarray(values).reshape(-1)
    library = _library()
    if library is not None and sums.flags.c_contiguous and values.dtype == np.float64:
        library.das2f_add_values(ids.ctypes.data, values.ctypes.data, ids.size, sums.ctypes.data)
        return
    # bincount adds in order: first the sums so far, one for each id (0 + sum is exact), then value by value.
    every = np.arange(256, dtype=np.uint8)
    weights = np.concatenate([sums, values])
    sums[:] = np.bincount(np.concatenate([every, ids]), weights, minlength=256)


def add_known_by_class(ids: UInt8, values: Float32, sums: Float64, known: Float64) -> None:
    """As :func:`add_by_class` for float32 values, without those that are not finite; ``known`` counts."""
    ids, values = np.ascontiguousarray(ids).reshape(-1), np.ascontiguousarray(values).reshape(-1)
    library = _library()
    if library is not None and values.dtype == np.float32:
        places = (ids.ctypes.data, values.ctypes.data, ids.size, sums.ctypes.data, known.ctypes.data)
        library.das2f_add_known(*places)
        return
    finite = np.isfinite(values)
    known += np.bincount(ids, finite, minlength=256)
    add_by_class(ids, np.where(finite, values, 0).astype(np.float64), sums)
