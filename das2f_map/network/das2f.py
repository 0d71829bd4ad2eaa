"""The whole DAS²F network.

Source: Ma, Xue et al., "A Diff-Attention Aware State Space Fusion Model for Remote Sensing
Classification", IEEE TGRS 2025 (arXiv 2504.16665).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from das2f_map.network.aalf import Aalf, tokens_to_subtokens
from das2f_map.network.classifier import Classifier, PooledClassifier, make_classifier
from das2f_map.network.cmda import Cmda
from das2f_map.network.config import NetworkConfig
from das2f_map.network.spvm import Spvm
from das2f_map.network.stem import MsStem, PanStem


class StageOutput(NamedTuple):
    """Tokens ``(B, P, P, width)`` after a stage."""

    ms_specific: Tensor
    pan_specific: Tensor
    ms_common: Tensor
    pan_common: Tensor


class Stage(nn.Module):
    """The common parts of MS and PAN (CMDA), and the specific part of each (SPVM minus common)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.spvm_ms = Spvm(config)
        self.spvm_pan = Spvm(config)
        self.cmda = Cmda(config)

    def forward(self, ms: Tensor, pan: Tensor) -> StageOutput:
        ms_common, pan_common = self.cmda(ms, pan)
        return StageOutput(
            self.spvm_ms(ms) - ms_common, self.spvm_pan(pan) - pan_common, ms_common, pan_common
        )


class Das2fNet(nn.Module):
    """DAS²F: MS and PAN patches to class logits, one or two stages.

    Parameters
    ----------
    config:
        Sizes; only ``classes`` has no default.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.ms_stem = MsStem(config)
        self.pan_stem = PanStem(config)
        self.stages = nn.ModuleList(Stage(config) for _ in range(config.stages))
        # fusions[0] takes the last stage's specific parts, fusions[1] takes the first stage's.
        self.fusions = nn.ModuleList(Aalf(config) for _ in range(config.stages))
        self.classifier = make_classifier(config)

    def features(self, ms: Tensor, pan: Tensor) -> Tensor:
        """Fused sub-tokens, flattened: ``(B, width·L)``."""
        return self.features_after(self.stages[0](self.ms_stem(ms), self.pan_stem(pan)))

    def features_after(self, first: StageOutput) -> Tensor:
        """Fused sub-tokens ``(B, width·L)``, computed from the first stage's output."""
        outputs = [first]
        for stage in self.stages[1:]:
            outputs.append(stage(outputs[-1].ms_common, outputs[-1].pan_common))
        fused = tokens_to_subtokens((outputs[-1].ms_common + outputs[-1].pan_common) / 2)
        for fusion, output in zip(self.fusions, reversed(outputs), strict=True):
            fused = fusion(
                tokens_to_subtokens(output.ms_specific), tokens_to_subtokens(output.pan_specific), fused
            )
        return fused.flatten(1)

    def forward(self, ms: Tensor, pan: Tensor) -> Tensor:
        """Logits ``(B, C)`` of MS patches ``(B, bands, P, P)`` and PAN patches ``(B, 1, 4P, 4P)``."""
        features = self.features(ms, pan)
        if torch.is_autocast_enabled(ms.device.type) and not self.training:
            # Half types would round logits near each other to the same number; float32 costs little here.
            with torch.autocast(ms.device.type, enabled=False):
                exact: Tensor = self.classifier(features.float())
            return exact
        logits: Tensor = self.classifier(features)
        return logits

    def logits_at(self, ms: Tensor, pan: Tensor, wanted: Tensor) -> Tensor:
        """Logits ``(M, C)`` of the M ``wanted`` tokens, bool ``(B, P, P)``, by a pooled classifier."""
        logits: Tensor = self.classifier(self.features(ms, pan), wanted)
        return logits

    def fold_classifier(self) -> None:
        """Replace the classifier by its single-layer equivalent, for inference. Logits stay the same.

        A pooled classifier has to be in evaluation mode for that.
        """
        if isinstance(self.classifier, (Classifier, PooledClassifier)):
            self.classifier = self.classifier.folded()
            self.config = self.config.model_copy(update={"classifier_hidden": None})
