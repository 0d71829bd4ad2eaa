"""Engines: an aligned, normalised block with its halo in, logits of its target pixels out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    # The command line imports the package for its options, without numpy.
    from das2f_map.types import Bool, Float32


class Engine(Protocol):
    """The interface of every engine."""

    name: str
    """As ``--engine`` takes it: ``shared``, ``patch`` or ``onnx``."""

    all_turns: bool
    """Whether its block needs the halo for all turns, see
    :meth:`das2f_map.scene.model_input.ModelInput.read`.
    """

    @property
    def device(self) -> str:
        """Device that it computes on: ``cpu``, ``cuda:0``…"""

    @property
    def precision(self) -> str:
        """Type of its products: ``fp32``, ``bf16`` or ``fp16``. States and sums are float32 at least."""

    @property
    def scan(self) -> str:
        """Selective-scan backend in use, as :mod:`das2f_map.network.selective_scan` names it."""

    @property
    def block_size(self) -> int:
        """MS pixels a side of a block that suits the engine; smaller blocks waste work on their halo."""

    def memory_bytes(self, size: int) -> int:
        """Estimate of the memory that a block of ``size`` × ``size`` MS pixels takes, on the device.

        It is the growth over an engine that has computed nothing yet. On the CPU, measured peaks of the
        published network lie between two thirds of the estimate and a tenth above it. On CUDA the estimate
        counts the block's tensors and is not measured.
        """

    def logits(
        self,
        ms: Float32,
        pan: Float32,
        targets: Bool,
    ) -> Float32:
        """Logits of the target pixels of a block.

        Parameters
        ----------
        ms, pan:
            Normalised block with its halo of P - 1 MS pixels in all: (bands, h + P - 1, w + P - 1) and
            (1, 4 (h + P - 1), 4 (w + P - 1)), finite. The halo is wider with :attr:`all_turns`.
        targets:
            bool (h, w): the pixels that are wanted.

        Returns
        -------
        float32 (n, C), one row a wanted pixel, in row-major order.
        """
