"""Compiles every Triton kernel for NVIDIA GPUs, without a GPU; run by test_triton_kernels.py.

The interpreter accepts what the compiler does not: types that change within a loop, shapes of products, more
shared memory than there is.
"""

from __future__ import annotations

import functools
from typing import Any

import triton
import triton.language as tl
from kernel_cases import Case, report
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.autotuner import Autotuner

from das2f_map.engines.shared_scan import triton_kernels, triton_later, triton_tail
from das2f_map.engines.shared_scan.tensor_bytes import LINE
from das2f_map.network.selective_scan import triton_kernels as selective

# Bytes that a program may have.
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}
SIZES = {"WIDTH": 64, "STATES": 24, "NP": 32}
POINTERS = {
    "order_ptr": "*i64",
    "table_ptr": "*i64",
    "patch_ptr": "*i32",
    "places_ptr": "*i32",
    "sources_ptr": "*i32",
}
KERNELS: dict[str, tuple[Any, dict[str, object], tuple[str, ...]]] = {
    # The kernel, its constants, and which of its tensors are half types where it computes in one.
    "scan_forward": (
        selective.scan_forward,
        {**SIZES, "CHUNK": 16, "KEEP": True, "BD": 32, "num_warps": 1},
        ("x_ptr", "dt_ptr", "b_ptr", "c_ptr", "y_ptr"),
    ),
    "scan_backward": (
        selective.scan_backward,
        {**SIZES, "CHUNK": 16, "BD": 32, "num_warps": 1},
        ("x_ptr", "dt_ptr", "b_ptr", "c_ptr", "grad_y_ptr", "grad_dt_ptr"),
    ),
    "segments": (triton_kernels.segments, {**SIZES, "P": 16, "EDGE": 2}, ()),
    "border_rows": (triton_kernels.border_rows, {**SIZES, "P": 16, "EDGE": 2, "LAST": True}, ("y_ptr",)),
    "wavefront": (triton_kernels.wavefront, {**SIZES, "P": 16, "EDGE": 2}, ("y_ptr",)),
    "tail": (
        triton_tail.tail,
        {"SUBTRACT": True, "P": 16, "WIDTH": 64, "HIDDEN": 256, "STEP": 64},
        ("y_ptr", "project_ptr", "inner_ptr", "outer_ptr", "out_ptr"),
    ),
    "fusion": (
        triton_tail.fusion,
        {"STAGES": 2, "TOKENS": 256, "CHANNELS": 16, "CLASSES": 16, "SPLITS": 8},
        ("specific_ptr",),
    ),
    "mixer_inputs": (
        triton_later.mixer_inputs,
        {"P": 16, "WIDTH": 64},
        ("gate_weight_ptr", "embed_ptr"),
    ),
    "scan_patches": (
        triton_later.scan_patches,
        {**SIZES, "P": 16, "LINE": LINE},
        ("project_ptr", "y_ptr"),
    ),
}


PRODUCTS = ("wavefront", "tail", "mixer_inputs", "scan_patches", "fusion")
"""Kernels that multiply on tensor cores; of the first four in float32, too."""


def compiled(name: str, architecture: int, half: bool) -> dict[str, float]:
    """Shared memory that a kernel takes, over the memory there is, for each of its configurations."""
    kernel, constants, halves = KERNELS[name]
    choices = [({}, constants.get("num_warps"))]
    constants = {n: v for n, v in constants.items() if n != "num_warps"}
    if isinstance(kernel, Autotuner):
        choices = [(c.kwargs, c.num_warps) for c in kernel.configs]
        kernel = kernel.fn
    if name == "wavefront":
        constants["PRODUCT"] = "tf32" if half else "tf32x3"
    if "DTYPE" in kernel.arg_names:
        constants["DTYPE"] = tl.bfloat16 if half and name != "fusion" else tl.float32
    found = {}
    for extra, num_warps in choices:
        given = {**constants, **extra}
        signature = {}
        for n in kernel.arg_names:
            pointer = "*bf16" if half and n in halves else POINTERS.get(n, "*fp32")
            plain = "constexpr" if n in given else "fp32" if n == "eps" else "i32"
            signature[n] = pointer if n.endswith("_ptr") else plain
        aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(signature) if n.endswith("_ptr")}
        binary = triton.compile(
            ASTSource(kernel, signature=signature, constexprs=given, attrs=aligned),
            target=GPUTarget("cuda", architecture, 32),
            options={"num_warps": num_warps},
        )
        if name in PRODUCTS:
            assert "mma" in binary.asm["ptx"], "no tensor-core product"
        found[f"{extra} {num_warps}"] = binary.metadata.shared / SHARED_MEMORY[architecture]
    return found


CASES: dict[str, Case] = {f"{name}-90-bf16": functools.partial(compiled, name, 90, True) for name in KERNELS}
CASES |= {f"{name}-80-fp32": functools.partial(compiled, name, 80, False) for name in PRODUCTS[:4]}

if __name__ == "__main__":
    report(CASES)
