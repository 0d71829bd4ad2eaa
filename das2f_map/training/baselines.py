"""Classical classifiers that a network is compared with, and their features of patches.

:func:`pixel_features` and :func:`window_features` turn patches into a row of numbers per target, and
:func:`stack_features` does so batch by batch. :func:`random_forest` and :func:`gradient_boosting` learn from
these rows and from the positions of the classes in the legend. :func:`out_of_fold` gives probabilities of
pixels that a classifier did not learn from, by which its settings can be chosen.

The classifiers come from scikit-learn, in the extra ``train``. It is imported when one is made.

Sources: Breiman, L. (2001), "Random forests", Machine Learning 45, 5–32. Friedman, J. H. (2001), "Greedy
function approximation: a gradient boosting machine", Annals of Statistics 29, 1189–1232.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from das2f_map.errors import MissingDependencyError
from das2f_map.installation import install_extra
from das2f_map.scene.grid import PAN_PER_MS
from das2f_map.scene.patch import PatchGeometry
from das2f_map.types import Float32, Float64, Int64

Patches = NDArray[Any] | Tensor
"""MS or PAN patches ``(n, bands, rows, cols)``, as an array or as a tensor on the CPU."""

FeatureFunction = Callable[[Patches, Patches], Float32]
"""MS and PAN patches of ``n`` targets → features ``(n, F)``."""

PATCH = PatchGeometry()
WINDOWS = (3, 7)
"""Sides in MS pixels of the windows around the target, besides the whole patch."""


# --- features --------------------------------------------------------------------------------------------


def pixel_features(ms: Patches, pan: Patches) -> Float32:
    """Values of the target pixel alone, float32 ``(n, bands + 18)``.

    Parameters
    ----------
    ms, pan:
        Patches ``(n, bands, 16, 16)`` and ``(n, 1, 64, 64)``, with the target at index [7, 7] of MS.

    Returns
    -------
    The MS values, the 16 PAN values of the target row by row, their mean and their standard deviation.

    Raises
    ------
    ValueError
        The patches have other shapes.
    """
    ms, pan = _checked(ms, pan)
    at = PATCH.target_index
    own = pan[:, 0, _pan(slice(at, at + 1)), _pan(slice(at, at + 1))].reshape(len(pan), PAN_PER_MS**2)
    return np.concatenate([ms[:, :, at, at], own, _mean(own, 1)[:, None], _std(own, 1)[:, None]], axis=1)


def window_features(ms: Patches, pan: Patches) -> Float32:
    """Values of the target and statistics of the ground around it, float32 ``(n, 7 · bands + 24)``.

    Parameters
    ----------
    ms, pan:
        As in :func:`pixel_features`.

    Returns
    -------
    The pixel features. Then, for 3 × 3 and 7 × 7 MS pixels around the target and for the whole patch: the
    mean of every MS band, their standard deviations, the mean of PAN and its standard deviation.

    Raises
    ------
    ValueError
        The patches have other shapes.
    """
    found = [pixel_features(ms, pan)]
    ms, pan = _checked(ms, pan)
    at = PATCH.target_index
    sides = [slice(at - side // 2, at + side // 2 + 1) for side in WINDOWS]
    for cut in (*sides, slice(0, PATCH.size)):
        for part in (ms[:, :, cut, cut], pan[:, :, _pan(cut), _pan(cut)]):
            found += [_mean(part, (2, 3)), _std(part, (2, 3))]
    return np.concatenate(found, axis=1)


def stack_features(batches: Iterable[tuple[Patches, Patches]], features: FeatureFunction) -> Float32:
    """Features of all batches of (MS, PAN) patches, float32 ``(n, F)``; only one batch is held at a time.

    Raises ``ValueError`` if there is no batch.
    """
    found = [features(ms, pan) for ms, pan in batches]
    if not found:
        raise ValueError("there are no patches to take features of")
    return np.concatenate(found)


def _checked(ms: Patches, pan: Patches) -> tuple[Float32, Float32]:
    ms, pan = np.asarray(ms, np.float32), np.asarray(pan, np.float32)
    size = PATCH.size
    fits = ms.ndim == 4 and ms.shape[2:] == (size, size)
    if not fits or pan.shape != (len(ms), 1, PAN_PER_MS * size, PAN_PER_MS * size):
        raise ValueError(f"MS {ms.shape} and PAN {pan.shape} are no patches of {size} MS pixels")
    return ms, pan


def _pan(ms: slice) -> slice:
    """The PAN pixels of some MS pixels."""
    return slice(PAN_PER_MS * ms.start, PAN_PER_MS * ms.stop)


def _mean(values: Float32, axis: int | tuple[int, ...]) -> Float32:
    mean: Float32 = values.mean(axis, dtype=np.float64).astype(np.float32)
    return mean


def _std(values: Float32, axis: int | tuple[int, ...]) -> Float32:
    std: Float32 = values.std(axis, dtype=np.float64).astype(np.float32)
    return std


# --- classifiers -----------------------------------------------------------------------------------------


class Baseline(Protocol):
    """A classifier of feature rows."""

    def fit(self, features: Float32, positions: Int64) -> None:
        """Learn from features ``(n, F)`` and positions ``(n,)`` of the classes in the legend.

        Raises ``ValueError`` if there are no rows, or if a position is outside the legend.
        """

    def probabilities(self, features: Float32) -> Float64:
        """Probability of every class of the legend, float64 ``(n, C)``; rows sum to 1.

        A class that :meth:`fit` did not see has probability 0.
        """


@dataclass(frozen=True)
class ForestSettings:
    """Settings of a random forest; the defaults are those of the literature.

    Attributes
    ----------
    trees:
        More trees cost time and never harm.
    max_features:
        Features that compete at a split: ``sqrt`` or ``log2`` of their number, or a share 0..1 of them.
    min_samples_leaf:
        Training pixels of the smallest leaf. Larger leaves give smoother probabilities, which helps where
        labels are noisy.
    class_weight:
        ``None``: every pixel counts alike, which serves overall accuracy. ``balanced_subsample``: every class
        counts alike in every tree, which serves the mean over the classes.
    jobs:
        Threads of the fit.
    """

    trees: int = 300
    max_features: Literal["sqrt", "log2"] | float = "sqrt"
    min_samples_leaf: int = 1
    class_weight: Literal["balanced", "balanced_subsample"] | None = None
    jobs: int = 1


@dataclass(frozen=True)
class BoostingSettings:
    """Settings of gradient boosting on binned features; the defaults are those of scikit-learn.

    Attributes
    ----------
    iterations:
        Rounds; each adds a tree for every class.
    learning_rate:
        Part of each tree that is added. Half the rate wants about twice the rounds.
    max_leaf_nodes, min_samples_leaf:
        Largest number of leaves of a tree, and training pixels of the smallest leaf.
    l2:
        Penalty of large leaf values.
    class_weight:
        ``None``: every pixel counts alike. ``balanced``: every class counts alike.
    """

    iterations: int = 100
    learning_rate: float = 0.1
    max_leaf_nodes: int = 31
    min_samples_leaf: int = 20
    l2: float = 0.0
    class_weight: Literal["balanced"] | None = None


def random_forest(classes: int, seed: int, settings: ForestSettings | None = None) -> Baseline:
    """A random forest for a legend of ``classes`` classes; equal seeds give equal forests.

    Raises :class:`~das2f_map.errors.MissingDependencyError` without scikit-learn.
    """
    chosen = settings or ForestSettings()
    forest = _ensembles().RandomForestClassifier(
        n_estimators=chosen.trees,
        max_features=chosen.max_features,
        min_samples_leaf=chosen.min_samples_leaf,
        class_weight=chosen.class_weight,
        n_jobs=chosen.jobs,
        random_state=seed,
    )
    return _Classifier(forest, classes)


def gradient_boosting(classes: int, seed: int, settings: BoostingSettings | None = None) -> Baseline:
    """Gradient boosting for a legend of ``classes`` classes; equal seeds give equal trees.

    It uses as many threads as OpenMP has. It learns all rounds: to stop early, it would hold out random
    pixels, whose neighbours it has learned from.

    Raises :class:`~das2f_map.errors.MissingDependencyError` without scikit-learn.
    """
    chosen = settings or BoostingSettings()
    boosting = _ensembles().HistGradientBoostingClassifier(
        max_iter=chosen.iterations,
        learning_rate=chosen.learning_rate,
        max_leaf_nodes=chosen.max_leaf_nodes,
        min_samples_leaf=chosen.min_samples_leaf,
        l2_regularization=chosen.l2,
        class_weight=chosen.class_weight,
        early_stopping=False,
        random_state=seed,
    )
    return _Classifier(boosting, classes)


def out_of_fold(make: Callable[[], Baseline], features: Float32, positions: Int64, folds: Int64) -> Float64:
    """Probabilities ``(n, C)`` of every pixel by a classifier that learned from the other folds.

    Parameters
    ----------
    make:
        A new classifier, for example ``lambda: random_forest(6, seed, settings)``.
    features, positions:
        As in :meth:`Baseline.fit`.
    folds:
        Fold of each pixel, int ``(n,)``. Folds should be blocks of ground: pixels of one place are alike, and
        random folds make every classifier look better than it is.

    Raises
    ------
    ValueError
        There are fewer than two folds.
    """
    numbers = np.unique(folds)
    if numbers.size < 2:
        raise ValueError("at least two folds are needed")
    found: Float64 | None = None
    for number in numbers:
        held_out = folds == number
        classifier = make()
        classifier.fit(features[~held_out], positions[~held_out])
        part = classifier.probabilities(features[held_out])
        if found is None:
            found = np.empty((len(features), part.shape[1]))
        found[held_out] = part
    assert found is not None
    return found


class _Classifier:
    """A classifier of scikit-learn whose probabilities have a column for every class of the legend."""

    def __init__(self, model: Any, classes: int) -> None:
        self._model = model
        self._classes = classes
        self._seen: Int64 = np.zeros(0, np.int64)

    def fit(self, features: Float32, positions: Int64) -> None:
        if len(features) == 0 or len(features) != len(positions):
            raise ValueError(f"{len(features)} rows of features for {len(positions)} positions")
        if positions.min() < 0 or positions.max() >= self._classes:
            raise ValueError(f"positions must lie in 0..{self._classes - 1}")
        self._seen = np.unique(positions).astype(np.int64)
        # Boosting refuses a single class, and there is nothing to learn then.
        if self._seen.size > 1:
            self._model.fit(features, positions)
            if hasattr(self._model, "n_jobs"):
                # Threads add up the trees in changing order, which changes the last digits from run to run.
                self._model.set_params(n_jobs=1)

    def probabilities(self, features: Float32) -> Float64:
        if self._seen.size == 0:
            raise ValueError("fit comes before probabilities")
        found = np.zeros((len(features), self._classes))
        if self._seen.size == 1:
            found[:, self._seen[0]] = 1.0
        elif len(features):
            found[:, self._model.classes_] = self._model.predict_proba(features)
        return found


def _ensembles() -> ModuleType:
    """The module ``sklearn.ensemble``."""
    try:
        import sklearn.ensemble
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "sklearn":
            raise
        raise MissingDependencyError(
            "random forests and gradient boosting need the package scikit-learn, which is not installed",
            install_extra("train"),
        ) from error
    ensembles: ModuleType = sklearn.ensemble
    return ensembles
