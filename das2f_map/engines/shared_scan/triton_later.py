"""Triton kernels of a stage after the first: from a patch's tokens to the inputs of its branches' tails.

These tokens have seen their whole patch, so each patch is computed for itself. Two kernels lead to the tail,
which is the first stage's:

``mixer_inputs``  norm, gate, depthwise convolution and its SiLU, scan input; a program takes a whole patch
``scan_patches``  projection to dt, B and C, and the scan; a program takes one direction of a patch

A direction is scanned line by line. A line's dt, B and C wait in a scratch of a few kilobytes, which the next
line overwrites. The tail adds the four directions, as in the first stage: a program that scanned all four and
added them would read and write their sum as often as the tail reads them.
"""

# Triton has no types, and reads the annotations of parameters as its own (`tl.constexpr`).
# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls, allow-incomplete-defs

from __future__ import annotations

import triton
import triton.language as tl

from das2f_map.engines.shared_scan.triton_kernels import configs, product, step, step_inputs, stored
from das2f_map.engines.shared_scan.triton_tail import layer_norm


@triton.jit
def softplus(v):
    """``log(1 + exp(v)) = max(v, 0) + log(1 + e)`` with ``e = exp(-|v|)``.

    ``log(1 + e) = 2 artanh(s)`` with ``s = e / (2 + e)``, a series in s. s is at most 1/3, so seven terms
    are exact in float32. A small result keeps its digits, which the logarithm of ``1 + e`` would lose.
    """
    e = tl.exp2(tl.abs(v) * -1.4426950408889634)
    s = e / (2.0 + e)
    q = s * s
    p = 2.0 / 13.0 * q + 2.0 / 11.0
    p = p * q + 2.0 / 9.0
    p = p * q + 2.0 / 7.0
    p = p * q + 2.0 / 5.0
    p = p * q + 2.0 / 3.0
    return tl.maximum(v, 0.0) + s * (p * q + 2.0)


@triton.jit
def _silu(v):
    return v * tl.sigmoid(v)


@triton.autotune(
    configs({"ROWS": 64, "num_warps": 8}, {"ROWS": 64, "num_warps": 4}, {"ROWS": 128, "num_warps": 8}),
    key=["WIDTH", "DTYPE"],
)
@triton.jit
def mixer_inputs(
    tokens_ptr,  # (n, P * P, D)
    vectors_ptr,  # (4, D): norm's weight and bias, the convolution's bias, the embedding's bias
    taps_ptr,  # (9, D): the convolution's weights for each output channel
    sources_ptr,  # (9, 3, D) int32: row and column of a tap's source, from the token, and its channel
    gate_weight_ptr,  # (D, D), inputs first, as all matrices here
    embed_ptr,  # (D, D)
    normed_ptr,  # (n, P * P, D), scratch
    gate_ptr,  # (n, P * P, D)
    x_ptr,  # (n, P * P, D)
    eps,
    P: tl.constexpr,
    WIDTH: tl.constexpr,
    DTYPE: tl.constexpr,
    ROWS: tl.constexpr,
):
    TOKENS: tl.constexpr = P * P
    begin = tl.program_id(0).to(tl.int64) * TOKENS * WIDTH
    d = tl.arange(0, WIDTH)
    square = d[:, None] * WIDTH + d[None, :]
    weight, bias = tl.load(vectors_ptr + d), tl.load(vectors_ptr + WIDTH + d)
    # One stage: loading ahead would take most of the shared memory, for a few turns of the loop.
    for first in tl.range(0, TOKENS, ROWS, num_stages=1):
        at = begin + (first + tl.arange(0, ROWS))[:, None] * WIDTH + d[None, :]
        u = layer_norm(tl.load(tokens_ptr + at), weight, bias, eps, WIDTH)
        tl.store(normed_ptr + at, u)
        tl.store(gate_ptr + at, _silu(product(u, tl.load(gate_weight_ptr + square), DTYPE)))
    tl.debug_barrier()  # a token's neighbours are other threads'
    for first in range(0, TOKENS, ROWS):
        token = first + tl.arange(0, ROWS)
        image = tl.zeros((ROWS, WIDTH), dtype=tl.float32) + tl.load(vectors_ptr + 2 * WIDTH + d)[None, :]
        for tap in range(9):
            source = sources_ptr + tap * 3 * WIDTH + d
            row = (token // P)[:, None] + tl.load(source)[None, :]
            col = (token % P)[:, None] + tl.load(source + WIDTH)[None, :]
            inside = (row >= 0) & (row < P) & (col >= 0) & (col < P)
            at_source = begin + (row * P + col) * WIDTH + tl.load(source + 2 * WIDTH)[None, :]
            near = tl.load(normed_ptr + at_source, mask=inside, other=0.0)
            image += near * tl.load(taps_ptr + tap * WIDTH + d)[None, :]
        x = product(_silu(image), tl.load(embed_ptr + square), DTYPE)
        x += tl.load(vectors_ptr + 3 * WIDTH + d)[None, :]
        tl.store(x_ptr + begin + token[:, None] * WIDTH + d[None, :], x)


@triton.jit
def _token(place, direction, P: tl.constexpr):
    """The token that a direction meets at a place of its order: rows, columns, and both backwards."""
    place += direction // 2 * (P * P - 1 - 2 * place)
    return place + direction % 2 * (place % P * P + place // P - place)


@triton.autotune(
    configs(
        {"COLUMNS": 16, "num_warps": 1}, {"COLUMNS": 32, "num_warps": 1}, {"COLUMNS": 16, "num_warps": 2}
    ),
    key=["WIDTH", "STATES", "DTYPE"],
)
@triton.jit
def scan_patches(
    x_ptr,  # (n, P * P, D)
    source_ptr,  # (n, P * P, D): the x whose parameters are used
    project_ptr,  # (4, D, D + 2 N), inputs first: to dt before its softplus, B and C
    bias_ptr,  # (4, D + 2 N)
    a_ptr,  # (4, N, D), times log2 e
    line_ptr,  # (4, n, LINE, D + 2 N), scratch: dt, B and C of a line
    y_ptr,  # (n, 4, P * P, D), tokens in the order of each direction
    P: tl.constexpr,
    WIDTH: tl.constexpr,
    STATES: tl.constexpr,
    NP: tl.constexpr,
    LINE: tl.constexpr,
    DTYPE: tl.constexpr,
    COLUMNS: tl.constexpr,  # of dt, B and C at a time: fewer keep the states in registers meanwhile
):
    TOKENS: tl.constexpr = P * P
    FEATURES: tl.constexpr = WIDTH + 2 * STATES
    # Neighbouring programs take the same direction: its weights stay in first-level cache.
    patch = tl.program_id(0).to(tl.int64)
    k = tl.program_id(1)
    d, n = tl.arange(0, WIDTH), tl.arange(0, NP)
    n_in = n < STATES
    a2 = tl.load(a_ptr + (k * STATES + n[:, None]) * WIDTH + d[None, :], mask=n_in[:, None], other=0.0)
    project = project_ptr + (k * WIDTH + d[:, None]) * FEATURES
    at_x = x_ptr + patch * TOKENS * WIDTH
    at_source = source_ptr + patch * TOKENS * WIDTH + d[None, :]
    at_line = line_ptr + (tl.program_id(1) * tl.num_programs(0) + patch) * LINE * FEATURES
    in_line = at_line + tl.arange(0, LINE)[:, None] * FEATURES
    at_y = y_ptr + (patch * 4 + k) * TOKENS * WIDTH + d
    h = tl.zeros((NP, WIDTH), dtype=tl.float32)
    for first in range(0, TOKENS, LINE):
        token = _token(first + tl.arange(0, LINE), k, P)
        source = tl.load(at_source + token[:, None] * WIDTH)
        tl.debug_barrier()  # the line before has been read
        for column in range(0, FEATURES, COLUMNS):
            f = column + tl.arange(0, COLUMNS)
            f_in = (f < FEATURES)[None, :]
            v = product(source, tl.load(project + f[None, :], mask=f_in, other=0.0), DTYPE)
            v += tl.load(bias_ptr + k * FEATURES + f, mask=f < FEATURES, other=0.0)[None, :]
            if column < WIDTH:
                v = softplus(v)
            tl.store(in_line + f[None, :], v, mask=f_in)
        tl.debug_barrier()
        x, dt, b, c = step_inputs(at_x + _token(first, k, P) * WIDTH, at_line, d, n, n_in, WIDTH, STATES)
        for t in range(LINE):
            # Load the next step's inputs while this one is computed.
            later = tl.minimum(t + 1, LINE - 1)
            at_next = at_x + _token(first + later, k, P) * WIDTH
            next_x, next_dt, next_b, next_c = step_inputs(
                at_next, at_line + later * FEATURES, d, n, n_in, WIDTH, STATES
            )
            h, y = step(a2, h, x, dt, b, c)
            tl.store(at_y + (first + t) * WIDTH, stored(y, y_ptr.dtype.element_ty))
            x, dt, b, c = next_x, next_dt, next_b, next_c
