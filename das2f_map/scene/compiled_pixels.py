"""Passes over all pixels of a block, compiled (``pixels.cpp``), with the same results in NumPy.

The library is built with the package. Where the build found no compiler there is none, and NumPy does the
work; the numbers are the same to the last bit.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import math
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from das2f_map.scene.finite import all_finite
from das2f_map.types import Bool, Float32, Float64, Int64, UInt8

_ABI: Final = 2
_CHUNK: Final = 1 << 15
"""Values that NumPy normalises at once: in float64 they fit into a core's cache."""

_pointer, _int64, _double, _float = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double, ctypes.c_float


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
            library.das2f_integral.argtypes = (_pointer, _int64, _int64, _pointer)
            library.das2f_integral.restype = None
            library.das2f_blank.argtypes = (_pointer, _int64, _float)
            library.das2f_blank.restype = None
            library.das2f_count.argtypes = (_pointer, _int64, _pointer)
            library.das2f_sum_parts.argtypes = (*2 * (_pointer,), _int64, _float, _int64, *2 * (_pointer,))
            library.das2f_follow.argtypes = (_pointer, _int64, _pointer, _int64, *3 * (_pointer,))
            library.das2f_follow.restype = _int64
            library.das2f_normalise.restype = None
            library.das2f_add_values.restype = library.das2f_add_known.restype = None
            library.das2f_count.restype = library.das2f_sum_parts.restype = None
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


def count_values(ids: UInt8) -> Int64:
    """How often each value occurs: int64 (256,)."""
    library = _library()
    if library is None:
        return np.bincount(ids.reshape(-1), minlength=256)
    ids, counts = np.ascontiguousarray(ids), np.zeros(256, dtype=np.int64)
    library.das2f_count(ids.ctypes.data, ids.size, counts.ctypes.data)
    return counts


class PartSums(NamedTuple):
    """Sums of values in whole parts, and the least and greatest value; see :func:`sum_parts`."""

    known: int
    low: float
    high: float
    sum: int
    squares: int


def sum_parts(values: Float32, wanted: Bool, unit: int, shift: int) -> PartSums:
    """Sums of values that are wanted and no NaN, in whole parts of 1 / ``unit``.

    Whole numbers add up alike in any order. With no value the ends are infinite.

    Parameters
    ----------
    values, wanted:
        float32 and bool of the same size; values lie between 0 and 1.
    unit, shift:
        Parts of 1, a power of 2; bits that the squares of the parts lose.
    """
    library = _library()
    if library is not None:
        values, wanted = np.ascontiguousarray(values), np.ascontiguousarray(wanted)
        ends = np.array([np.inf, -np.inf], dtype=np.float32)
        sums = np.zeros(3, dtype=np.int64)
        data = (values.ctypes.data, wanted.ctypes.data, values.size)
        library.das2f_sum_parts(*data, unit, shift, ends.ctypes.data, sums.ctypes.data)
        (known, total, squares), (low, high) = sums.tolist(), ends.tolist()
        return PartSums(known, low, high, total, squares)
    known = total = squares = 0
    low, high = math.inf, -math.inf
    rows = max(1, _CHUNK // max(1, values.shape[-1]))
    for start in range(0, len(values), rows):
        part = values[start : start + rows][wanted[start : start + rows]]
        part = part[~np.isnan(part)]
        if part.size:
            low, high = min(low, float(part.min())), max(high, float(part.max()))
            whole = (part * np.float32(unit)).astype(np.int64)
            known, total = known + part.size, total + int(whole.sum())
            squares += int((whole * whole >> shift).sum())
    return PartSums(known, low, high, total, squares)


def followed(onward: Int64) -> tuple[Int64, Int64, int]:
    """Elements in the order in which each leads to the next: first the lists that end, then the rings.

    Parameters
    ----------
    onward:
        int64 (n,): the element after each; -1 after the last of a list. No two lead to the same one.

    Returns
    -------
    int64 (n,), the elements; int64 (lists,), where each list or ring starts; the number of lists that end.
    These are in the order of their first elements; a ring starts with its smallest element.
    """
    count = len(onward)
    has_previous = np.zeros(count, dtype=bool)
    has_previous[onward[onward >= 0]] = True
    heads = np.flatnonzero(~has_previous)
    library = _library()
    if library is not None:
        onward = np.ascontiguousarray(onward)
        seen, order, starts = np.zeros(count, np.uint8), np.empty(count, np.int64), np.empty(count, np.int64)
        arrays = (seen.ctypes.data, order.ctypes.data, starts.ctypes.data)
        found = library.das2f_follow(onward.ctypes.data, count, heads.ctypes.data, len(heads), *arrays)
        return order, starts[:found].copy(), len(heads)
    nexts, visited = onward.tolist(), bytearray(count)
    walked: list[int] = []
    begins: list[int] = []
    for start in (*heads.tolist(), *range(count)):
        if not visited[start]:
            begins.append(len(walked))
        i = start
        while i >= 0 and not visited[i]:
            visited[i] = 1
            walked.append(i)
            i = nexts[i]
    return np.array(walked, dtype=np.int64), np.array(begins, dtype=np.int64), len(heads)


def blank(values: Float32, value: float) -> None:
    """Put NaN in the place of a value, in a contiguous array."""
    library = _library()
    if library is not None and values.flags.c_contiguous:
        library.das2f_blank(values.ctypes.data, values.size, value)
    else:
        values[values == np.float32(value)] = np.nan


def integral(values: Float64) -> Float64:
    """Sums over all pixels above and left of each corner: float64 (h + 1, w + 1) of (h, w) values.

    Each row is added up from the left, then the rows from the top.
    """
    height, width = values.shape
    library = _library()
    if library is not None:
        values, out = np.ascontiguousarray(values), np.empty((height + 1, width + 1))
        library.das2f_integral(values.ctypes.data, height, width, out.ctypes.data)
        return out
    out = np.zeros((height + 1, width + 1))
    np.cumsum(np.cumsum(values, axis=1), axis=0, out=out[1:, 1:])
    return out
