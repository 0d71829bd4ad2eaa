"""DAS²F networks with a part taken out or an image missing, and with a second stage.

Each function takes a prepared training and gives a network with fresh weights. These depend on the seed
alone.

Other benchmarks import this module; it runs nothing.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from das2f_map.training.fit import new_network
from das2f_map.training.prepare import Prepared


class MeanCommon(nn.Module):
    """Takes the place of CMDA: the common part of either image is the mean of both images' tokens.

    Neither image is scanned with the parameters of the other, and nothing here is learnt. The specific parts
    are still the SPVM's output less the common part.
    """

    def forward(self, ms: Tensor, pan: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of both images ``(B, P, P, width)`` → their mean, twice."""
        mean = (ms + pan) / 2
        return mean, mean


class PlainSum(nn.Module):
    """Takes the place of AALF: the sum of both specific parts and the common part, without norm or gate."""

    def forward(self, ms_specific: Tensor, pan_specific: Tensor, common: Tensor) -> Tensor:
        """Three times sub-tokens ``(B, 4L, width/4)`` → their sum."""
        return ms_specific + pan_specific + common


class OneImage(nn.Module):
    """The whole network with all values of one image 0, in training and in tests.

    Images are normalised, so 0 is the mean of a band. The network keeps all its weights; those of the missing
    image's branch see a constant.
    """

    def __init__(self, network: nn.Module, *, ms: bool, pan: bool) -> None:
        super().__init__()
        self.network = network
        self._ms, self._pan = float(ms), float(pan)

    def forward(self, ms: Tensor, pan: Tensor) -> Tensor:
        """Logits ``(B, C)`` of MS and PAN patches."""
        logits: Tensor = self.network(self._ms * ms, self._pan * pan)
        return logits


def two_stages(prepared: Prepared) -> nn.Module:
    """The network with two stages."""
    config = prepared.config.model_copy(update={"stages": 2})
    return new_network(replace(prepared, config=config))


def without_cmda(prepared: Prepared) -> nn.Module:
    """The network with :class:`MeanCommon` for CMDA; all other weights start as the whole network's do."""
    network = new_network(prepared)
    for stage in network.stages:
        stage.cmda = MeanCommon()
    return network


def without_aalf(prepared: Prepared) -> nn.Module:
    """The network with :class:`PlainSum` for AALF; all other weights start as the whole network's do."""
    network = new_network(prepared)
    network.fusions = nn.ModuleList(PlainSum() for _ in network.fusions)
    return network


def ms_only(prepared: Prepared) -> nn.Module:
    """The network without PAN."""
    return OneImage(new_network(prepared), ms=True, pan=False)


def pan_only(prepared: Prepared) -> nn.Module:
    """The network without MS."""
    return OneImage(new_network(prepared), ms=False, pan=True)
