"""Names in the authors' published checkpoints → names in this package.

Source: the state-dict names of the repository ``AVKSKVL/DAS-F-Model``, one-stage ("smallxian") and
two-stage ("nanjing") variants.
"""

from __future__ import annotations


def _with_suffixes(theirs: str, ours: str, suffixes: str) -> dict[str, str]:
    return {f"{theirs}.{s}": f"{ours}.{s}" for s in suffixes.split()}


def _space_names(theirs: str, ours: str, conv: str, patch: str) -> dict[str, str]:
    return {
        **_with_suffixes(f"{theirs}.{conv}", f"{ours}.space.depthwise", "weight bias"),
        **_with_suffixes(f"{theirs}.{patch}.0", f"{ours}.space.embed", "weight bias"),
        **_with_suffixes(
            f"{theirs}.{patch}.1",
            f"{ours}.space.norm",
            "weight bias running_mean running_var num_batches_tracked",
        ),
    }


def _scan_names(theirs: str, ours: str, ending: str = "") -> dict[str, str]:
    return {
        f"{theirs}.x_proj_weight{ending}": f"{ours}.scan.x_proj",
        f"{theirs}.dt_projs_weight{ending}": f"{ours}.scan.dt_proj",
        f"{theirs}.dt_projs_bias{ending}": f"{ours}.scan.dt_bias",
        f"{theirs}.A_logs{ending}": f"{ours}.scan.A_log",
        f"{theirs}.Ds{ending}": f"{ours}.scan.D",
    }


def published_names(stages: int) -> dict[str, str]:
    """Published state-dict name → name in :class:`Das2fNet`, for a one- or two-stage network."""
    names = {
        **_with_suffixes("R1.conv", "pan_stem.expand", "weight bias"),
        **_with_suffixes("scan_161664_ms.0", "ms_stem.embedding.conv", "weight bias"),
        **_with_suffixes("scan_161664_ms.2", "ms_stem.embedding.norm", "weight bias"),
        **_with_suffixes("scan_161664_pan.0", "pan_stem.embedding.conv", "weight bias"),
        **_with_suffixes("scan_161664_pan.2", "pan_stem.embedding.norm", "weight bias"),
        **_with_suffixes("classifier.classifier_1", "classifier.hidden", "weight bias"),
        **_with_suffixes("classifier.classifier_2", "classifier.out", "weight bias"),
    }
    for stage in range(stages):
        number = stage + 1
        for modality in ("ms", "pan"):
            theirs, ours = f"mamba_{modality}_{number}", f"stages.{stage}.spvm_{modality}"
            names |= {
                **_with_suffixes(f"{theirs}.norm", f"{ours}.norm", "weight bias"),
                **_scan_names(f"{theirs}.mamba", f"{ours}.mixer"),
                **_space_names(f"{theirs}.mamba", f"{ours}.mixer", "conv2d", "patch"),
                f"{theirs}.mamba.in_proj.weight": f"{ours}.mixer.gate.weight",
                **_with_suffixes(f"{theirs}.mamba.out_norm", f"{ours}.mixer.out_norm", "weight bias"),
                f"{theirs}.mamba.out_proj.weight": f"{ours}.mixer.out_proj.weight",
                **_with_suffixes(f"{theirs}.mlp", f"{ours}.mlp", "0.weight 0.bias 2.weight 2.bias"),
            }
        theirs, ours = f"cromamba_{number}", f"stages.{stage}.cmda"
        inner = f"{theirs}.cromamba"
        names |= {
            **_with_suffixes(f"{theirs}.norm", f"{ours}.norm", "weight bias"),
            **_with_suffixes(f"{inner}.out_norm", f"{ours}.out_norm", "weight bias"),
        }
        for modality, ending in (("ms", ""), ("pan", "_pan")):
            names |= {
                **_scan_names(inner, f"{ours}.{modality}", ending),
                **_space_names(inner, f"{ours}.{modality}", f"conv2d{ending}", f"patch_{modality}"),
                f"{inner}.in_proj{ending}.weight": f"{ours}.{modality}.gate.weight",
                f"{inner}.out_proj{ending}.weight": f"{ours}.{modality}.out_proj.weight",
                **_with_suffixes(
                    f"{theirs}.mlp_{modality}", f"{ours}.{modality}.mlp", "0.weight 0.bias 2.weight 2.bias"
                ),
            }
    # The two-stage network first fuses stage 2's specifics (FusionBlock2), then stage 1's (FusionBlock3).
    blocks = ("FusionBlock",) if stages == 1 else ("FusionBlock2", "FusionBlock3")
    for position, block in enumerate(blocks):
        ours = f"fusions.{position}"
        names |= {
            **_with_suffixes(f"{block}.norm", f"{ours}.norm", "weight bias"),
            **_with_suffixes(f"{block}.fusion_1.get_G.mlp", f"{ours}.fuse_specific.gate", "weight bias"),
            **_with_suffixes(f"{block}.fusion_2.get_G.mlp", f"{ours}.fuse_common.gate", "weight bias"),
        }
    return names
