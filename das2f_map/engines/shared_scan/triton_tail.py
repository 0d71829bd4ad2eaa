"""Triton kernels for the layers after the scan: a branch's tail, and fusion with the classifier.

Intermediate values are not written to memory. The tail keeps a tile of tokens on chip, from the scanned
values to the branch's output; the fusion keeps a tile of sub-tokens, from these outputs to the logits.
"""

# Triton has no types, and reads the annotations of parameters as its own (`tl.constexpr`).
# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls, allow-incomplete-defs

from __future__ import annotations

import triton
import triton.language as tl

from das2f_map.engines.shared_scan.triton_kernels import configs, product, stored


@triton.jit
def layer_norm(v, weight, bias, eps, WIDTH: tl.constexpr):
    """LayerNorm of rows (…, WIDTH)."""
    centred = v - (tl.sum(v, axis=1) / WIDTH)[:, None]
    variance = tl.sum(centred * centred, axis=1) / WIDTH
    return centred * tl.rsqrt(variance + eps)[:, None] * weight[None, :] + bias[None, :]


@triton.jit
def gelu(v):
    """``v Phi(v) = max(v, 0) - |v| Phi(-|v|)``, with Phi(-a) = 2^p(a), p being of degree 5.

    Within 1e-6 for all v, in a third of the instructions that ``erf`` takes. The coefficients minimise the
    largest error of ``a 2^p(a)``. p falls for all a, so nothing has to be clamped.
    """
    a = tl.abs(v)
    p = -4.881021159e-4 * a + 7.198718376e-3
    p = p * a - 5.214663222e-2
    p = p * a - 4.595958292e-1
    p = p * a - 1.151000500
    return tl.maximum(v, 0.0) - a * tl.exp2(p * a - 1.0)


@triton.autotune(
    configs(
        {"ROWS": 64, "num_warps": 4},
        {"ROWS": 128, "num_warps": 8},
        {"ROWS": 128, "num_warps": 4},
    ),
    key=["WIDTH", "HIDDEN", "DTYPE", "SUBTRACT"],
)
@triton.jit(do_not_specialize=["patch_stride", "x_cols", "cols"])
def tail(
    y_ptr,  # (outputs of the block, 4, P * P, D), tokens in the order of each direction
    patch_ptr,  # (3, n) int32: the wanted outputs, by number in y, by row and by column
    x_ptr,  # (row entries, column entries, x_stride): scan inputs
    gate_ptr,  # (row entries, column entries, D)
    tokens_ptr,  # (row entries, column entries, D)
    places_ptr,  # (4, P) int32: entries of the patch with start 0, in rows and columns of x and of the tokens
    vectors_ptr,  # (6, D): skip, out_norm's weight and bias, norm's weight and bias, the outer bias
    project_ptr,  # (D, D), inputs first, as all matrices here
    inner_ptr,  # (D, HIDDEN)
    inner_bias_ptr,  # (HIDDEN,)
    outer_ptr,  # (HIDDEN, D)
    minus_ptr,  # (n, P * P, D): subtracted from the output
    out_ptr,  # (n, P * P, D)
    patch_stride,  # from a patch's number to its row, and to its column
    x_cols,  # column entries
    cols,
    x_stride,
    eps,
    SUBTRACT: tl.constexpr,
    P: tl.constexpr,
    WIDTH: tl.constexpr,
    HIDDEN: tl.constexpr,
    STEP: tl.constexpr,
    DTYPE: tl.constexpr,
    ROWS: tl.constexpr,
):
    TOKENS: tl.constexpr = P * P
    first = tl.program_id(0).to(tl.int64) * ROWS
    patch = tl.load(patch_ptr + first // TOKENS).to(tl.int64)
    patch_row = tl.load(patch_ptr + patch_stride + first // TOKENS)
    patch_col = tl.load(patch_ptr + 2 * patch_stride + first // TOKENS)
    token = (first % TOKENS).to(tl.int32) + tl.arange(0, ROWS)
    transposed = token % P * P + token // P  # its place in column-major order
    row = first + tl.arange(0, ROWS)
    d = tl.arange(0, WIDTH)
    y_at = y_ptr + patch * (4 * TOKENS * WIDTH) + d[None, :]
    y = tl.load(y_at + (token * WIDTH)[:, None]).to(tl.float32)
    y += tl.load(y_at + ((TOKENS + transposed) * WIDTH)[:, None]).to(tl.float32)
    y += tl.load(y_at + ((2 * TOKENS + TOKENS - 1 - token) * WIDTH)[:, None]).to(tl.float32)
    y += tl.load(y_at + ((3 * TOKENS + TOKENS - 1 - transposed) * WIDTH)[:, None]).to(tl.float32)
    x_at = (tl.load(places_ptr + token // P) + patch_row).to(tl.int64) * x_cols
    x_at = (x_at + tl.load(places_ptr + P + token % P) + patch_col) * x_stride
    y += tl.load(x_ptr + x_at[:, None] + d[None, :]) * tl.load(vectors_ptr + d)[None, :]
    at = (tl.load(places_ptr + 2 * P + token // P) + patch_row).to(tl.int64) * cols
    at = (at + tl.load(places_ptr + 3 * P + token % P) + patch_col) * WIDTH
    gate = tl.load(gate_ptr + at[:, None] + d[None, :]).to(tl.float32)
    gated = gate * layer_norm(
        y, tl.load(vectors_ptr + WIDTH + d), tl.load(vectors_ptr + 2 * WIDTH + d), eps, WIDTH
    )
    project = tl.load(project_ptr + d[:, None] * WIDTH + d[None, :])
    residual = tl.load(tokens_ptr + at[:, None] + d[None, :]).to(tl.float32) + product(gated, project, DTYPE)
    normed = layer_norm(
        residual, tl.load(vectors_ptr + 3 * WIDTH + d), tl.load(vectors_ptr + 4 * WIDTH + d), eps, WIDTH
    )
    out = residual + tl.load(vectors_ptr + 5 * WIDTH + d)[None, :]
    for start in range(0, HIDDEN, STEP):
        h = start + tl.arange(0, STEP)
        inner = tl.load(inner_ptr + d[:, None] * HIDDEN + h[None, :])
        hidden = product(normed, inner, DTYPE) + tl.load(inner_bias_ptr + h)[None, :]
        out += product(gelu(hidden), tl.load(outer_ptr + h[:, None] * WIDTH + d[None, :]), DTYPE)
    at_out = row[:, None] * WIDTH + d[None, :]
    if SUBTRACT:
        out -= tl.load(minus_ptr + at_out).to(tl.float32)
    tl.store(out_ptr + at_out, stored(out, out_ptr.dtype.element_ty))


@triton.jit
def _fused(a, b, own, other, bias, DTYPE: tl.constexpr, CHANNELS: tl.constexpr):
    """``mean_c(a G) b`` with ``G = sigmoid(W [a; b] + bias)``, rows are sub-tokens."""
    gate = tl.sigmoid(product(a, own, DTYPE) + product(b, other, DTYPE) + bias[None, :])
    return (tl.sum(a * gate, axis=1) / CHANNELS)[:, None] * b


@triton.jit
def _aalf(ms, pan, common, vectors_ptr, gates_ptr, eps, DTYPE: tl.constexpr, CHANNELS: tl.constexpr):
    """AALF's block of one stage, rows are sub-tokens."""
    c = tl.arange(0, CHANNELS)
    square = c[:, None] * CHANNELS + c[None, :]
    size: tl.constexpr = CHANNELS * CHANNELS
    weight, bias = tl.load(vectors_ptr + c), tl.load(vectors_ptr + CHANNELS + c)
    specific = _fused(
        layer_norm(ms, weight, bias, eps, CHANNELS),
        layer_norm(pan, weight, bias, eps, CHANNELS),
        tl.load(gates_ptr + square),
        tl.load(gates_ptr + size + square),
        tl.load(vectors_ptr + 2 * CHANNELS + c),
        DTYPE,
        CHANNELS,
    )
    return _fused(
        layer_norm(specific, weight, bias, eps, CHANNELS),
        layer_norm(common, weight, bias, eps, CHANNELS),
        tl.load(gates_ptr + 2 * size + square),
        tl.load(gates_ptr + 3 * size + square),
        tl.load(vectors_ptr + 3 * CHANNELS + c),
        DTYPE,
        CHANNELS,
    )


@triton.autotune(
    configs(
        {"PATCHES": 16, "num_warps": 4},
        {"PATCHES": 32, "num_warps": 8},
        {"PATCHES": 32, "num_warps": 4},
    ),
    key=["CHANNELS", "CLASSES", "STAGES"],
)
@triton.jit(do_not_specialize=["n"])
def fusion(
    specific_ptr,  # (STAGES, 2, n, TOKENS, 4, CHANNELS): of MS and PAN, sub-tokens of a token together
    common_ptr,  # (2, n, TOKENS, 4, CHANNELS): of the last stage
    vectors_ptr,  # (STAGES, 4, CHANNELS): norm's weight and bias, the two gates' biases
    gates_ptr,  # (STAGES, 4, CHANNELS, CHANNELS), inputs first: of the first gate for a and b, of the second
    classifier_ptr,  # (TOKENS, 4 * CHANNELS, CLASSES)
    logits_ptr,  # (SPLITS, n, CLASSES): apart for each split of the tokens, so that sums have a fixed order
    n,
    eps,
    STAGES: tl.constexpr,  # the last stage comes first
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
    CLASSES: tl.constexpr,
    SPLITS: tl.constexpr,
    DTYPE: tl.constexpr,
    PATCHES: tl.constexpr,
):
    WIDTH: tl.constexpr = 4 * CHANNELS
    first = tl.program_id(0) * PATCHES
    per_split: tl.constexpr = TOKENS // SPLITS
    token = tl.program_id(1) * per_split
    sub = tl.arange(0, 4 * PATCHES)
    c = tl.arange(0, CHANNELS)
    f = tl.arange(0, WIDTH)
    classes = tl.arange(0, CLASSES)
    inside = ((first + sub // 4) < n)[:, None]
    at = (first + sub // 4).to(tl.int64) * TOKENS + token
    at = at[:, None] * WIDTH + (sub % 4 * CHANNELS)[:, None] + c[None, :]
    modality = tl.cast(n, tl.int64) * (TOKENS * WIDTH)
    logits = tl.zeros((PATCHES, CLASSES), dtype=tl.float32)
    for i in range(per_split):
        fused = tl.load(common_ptr + at, mask=inside, other=0.0).to(tl.float32)
        fused = 0.5 * (fused + tl.load(common_ptr + modality + at, mask=inside, other=0.0).to(tl.float32))
        for stage in tl.static_range(STAGES):
            at_stage = specific_ptr + 2 * stage * modality + at
            fused = _aalf(
                tl.load(at_stage, mask=inside, other=0.0).to(tl.float32),
                tl.load(at_stage + modality, mask=inside, other=0.0).to(tl.float32),
                fused,
                vectors_ptr + stage * 4 * CHANNELS,
                gates_ptr + stage * 4 * CHANNELS * CHANNELS,
                eps,
                DTYPE,
                CHANNELS,
            )
        features = tl.reshape(fused, (PATCHES, WIDTH))
        at_class = ((token + i) * WIDTH + f)[:, None] * CLASSES + classes[None, :]
        logits += product(features, tl.load(classifier_ptr + at_class), DTYPE)
        at += WIDTH
    row = first + tl.arange(0, PATCHES)
    at_row = tl.program_id(1).to(tl.int64) * n + row
    tl.store(logits_ptr + at_row[:, None] * CLASSES + classes[None, :], logits, mask=(row < n)[:, None])
