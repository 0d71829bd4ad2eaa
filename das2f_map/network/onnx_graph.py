"""The network as an ONNX graph of plain operators, which every runtime has: no Loop, no Scan.

The graph is built operator by operator with :mod:`onnx.helper`, not traced. So it does not depend on torch's
version, and its layout suits the runtime:

- The selective scan is unrolled over its 256 steps, six operators each. The four branches of a stage (SPVM
  and CMDA of both images) and the four directions take a step together, as one tensor ``(4, 4, B, N, D)``.
  On a CPU a step of a few patches then stays in the cache: 12 ms per patch and core in batches of 4, where a
  two-level scan with fewer, larger operators takes 19 ms. Only decays ``exp(dt A)`` ≤ 1 are multiplied, so
  the scan is numerically as safe as the recurrence.
- Linear operations with nothing between them are folded, in float64: the two layers of the classifier,
  BatchNorm and 4x4 convolution, step size projection and parameter projection, the four skip weights.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from das2f_map.network.aalf import Aalf, GatedFusion
from das2f_map.network.cmda import CmdaBranch
from das2f_map.network.das2f import Das2fNet, Stage
from das2f_map.network.mixer import ScanParameters, SpacePreservingConv
from das2f_map.network.scan_order import DIRECTIONS, scan_order
from das2f_map.network.spvm import SpvmMixer
from das2f_map.network.stem import PIXELS_PER_TOKEN, PatchEmbedding

if TYPE_CHECKING:
    import onnx

OPSETS: Final = range(17, 23)
"""Opsets the graph can be written in; LayerNormalization begins with 17."""
INPUT_NAMES: Final = ("ms", "pan")
OUTPUT_NAME: Final = "logits"


class _Graph:
    """The nodes and constants added so far."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def __call__(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator with one output; returns the output's name."""
        return self.several(kind, *inputs, outputs=1, **attributes)[0]

    def several(self, kind: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """Add an operator; returns the names of its outputs."""
        from onnx import helper

        names = [f"{kind.lower()}_{len(self.nodes)}" + (f"_{i}" if i else "") for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names

    def constant(self, values: Tensor | npt.NDArray[Any] | list[int]) -> str:
        """Add a constant, float32 from a tensor or int64 from a list; returns its name."""
        from onnx import numpy_helper

        if isinstance(values, Tensor):
            values = values.detach().float().numpy()
        array = np.ascontiguousarray(np.array(values, np.int64) if isinstance(values, list) else values)
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def reshape(self, value: str, *shape: int) -> str:
        """Reshape; a size of 0 keeps that dimension."""
        return self("Reshape", value, self.constant(list(shape)))

    def transpose(self, value: str, *axes: int) -> str:
        return self("Transpose", value, perm=list(axes))

    def split(self, value: str, sizes: list[int], axis: int) -> list[str]:
        return self.several("Split", value, self.constant(sizes), outputs=len(sizes), axis=axis)

    def linear(self, value: str, layer: nn.Linear) -> str:
        """A linear layer on the last axis."""
        product = self("MatMul", value, self.constant(layer.weight.t()))
        return product if layer.bias is None else self("Add", product, self.constant(layer.bias))

    def layer_norm(self, value: str, norm: nn.LayerNorm) -> str:
        weight, bias = self.constant(norm.weight), self.constant(norm.bias)
        return self("LayerNormalization", value, weight, bias, axis=-1, epsilon=norm.eps)

    def silu(self, value: str) -> str:
        return self("Mul", value, self("Sigmoid", value))

    def mlp(self, value: str, mlp: nn.Sequential) -> str:
        first, second = mlp[0], mlp[2]
        assert isinstance(first, nn.Linear)
        assert isinstance(second, nn.Linear)
        hidden = self.linear(value, first)
        erf = self("Erf", self("Mul", hidden, self.constant(torch.tensor(0.5**0.5))))
        half = self("Mul", hidden, self.constant(torch.tensor(0.5)))
        return self.linear(self("Mul", half, self("Add", erf, self.constant(torch.tensor(1.0)))), second)


def build_graph(network: Das2fNet, *, opset: int, metadata: dict[str, str], version: str) -> onnx.ModelProto:
    """The network as an ONNX model: ``ms`` (B, bands, P, P) and ``pan`` (B, 1, 4P, 4P) to ``logits`` (B, C).

    Parameters
    ----------
    network:
        In evaluation mode, on the CPU; it is not changed.
    opset:
        In :data:`OPSETS`.
    metadata, version:
        Written to the file: key → text, and the version of this software.
    """
    from onnx import TensorProto, helper

    network = copy.deepcopy(network).eval()
    network.fold_classifier()
    config = network.config
    p = config.patch_size
    g = _Graph()
    logits = _network(g, network)
    g.nodes.append(helper.make_node("Identity", [logits], [OUTPUT_NAME]))

    def value(name: str, *shape: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])

    fine = PIXELS_PER_TOKEN * p
    graph = helper.make_graph(
        g.nodes,
        "das2f",
        [value("ms", config.ms_bands, p, p), value("pan", 1, fine, fine)],
        [value(OUTPUT_NAME, config.classes)],
        g.constants,
        doc_string="Normalised patches of MS and PAN pixels to class logits, see the metadata.",
    )
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(
        graph,
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
        producer_name="das2f-map",
        producer_version=version,
    )
    helper.set_model_props(model, metadata)
    return model


def _network(g: _Graph, network: Das2fNet) -> str:
    p = network.config.patch_size
    # Bilinear enlargement is linear along rows and along columns: one small matrix does both.
    enlarge = F.interpolate(
        torch.eye(p, dtype=torch.float64)[None], scale_factor=PIXELS_PER_TOKEN, mode="linear"
    )[0]  # (P, 4P)
    fine = g("MatMul", g("MatMul", g.constant(enlarge.t()), "ms"), g.constant(enlarge))
    ms = _embedding(g, fine, network.ms_stem.embedding)
    expanded = _convolution(g, "pan", network.pan_stem.expand)
    pan = _embedding(g, expanded, network.pan_stem.embedding)
    outputs = []
    for stage in network.stages:
        assert isinstance(stage, Stage)
        own_ms, own_pan, ms, pan = _stage(g, stage, ms, pan, p)
        outputs.append((g("Sub", own_ms, ms), g("Sub", own_pan, pan)))
    fused = _subtokens(g, g("Mul", g("Add", ms, pan), g.constant(torch.tensor(0.5))), network)
    for fusion, (own_ms, own_pan) in zip(network.fusions, reversed(outputs), strict=True):
        assert isinstance(fusion, Aalf)
        specific = [g.layer_norm(_subtokens(g, v, network), fusion.norm) for v in (own_ms, own_pan)]
        both = _gated(g, specific[0], specific[1], fusion.fuse_specific)
        norms = [g.layer_norm(v, fusion.norm) for v in (both, fused)]
        fused = _gated(g, norms[0], norms[1], fusion.fuse_common)
    assert isinstance(network.classifier, nn.Linear)
    return g.linear(g.reshape(fused, 0, network.config.flat_features), network.classifier)


def _convolution(g: _Graph, image: str, conv: nn.Conv2d, scale: Tensor | None = None) -> str:
    """A convolution with its bias; ``scale`` multiplies the weights of each output channel, not the bias."""
    assert conv.bias is not None
    weight = conv.weight if scale is None else conv.weight.double() * scale[:, None, None, None]
    pad = int(conv.padding[0])
    return g(
        "Conv",
        image,
        g.constant(weight),
        g.constant(conv.bias),
        kernel_shape=list(conv.kernel_size),
        strides=list(conv.stride),
        pads=[pad] * 4,
        group=conv.groups,
    )


def _embedding(g: _Graph, image: str, embedding: PatchEmbedding) -> str:
    """Tokens (B, P, P, D) of fine pixels."""
    tokens = g.transpose(_convolution(g, image, embedding.conv), 0, 2, 3, 1)
    return g.layer_norm(tokens, embedding.norm)


def _subtokens(g: _Graph, tokens: str, network: Das2fNet) -> str:
    p, c = network.config.patch_size, network.config.fusion_channels
    blocks = g.transpose(g.reshape(tokens, 0, p, p, c, 2, 2), 0, 1, 4, 2, 5, 3)
    return g.reshape(blocks, 0, 4 * p * p, c)


def _gated(g: _Graph, a: str, b: str, fusion: GatedFusion) -> str:
    channels = fusion.gate.out_features
    gate = g("Sigmoid", g.linear(g("Concat", a, b, axis=-1), fusion.gate))
    total = g("ReduceSum", g("Mul", a, gate), g.constant([-1]), keepdims=1)
    return g("Mul", g("Mul", total, g.constant(torch.tensor(1.0 / channels))), b)


def _stage(g: _Graph, stage: Stage, ms: str, pan: str, p: int) -> list[str]:
    """SPVM's outputs for MS and PAN, then CMDA's, tokens (B, P, P, D) each."""
    cross = stage.cmda
    mixers: list[SpvmMixer | CmdaBranch] = [stage.spvm_ms.mixer, stage.spvm_pan.mixer, cross.ms, cross.pan]
    norms = (stage.spvm_ms.norm, stage.spvm_pan.norm, cross.norm, cross.norm)
    out_norms = (stage.spvm_ms.mixer.out_norm, stage.spvm_pan.mixer.out_norm, cross.out_norm, cross.out_norm)
    mlps = (stage.spvm_ms.mlp, stage.spvm_pan.mlp, cross.ms.mlp, cross.pan.mlp)
    tokens = (ms, pan, ms, pan)
    normed = [g.layer_norm(t, norm) for t, norm in zip(tokens, norms, strict=True)]
    x = [_scan_input(g, u, mixer.space, p) for u, mixer in zip(normed, mixers, strict=True)]
    # CMDA's swap: each image is scanned with the parameters of the other.
    parameters_of = (0, 1, 3, 2)
    parameters = [_parameters(g, x[i], mixers[i].scan, p) for i in parameters_of]
    scanned = _scan(g, x, parameters, [mixers[i].scan for i in parameters_of], p)
    out = []
    for i, mixer in enumerate(mixers):
        gate = g.silu(g.linear(normed[i], mixer.gate))
        y = g.reshape(g.layer_norm(scanned[i], out_norms[i]), 0, p, p, mixer.gate.out_features)
        residual = g("Add", tokens[i], g.linear(g("Mul", y, gate), mixer.out_proj))
        out.append(g("Add", residual, g.mlp(g.layer_norm(residual, norms[i]), mlps[i])))
    return out


def _scan_input(g: _Graph, tokens: str, space: SpacePreservingConv, p: int) -> str:
    """Scan input ``x`` (B, L, D) of normalised tokens."""
    s, channels, width = PIXELS_PER_TOKEN, space.depthwise.in_channels, space.embed.out_channels
    blocks = g.transpose(g.reshape(tokens, 0, p, p, channels, s, s), 0, 3, 1, 4, 2, 5)
    image = g.silu(_convolution(g, g.reshape(blocks, 0, channels, p * s, p * s), space.depthwise))
    bn, embed = space.norm, copy.deepcopy(space.embed)
    assert bn.running_mean is not None
    assert bn.running_var is not None
    assert embed.bias is not None
    scale = bn.weight.double() * (bn.running_var.double() + bn.eps).rsqrt()
    shift = (embed.bias.double() - bn.running_mean.double()) * scale + bn.bias.double()
    with torch.no_grad():
        embed.bias.copy_(shift)
    x = g.transpose(_convolution(g, image, embed, scale), 0, 2, 3, 1)
    return g.reshape(x, 0, p * p, width)


def _parameters(g: _Graph, x: str, scan: ScanParameters, p: int) -> str:
    """Scan parameters (L, K, B, D + 2N): for each direction dt before its softplus, then B, then C."""
    r = scan.dt_rank
    x_proj = scan.x_proj.double()  # (K, r + 2N, D)
    weight = torch.cat([scan.dt_proj.double() @ x_proj[:, :r], x_proj[:, r:]], dim=1)  # (K, D + 2N, D)
    bias = F.pad(scan.dt_bias, (0, 2 * scan.state_size))
    values = weight.shape[1]
    out = g("MatMul", x, g.constant(weight.reshape(-1, weight.shape[2]).t()))
    out = g("Add", out, g.constant(bias.reshape(-1)))
    return g.transpose(g.reshape(out, 0, p * p, DIRECTIONS, values), 1, 2, 0, 3)


def _scan(g: _Graph, x: list[str], parameters: list[str], scans: list[ScanParameters], p: int) -> list[str]:
    """The scan of each branch, summed over the directions: (B, L, D) each."""
    steps, branches, states = p * p, len(x), scans[0].state_size
    width = scans[0].D.shape[1]
    order = scan_order(p)

    def stacked(values: list[str], axis: int) -> str:
        at = g.constant([axis])
        return g("Concat", *(g("Unsqueeze", v, at) for v in values), axis=axis)

    def by_step(values: list[str]) -> str:
        """K values (L, 1, branches, B, ·) in token order → (L, K, …), each in its direction's step order."""
        each = [g("Gather", v, g.constant(o.tolist()), axis=0) for v, o in zip(values, order, strict=True)]
        return g("Concat", *each, axis=1)

    x_tokens = [g.transpose(v, 1, 0, 2) for v in x]  # (L, B, D)
    x_all = stacked([stacked([v], 0) for v in x_tokens], 2)  # (1, L, branches, B, D)
    x_all = g.transpose(x_all, 1, 0, 2, 3, 4)
    dt_b_c = by_step(g.split(stacked(parameters, 2), [1] * DIRECTIONS, axis=1))  # (L, K, branches, B, ·)
    dt, b, c = g.split(dt_b_c, [width, states, states], axis=4)
    dt = g("Softplus", dt)
    drive = g("Mul", dt, by_step([x_all] * DIRECTIONS))

    # States (1, K, branches, B, N, D); D last, so that vectors run over channels.
    a = torch.stack([-torch.exp(s.A_log.double()) for s in scans], dim=1)  # (K, branches, D, N)
    decay_rates = g.constant(a.transpose(2, 3)[None, :, :, None])
    row, column = g.constant([4]), g.constant([5])
    one_each = [1] * steps
    dt_t, drive_t, c_t = (g.split(g("Unsqueeze", v, row), one_each, axis=0) for v in (dt, drive, c))
    b_t = g.split(g("Unsqueeze", b, column), one_each, axis=0)
    h = ""
    y = []
    for t in range(steps):
        taken_up = g("Mul", b_t[t], drive_t[t])
        if h:
            kept = g("Mul", g("Exp", g("Mul", dt_t[t], decay_rates)), h)
            h = g("Add", kept, taken_up)
        else:
            h = taken_up
        y.append(g("MatMul", c_t[t], h))  # (1, K, branches, B, 1, D)
    directions = g.split(g("Squeeze", g("Concat", *y, axis=0), row), [1] * DIRECTIONS, axis=1)
    back = order.argsort(dim=1)
    total = g(
        "Sum",
        *(g("Gather", v, g.constant(o.tolist()), axis=0) for v, o in zip(directions, back, strict=True)),
    )  # (L, 1, branches, B, D)
    skip = torch.stack([s.D.double().sum(dim=0) for s in scans])  # (branches, D)
    total = g("Add", total, g("Mul", x_all, g.constant(skip[:, None])))
    tokens = g.transpose(g("Squeeze", total, g.constant([1])), 1, 2, 0, 3)  # (branches, B, L, D)
    return [g("Squeeze", v, g.constant([0])) for v in g.split(tokens, [1] * branches, axis=0)]
