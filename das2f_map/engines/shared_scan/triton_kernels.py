"""Triton kernels of the shared scan: one direction of one branch over a block.

The algorithm is the one that :mod:`.torch_path` describes. It is split into three kernels, each parallel over
the starts *along* the rows and over channels:

``segments``     a row in the middle of patches, from a zero state, for every row and start: L_end, ylocal,
                 and the sum of dt up to each of its tokens
``border_rows``  a patch's first rows from a zero state, or its last rows from the state that reaches them
``wavefront``    the rows between, for all patches of a start at once, each patch's state in registers

A row meets exactly P patches, at the positions 0..P-1. The wavefront keeps the state of the patch with start
``s`` in slot ``s mod P``, so that nothing moves when one patch ends and another begins. Within a row the
running product of the decays is ``P_t = exp(A (dt_0 + … + dt_t))``, so ``W = C P`` needs no recurrence.
``y = ylocal + W H`` is for each channel a product (P tokens x N) . (N x P patches) on the tensor cores.

A direction is a way to read the maps and to number the patches: an offset and two strides, which are negative
for a reversed direction. The tokens of ``y`` are in the order in which the direction meets them. A table
gives the places of the P positions along an axis of a map, for a patch with start 0.

``dt`` is after its softplus. A is multiplied by log2 e, since the hardware has ``exp2``. States, sums and
exponentials are float32.
"""

# Triton has no types, and reads the annotations of parameters as its own (`tl.constexpr`).
# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls, allow-incomplete-defs

from __future__ import annotations

import os

import triton
import triton.language as tl

INTERPRETED: tl.constexpr = tl.constexpr(bool(triton.knobs.runtime.interpret))


def configs(*choices: dict[str, int]) -> list[triton.Config]:
    """Ways to launch a kernel: constants with ``num_warps``.

    The first is used. With ``DAS2F_MAP_AUTOTUNE=1`` all are timed and the fastest is used: the last bits of a
    result then depend on the winner, so that a map may differ from run to run.
    """
    made = []
    for choice in choices:
        constants = {name: value for name, value in choice.items() if name != "num_warps"}
        made.append(triton.Config(constants, num_warps=choice["num_warps"]))
    tune = os.environ.get("DAS2F_MAP_AUTOTUNE") == "1" and not INTERPRETED.value
    return made if tune else made[:1]


@triton.jit
def rounded(v, DTYPE: tl.constexpr):
    """float32 values with the precision of ``DTYPE``; for the interpreter, as NumPy has no bfloat16."""
    v = v.to(tl.float32)
    if tl.bfloat16 == DTYPE:
        bits = v.to(tl.int32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)
        return (bits & -65536).to(tl.float32, bitcast=True)
    elif tl.float16 == DTYPE:
        return v.to(tl.float16).to(tl.float32)
    else:
        return v


@triton.jit
def product(a, b, DTYPE: tl.constexpr):
    """Matrix product of operands in ``DTYPE`` with float32 sums."""
    if INTERPRETED:
        return tl.dot(rounded(a, DTYPE), rounded(b, DTYPE))
    elif tl.float32 == DTYPE:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="tf32x3")
    else:
        return tl.dot(a.to(DTYPE), b.to(DTYPE))


@triton.jit
def stored(v, DTYPE: tl.constexpr):
    """float32 values converted to ``DTYPE``."""
    if INTERPRETED:
        v = rounded(v, DTYPE)
    return v.to(DTYPE)


@triton.jit
def step_inputs(x_ptr, p_ptr, d, n, n_in, WIDTH: tl.constexpr, STATES: tl.constexpr):
    """Inputs of one step: x and dt, (BD,), B and C, (NP,)."""
    x = tl.load(x_ptr + d)
    dt = tl.load(p_ptr + d)
    b = tl.load(p_ptr + WIDTH + n, mask=n_in, other=0.0)
    c = tl.load(p_ptr + WIDTH + STATES + n, mask=n_in, other=0.0)
    return x, dt, b, c


@triton.jit
def step(a2, h, x, dt, b, c):
    """One step of the recurrence from state ``h`` (NP, BD): the new state and C · h, (BD,)."""
    h = tl.exp2(dt[None, :] * a2) * h + (dt * x)[None, :] * b[:, None]
    return h, tl.sum(h * c[:, None], axis=0)


# The largest BD here is CHANNEL_STEP in triton_calls.
_ROW_CONFIGS = configs({"BD": 64, "num_warps": 1}, {"BD": 32, "num_warps": 1}, {"BD": 64, "num_warps": 2})


@triton.autotune(_ROW_CONFIGS, key=["WIDTH", "STATES"])
@triton.jit(do_not_specialize=["along"])
def segments(
    x_ptr,  # the map's value that the direction meets first; strides lead across its rows and along them
    p_ptr,  # dt, then B, C
    a_ptr,  # (N, D), times log2 e
    table_ptr,  # (4, P) int64: of x across and along, of the parameters across and along
    end_ptr,  # (middle rows, along, N, D): L_end
    local_ptr,  # (middle rows, along, P, D): ylocal
    elapsed_ptr,  # (middle rows, along, P, D): dt_0 + … + dt_t
    x_across,
    x_along,
    p_across,
    p_along,
    along,
    EDGE: tl.constexpr,
    P: tl.constexpr,
    WIDTH: tl.constexpr,
    STATES: tl.constexpr,
    NP: tl.constexpr,
    BD: tl.constexpr,
):
    start = tl.program_id(0) // (WIDTH // BD)
    d = tl.program_id(0) % (WIDTH // BD) * BD + tl.arange(0, BD)
    n = tl.arange(0, NP)
    n_in = n < STATES
    in_states = n_in[:, None]
    # The row's entry in the patch that starts EDGE rows before it; that patch may be beyond the last one.
    x_row = x_ptr + tl.program_id(1).to(tl.int64) * x_across + tl.load(table_ptr + EDGE)
    p_row = p_ptr + tl.program_id(1).to(tl.int64) * p_across + tl.load(table_ptr + 2 * P + EDGE)
    x_row += start.to(tl.int64) * x_along
    p_row += start.to(tl.int64) * p_along
    a2 = tl.load(a_ptr + n[:, None] * WIDTH + d[None, :], mask=in_states, other=0.0)
    segment = tl.program_id(1).to(tl.int64) * along + start
    h = tl.zeros((NP, BD), dtype=tl.float32)
    elapsed = tl.zeros((BD,), dtype=tl.float32)
    at_x, at_p = x_row + tl.load(table_ptr + P), p_row + tl.load(table_ptr + 3 * P)
    x, dt, b, c = step_inputs(at_x, at_p, d, n, n_in, WIDTH, STATES)
    for t in range(P):
        # Load the next step's inputs while this one is computed.
        later = tl.minimum(t + 1, P - 1)
        at_x, at_p = x_row + tl.load(table_ptr + P + later), p_row + tl.load(table_ptr + 3 * P + later)
        next_x, next_dt, next_b, next_c = step_inputs(at_x, at_p, d, n, n_in, WIDTH, STATES)
        h, y = step(a2, h, x, dt, b, c)
        elapsed += dt
        tl.store(local_ptr + (segment * P + t) * WIDTH + d, y)
        tl.store(elapsed_ptr + (segment * P + t) * WIDTH + d, elapsed)
        x, dt, b, c = next_x, next_dt, next_b, next_c
    tl.store(end_ptr + segment * STATES * WIDTH + n[:, None] * WIDTH + d[None, :], h, mask=in_states)


@triton.autotune(_ROW_CONFIGS, key=["WIDTH", "STATES", "LAST"])
@triton.jit(do_not_specialize=["along"])
def border_rows(
    x_ptr,
    p_ptr,
    a_ptr,
    table_ptr,
    state_ptr,  # (across, along, N, D): written after the first rows, read before the last
    y_ptr,  # the first patch's first token in the direction's frame; a patch's tokens are (P * P, D)
    x_across,
    x_along,
    p_across,
    p_along,
    y_across,
    y_along,
    along,
    LAST: tl.constexpr,
    EDGE: tl.constexpr,
    P: tl.constexpr,
    WIDTH: tl.constexpr,
    STATES: tl.constexpr,
    NP: tl.constexpr,
    BD: tl.constexpr,
):
    start = tl.program_id(0) // (WIDTH // BD)
    patch = tl.program_id(1)
    d = tl.program_id(0) % (WIDTH // BD) * BD + tl.arange(0, BD)
    n = tl.arange(0, NP)
    n_in = n < STATES
    in_states = n_in[:, None]
    a2 = tl.load(a_ptr + n[:, None] * WIDTH + d[None, :], mask=in_states, other=0.0)
    at_state = state_ptr + (patch.to(tl.int64) * along + start) * STATES * WIDTH
    at_state += n[:, None] * WIDTH + d[None, :]
    at_y = y_ptr + patch.to(tl.int64) * y_across + start.to(tl.int64) * y_along
    x_patch = x_ptr + patch.to(tl.int64) * x_across + start.to(tl.int64) * x_along
    p_patch = p_ptr + patch.to(tl.int64) * p_across + start.to(tl.int64) * p_along
    h = tl.zeros((NP, BD), dtype=tl.float32)
    if LAST:
        h = tl.load(at_state, mask=in_states, other=0.0)
    top = P - EDGE if LAST else 0
    at_x = x_patch + tl.load(table_ptr + top) + tl.load(table_ptr + P)
    at_p = p_patch + tl.load(table_ptr + 2 * P + top) + tl.load(table_ptr + 3 * P)
    x, dt, b, c = step_inputs(at_x, at_p, d, n, n_in, WIDTH, STATES)
    for token in range(EDGE * P):
        later = tl.minimum(token + 1, EDGE * P - 1)  # load ahead, as in segments
        row, t = top + later // P, later % P
        at_x = x_patch + tl.load(table_ptr + row) + tl.load(table_ptr + P + t)
        at_p = p_patch + tl.load(table_ptr + 2 * P + row) + tl.load(table_ptr + 3 * P + t)
        next_x, next_dt, next_b, next_c = step_inputs(at_x, at_p, d, n, n_in, WIDTH, STATES)
        h, y = step(a2, h, x, dt, b, c)
        tl.store(at_y + (top * P + token) * WIDTH + d, stored(y, y_ptr.dtype.element_ty))
        x, dt, b, c = next_x, next_dt, next_b, next_c
    if not LAST:
        tl.store(at_state, h, mask=in_states)


@triton.autotune(
    configs(
        # Two of these fit on a multiprocessor, and one works while the other waits.
        {"BD": 8, "num_warps": 4},
        {"BD": 16, "num_warps": 8},
        {"BD": 8, "num_warps": 8},
        {"BD": 16, "num_warps": 16},
    ),
    key=["WIDTH", "STATES", "PRODUCT"],
)
@triton.jit(do_not_specialize=["across", "along"])
def wavefront(
    p_ptr,
    a_ptr,
    table_ptr,
    end_ptr,
    local_ptr,
    elapsed_ptr,
    enter_ptr,  # (across, along, N, D): states before the rows in the middle
    leave_ptr,  # and after them
    y_ptr,
    p_across,
    p_along,
    y_across,
    y_along,
    across,
    along,
    EDGE: tl.constexpr,
    P: tl.constexpr,
    WIDTH: tl.constexpr,
    STATES: tl.constexpr,
    NP: tl.constexpr,
    PRODUCT: tl.constexpr,
    BD: tl.constexpr,
):
    start = tl.program_id(0) // (WIDTH // BD)
    d = tl.program_id(0) % (WIDTH // BD) * BD + tl.arange(0, BD)
    n = tl.arange(0, NP)
    slot = tl.arange(0, P)
    t = tl.arange(0, P)
    n_in = n < STATES
    a2 = tl.load(a_ptr + n[None, :] * WIDTH + d[:, None], mask=n_in[None, :], other=0.0)  # (BD, NP)
    p_first = p_ptr + start.to(tl.int64) * p_along + tl.load(table_ptr + 2 * P + EDGE)
    columns = tl.load(table_ptr + 3 * P + t)
    in_state = n[None, :] * WIDTH + d[:, None]
    in_row = t[None, :] * WIDTH + d[:, None]
    state = tl.zeros((BD, NP, P), dtype=tl.float32)
    rows = across + P - 1 - 2 * EDGE
    segment = tl.cast(start, tl.int64)
    local = tl.load(local_ptr + segment * P * WIDTH + in_row)
    end_state = tl.load(end_ptr + segment * STATES * WIDTH + in_state, mask=n_in[None, :], other=0.0)
    end = tl.load(elapsed_ptr + (segment * P + P - 1) * WIDTH + d)
    for row in range(rows):
        token_row = row + EDGE
        position = (token_row - slot) & (P - 1)
        patch = token_row - position
        active = (position >= EDGE) & (position < P - EDGE) & (patch >= 0) & (patch < across)
        # Load the next row's values while this one is computed. The compiler loads ahead for the product.
        later = tl.cast(tl.minimum(row + 1, rows - 1), tl.int64) * along + start
        next_local = tl.load(local_ptr + later * P * WIDTH + in_row)
        at_end = end_ptr + later * STATES * WIDTH + in_state
        next_end_state = tl.load(at_end, mask=n_in[None, :], other=0.0)
        next_end = tl.load(elapsed_ptr + (later * P + P - 1) * WIDTH + d)
        # One patch begins here, unless none is left.
        segment = tl.cast(row, tl.int64) * along + start
        at_begun = enter_ptr + segment * STATES * WIDTH + in_state
        begun = tl.load(at_begun, mask=n_in[None, :] & (row < across), other=0.0)  # (BD, NP)
        state = tl.where((position == EDGE)[None, None, :], begun[:, :, None], state)

        at_c = p_first + tl.cast(row, tl.int64) * p_across + columns[:, None]
        c = tl.load(at_c + WIDTH + STATES + n[None, :], mask=n_in[None, :], other=0.0)  # (P, NP)
        elapsed = tl.load(elapsed_ptr + segment * P * WIDTH + in_row)  # (BD, P)
        weight = tl.exp2(a2[:, None, :] * elapsed[:, :, None]) * c[None, :, :]

        # (BD, P tokens, P patches); TF32 keeps more digits of the states than bfloat16, at little cost here.
        y = tl.dot(weight, state, input_precision=PRODUCT) + local[:, :, None]
        at_y = (patch.to(tl.int64) * y_across)[None, None, :] + start.to(tl.int64) * y_along
        at_y += ((position * P)[None, None, :] + t[None, :, None]) * WIDTH + d[:, None, None]
        tl.store(y_ptr + at_y, stored(y, y_ptr.dtype.element_ty), mask=active[None, None, :])

        state = tl.exp2(a2 * end[:, None])[:, :, None] * state + end_state[:, :, None]
        # One patch ends here.
        ended = token_row - (P - 1 - EDGE)
        ending = (position == P - 1 - EDGE) & (ended >= 0)
        at_leave = (tl.cast(ended, tl.int64) * along + start) * STATES * WIDTH + in_state
        tl.store(
            (leave_ptr + at_leave)[:, :, None] + tl.zeros((1, 1, P), dtype=tl.int32),
            state,
            mask=n_in[None, :, None] & ending[None, None, :],
        )
        local, end_state, end = next_local, next_end_state, next_end
