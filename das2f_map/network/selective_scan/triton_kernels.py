"""Triton kernels of the selective scan. Only :mod:`.triton_scan` imports this: it needs Triton.

A program scans one sequence in one direction, for a block of channels with all their states. Lanes are
channels: the states of a channel lie in one thread, and the sum over them crosses no lanes.

Everything is computed in float32, whatever the tensors are. ``exp(dt A)`` is computed as ``2^(dt A log2 e)``,
since the hardware has ``exp2``.
"""

# Triton has no types, and reads the annotations of parameters as its own (`tl.constexpr`).
# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls, allow-incomplete-defs

from __future__ import annotations

import triton
import triton.language as tl

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def _step_vectors(b_ptr, c_ptr, at_b, at_c, n, n_in):
    """B and C of a step, float32 (NP, 1)."""
    b = tl.load(b_ptr + at_b + n, mask=n_in, other=0.0).to(tl.float32)
    c = tl.load(c_ptr + at_c + n, mask=n_in, other=0.0).to(tl.float32)
    return b[:, None], c[:, None]


@triton.jit
def scan_forward(
    x_ptr,  # (batch, steps, width)
    dt_ptr,  # (batch, K, steps, width)
    a_ptr,  # (K, states, width) float32
    b_ptr,  # (batch, K, steps, states), last axis dense
    c_ptr,
    d_ptr,  # (K, width) float32
    order_ptr,  # (K, steps) int64
    y_ptr,  # (batch, K, steps, width)
    kept_ptr,  # (batch, K, chunks, states, width) float32: the state before every chunk
    directions,
    steps,
    b_batch,
    b_direction,
    b_step,
    c_batch,
    c_direction,
    c_step,
    CHUNK: tl.constexpr,
    KEEP: tl.constexpr,
    WIDTH: tl.constexpr,
    STATES: tl.constexpr,
    NP: tl.constexpr,
    BD: tl.constexpr,
):
    sequence = tl.program_id(0).to(tl.int64)
    batch = sequence // directions
    k = sequence % directions
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    n = tl.arange(0, NP)
    d_in = d < WIDTH
    n_in = n < STATES
    both = n_in[:, None] & d_in[None, :]
    # A padded state has A = B = C = 0: it stays zero.
    a = tl.load(a_ptr + (k * STATES + n[:, None]) * WIDTH + d[None, :], mask=both, other=0.0) * LOG2E
    skip = tl.load(d_ptr + k * WIDTH + d, mask=d_in, other=0.0)
    chunks = (steps + CHUNK - 1) // CHUNK
    h = tl.zeros((NP, BD), dtype=tl.float32)
    for t in range(steps):
        if KEEP:  # noqa: SIM102 - known when the kernel is compiled, the inner one only when it runs
            if t % CHUNK == 0:
                at = (sequence * chunks + t // CHUNK) * STATES * WIDTH
                tl.store(kept_ptr + at + n[:, None] * WIDTH + d[None, :], h, mask=both)
        token = tl.load(order_ptr + k * steps + t)
        at = (sequence * steps + token) * WIDTH + d
        dt = tl.load(dt_ptr + at, mask=d_in, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + (batch * steps + token) * WIDTH + d, mask=d_in, other=0.0).to(tl.float32)
        b, c = _step_vectors(
            b_ptr,
            c_ptr,
            batch * b_batch + k * b_direction + token * b_step,
            batch * c_batch + k * c_direction + token * c_step,
            n,
            n_in,
        )
        h = tl.exp2(dt[None, :] * a) * h + (dt * x)[None, :] * b
        y = tl.sum(h * c, axis=0) + skip * x
        tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=d_in)


@triton.jit
def scan_backward(
    x_ptr,
    dt_ptr,
    a_ptr,
    b_ptr,
    c_ptr,
    d_ptr,
    order_ptr,
    kept_ptr,
    grad_y_ptr,  # (batch, K, steps, width)
    before_ptr,  # (batch, K, blocks, CHUNK, NP, BD) float32, scratch: the state before every step of a chunk
    grad_x_ptr,  # (batch, K, steps, width) float32, to be summed over K
    grad_dt_ptr,  # (batch, K, steps, width)
    grad_a_ptr,  # (batch, K, states, width) float32, to be summed over the batch
    grad_b_ptr,  # (blocks, batch, K, steps, states) float32, to be summed over the blocks
    grad_c_ptr,
    grad_d_ptr,  # (batch, K, width) float32, to be summed over the batch
    directions,
    steps,
    b_batch,
    b_direction,
    b_step,
    c_batch,
    c_direction,
    c_step,
    CHUNK: tl.constexpr,
    WIDTH: tl.constexpr,
    STATES: tl.constexpr,
    NP: tl.constexpr,
    BD: tl.constexpr,
):
    sequence = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    batch = sequence // directions
    k = sequence % directions
    d = block * BD + tl.arange(0, BD)
    n = tl.arange(0, NP)
    d_in = d < WIDTH
    n_in = n < STATES
    both = n_in[:, None] & d_in[None, :]
    at_a = (k * STATES + n[:, None]) * WIDTH + d[None, :]
    a = tl.load(a_ptr + at_a, mask=both, other=0.0)
    skip = tl.load(d_ptr + k * WIDTH + d, mask=d_in, other=0.0)
    chunks = (steps + CHUNK - 1) // CHUNK
    scratch = (sequence * tl.num_programs(1) + block) * CHUNK * NP * BD
    at_scratch = before_ptr + scratch + n[:, None] * BD + tl.arange(0, BD)[None, :]
    partial = (block * tl.num_programs(0) + sequence) * steps * STATES
    g = tl.zeros((NP, BD), dtype=tl.float32)  # gradient of the state, from the later steps
    grad_a = tl.zeros((NP, BD), dtype=tl.float32)
    grad_d = tl.zeros((BD,), dtype=tl.float32)
    for i in range(chunks):
        chunk = chunks - 1 - i
        first = chunk * CHUNK
        length = tl.minimum(CHUNK, steps - first)
        at_kept = kept_ptr + (sequence * chunks + chunk) * STATES * WIDTH
        h = tl.load(at_kept + n[:, None] * WIDTH + d[None, :], mask=both, other=0.0)
        for s in range(length):
            tl.store(at_scratch + s * NP * BD, h)
            token = tl.load(order_ptr + k * steps + first + s)
            dt = tl.load(dt_ptr + (sequence * steps + token) * WIDTH + d, mask=d_in, other=0.0).to(tl.float32)
            x = tl.load(x_ptr + (batch * steps + token) * WIDTH + d, mask=d_in, other=0.0).to(tl.float32)
            at_b = batch * b_batch + k * b_direction + token * b_step
            b = tl.load(b_ptr + at_b + n, mask=n_in, other=0.0).to(tl.float32)
            h = tl.exp2(dt[None, :] * (a * LOG2E)) * h + (dt * x)[None, :] * b[:, None]
        tl.debug_barrier()
        for s in range(length):
            at_step = length - 1 - s
            token = tl.load(order_ptr + k * steps + first + at_step)
            at = (sequence * steps + token) * WIDTH + d
            dt = tl.load(dt_ptr + at, mask=d_in, other=0.0).to(tl.float32)
            x = tl.load(x_ptr + (batch * steps + token) * WIDTH + d, mask=d_in, other=0.0).to(tl.float32)
            b, c = _step_vectors(
                b_ptr,
                c_ptr,
                batch * b_batch + k * b_direction + token * b_step,
                batch * c_batch + k * c_direction + token * c_step,
                n,
                n_in,
            )
            grad_y = tl.load(grad_y_ptr + at, mask=d_in, other=0.0).to(tl.float32)
            decay = tl.exp2(dt[None, :] * (a * LOG2E))
            decayed = decay * tl.load(at_scratch + at_step * NP * BD)
            h = decayed + (dt * x)[None, :] * b
            g += grad_y[None, :] * c
            at_n = partial + token * STATES + n
            tl.store(grad_c_ptr + at_n, tl.sum(h * grad_y[None, :], axis=1), mask=n_in)
            tl.store(grad_b_ptr + at_n, tl.sum(g * (dt * x)[None, :], axis=1), mask=n_in)
            through_b = tl.sum(g * b, axis=0)
            through_decay = g * decayed
            tl.store(grad_x_ptr + at, through_b * dt + skip * grad_y, mask=d_in)
            grad_dt = tl.sum(through_decay * a, axis=0) + through_b * x
            tl.store(grad_dt_ptr + at, grad_dt.to(grad_dt_ptr.dtype.element_ty), mask=d_in)
            grad_a += through_decay * dt[None, :]
            grad_d += grad_y * x
            g = g * decay
        tl.debug_barrier()  # the next chunk overwrites the states
    tl.store(grad_a_ptr + batch * directions * STATES * WIDTH + at_a, grad_a, mask=both)
    tl.store(grad_d_ptr + sequence * WIDTH + d, grad_d, mask=d_in)
