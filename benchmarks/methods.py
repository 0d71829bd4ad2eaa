"""The methods that the benchmark of the network compares: networks and classical classifiers.

Other benchmarks import this module; it runs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import ablated
import torch
from torch import nn

from das2f_map.training.baselines import (
    Baseline,
    BoostingSettings,
    FeatureFunction,
    ForestSettings,
    gradient_boosting,
    pixel_features,
    random_forest,
    window_features,
)
from das2f_map.training.fit import new_network
from das2f_map.training.prepare import Prepared
from das2f_map.training.small_cnn import SmallCnn


def small_cnn(prepared: Prepared) -> nn.Module:
    """The small CNN, with weights that depend on the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(prepared.settings.seed)
        return SmallCnn(prepared.config.classes, prepared.config.ms_bands)


@dataclass(frozen=True)
class NetworkMethod:
    """A network, and the settings in which its training differs from the default recipe.

    Without ``whole`` it takes only those parts of the recipe that fit every network: fresh weights, targets
    alone, statistics of the labels, no opinions of other classifiers.
    """

    make: Callable[[Prepared], nn.Module]
    changes: Mapping[str, Any] | None = None
    whole: bool = False


DEFAULT: Final = "DAS²F, one stage"
FORMER: Final = "DAS²F, earlier recipe"
"""One stage without opinions of other classifiers; held-out ground chose the head's statistics. No method of
today makes it; its runs stay."""
LABEL_STATISTICS: Final = "DAS²F, statistics of the labels"
CNN: Final = "small CNN"
PLAIN: Final = "DAS²F, plain recipe"
PARTS: Final = {
    "DAS²F, two stages": ablated.two_stages,
    "DAS²F without CMDA": ablated.without_cmda,
    "DAS²F without AALF": ablated.without_aalf,
    "DAS²F, MS only": ablated.ms_only,
    "DAS²F, PAN only": ablated.pan_only,
}
"""Networks with a part more or less. Compare them with the whole network in the same plain recipe."""

NETWORKS: Final[dict[str, NetworkMethod]] = {
    DEFAULT: NetworkMethod(new_network, whole=True),
    LABEL_STATISTICS: NetworkMethod(new_network, {"distillation": 0.0, "statistics": "labels"}, whole=True),
    CNN: NetworkMethod(small_cnn),
    "small CNN, rate 2e-3": NetworkMethod(small_cnn, {"learning_rate": 2e-3}),
    PLAIN: NetworkMethod(new_network),
    **{name: NetworkMethod(make) for name, make in PARTS.items()},
}
"""All take the default recipe's batches, turns, jitter and number of steps."""


FORESTS: Final = tuple(
    ForestSettings(min_samples_leaf=leaf, class_weight=weight)
    for weight in (None, "balanced_subsample")
    for leaf in (1, 4, 12)
)
BOOSTINGS: Final = tuple(
    BoostingSettings(iterations=iterations, max_leaf_nodes=leaves, min_samples_leaf=5, l2=1.0)
    for iterations, leaves in ((40, 8), (120, 8), (40, 31))
)

Settings = ForestSettings | BoostingSettings


@dataclass(frozen=True)
class ClassicalMethod:
    """A classifier's features, and the settings that it is tuned over."""

    features: FeatureFunction
    grid: tuple[Settings, ...]


FOREST: Final = "random forest, windows"

CLASSICAL: Final[dict[str, ClassicalMethod]] = {
    "random forest, pixel": ClassicalMethod(pixel_features, FORESTS),
    FOREST: ClassicalMethod(window_features, FORESTS),
    "gradient boosting, pixel": ClassicalMethod(pixel_features, BOOSTINGS),
    "gradient boosting, windows": ClassicalMethod(window_features, BOOSTINGS),
}

METHODS: Final = (*NETWORKS, *CLASSICAL)
DISTURBED: Final = (DEFAULT, CNN, FOREST)
"""Methods that are also tested on disturbed images."""


def classifier(settings: Settings, classes: int, seed: int) -> Baseline:
    """A new classifier."""
    if isinstance(settings, ForestSettings):
        return random_forest(classes, seed, settings)
    return gradient_boosting(classes, seed, settings)
