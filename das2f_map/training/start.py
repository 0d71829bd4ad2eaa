"""The model whose weights a training starts from.

A trunk that has learnt bands and their textures elsewhere needs fewer labels here. So a bundled model is the
default start of a scene that has its bands, unless the model was trained on the same ground: figures on
held-out ground would be too good, because the trunk has seen that ground.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence, Set

from das2f_map.bundle.card import Ground, ModelCard
from das2f_map.bundle.catalogue import bundled_models, load_model
from das2f_map.bundle.files import read_card
from das2f_map.bundle.model import ModelBundle
from das2f_map.errors import ModelError
from das2f_map.network import NetworkConfig
from das2f_map.scene.pair import ScenePair
from das2f_map.training.ground import ground_of
from das2f_map.training.settings import AUTO, FRESH

log = logging.getLogger(__name__)


def find_start(choice: str, config: NetworkConfig, pairs: Sequence[ScenePair]) -> ModelBundle | None:
    """The model to start from; ``None`` for fresh weights.

    Parameters
    ----------
    choice:
        ``auto`` for a bundled model that fits, ``none``, or a model's name or path.
    config:
        Sizes of the network.
    pairs:
        The scenes of the training.

    Raises
    ------
    ModelError
        There is no such model, it has no weights to start from, or its network has other sizes.
    """
    if choice == FRESH:
        return None
    ground = [found for pair in pairs if (found := ground_of(pair)) is not None]
    if choice == AUTO:
        for folder in bundled_models().values():
            card = read_card(folder)
            # Ground that is not known may be shared.
            ground_known = card.training.ground and len(ground) == len(pairs)
            if ground_known and _fits(card, config, pairs) and not _shared(card, ground):
                log.info(
                    "The trainings start from the weights of %s, but for the classifier; "
                    "--from none starts afresh",
                    card.name,
                )
                return load_model(folder)
        return None
    bundle = named_start(choice, config)
    log.info(
        "The trainings start from the weights of %s, but for the classifier%s",
        bundle.card.name,
        "".join(f"; {clause}" for clause in _not_carried_over(bundle.card, config, pairs[0].ms_band_names)),
    )
    if _shared(bundle.card, ground):
        log.warning(
            "%s was trained on this ground: figures on held-out ground will be too good", bundle.card.name
        )
    return bundle


def named_start(choice: str, config: NetworkConfig) -> ModelBundle:
    """The model of a name or path, if a training of a network of these sizes can start from it.

    The numbers of classes, bands and stages play no part. Raises as :func:`find_start`.
    """
    bundle = load_model(choice)
    if not bundle.state_dict:
        raise ModelError(
            f"{choice} holds no weights that a training can start from",
            "name the bundle that it was made of",
        )
    if differing := _other_sizes(bundle.card.network, config, free={"stages"}):
        raise ModelError(
            f"the network of {choice} has other sizes than the one to train: {', '.join(differing)}",
            "train without --from",
        )
    return bundle


def _fits(card: ModelCard, config: NetworkConfig, pairs: Sequence[ScenePair]) -> bool:
    """Whether a model has the sizes of the network and all bands of the scenes."""
    known = {b.name for b in card.ms_bands}
    return not _other_sizes(card.network, config) and all(set(pair.ms_band_names) == known for pair in pairs)


def _not_carried_over(card: ModelCard, config: NetworkConfig, bands: Sequence[str]) -> list[str]:
    """What of a model and a network to train has no counterpart, a clause each."""
    theirs, found = [b.name for b in card.ms_bands], []
    if fresh := [name for name in bands if name not in theirs]:
        found.append(f"bands that the model lacks start anew: {', '.join(fresh)}")
    if dropped := [name for name in theirs if name not in bands]:
        found.append(f"its other bands are dropped: {', '.join(dropped)}")
    if config.stages > card.network.stages:
        found.append("the second stage starts anew")
    if config.stages < card.network.stages:
        found.append("its second stage is dropped")
    return found


def _other_sizes(theirs: NetworkConfig, ours: NetworkConfig, free: Set[str] = frozenset()) -> list[str]:
    """Sizes of the trunk in which two networks differ, but for the ``free`` ones."""
    free = {"classes", "ms_bands", "classifier_hidden", *free}
    one, other = theirs.model_dump(exclude=free), ours.model_dump(exclude=free)
    return [f"{name} {one[name]} and {other[name]}" for name in one if one[name] != other[name]]


def _shared(card: ModelCard, ground: Sequence[Ground]) -> bool:
    """Whether a model was trained on some of the ground."""
    return any(a.overlaps(b) for a in card.training.ground for b in ground)
