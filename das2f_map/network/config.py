"""Sizes of a DAS²F network; the defaults are the published ones."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator


class NetworkConfig(BaseModel):
    """Everything that shapes the network's tensors.

    The upper limits are far above all networks that were trained. They keep a card that anyone may have
    written from asking for tensors without end.

    Raises ``ValueError`` (pydantic's ``ValidationError``) when sizes do not fit together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: int = Field(ge=1, le=255, description="number of classes C")
    stages: int = Field(default=1, ge=1, le=2, description="fusion stages: 1 (small) or 2")
    ms_bands: int = Field(default=4, ge=1, le=512, description="multispectral bands")
    pan_channels: int = Field(
        default=4, ge=1, le=512, description="channels the 1x1 convolution makes of PAN"
    )
    patch_size: int = Field(
        default=16, ge=2, le=128, description="MS pixels (= tokens) along one side of a patch"
    )
    width: int = Field(default=64, ge=16, le=1024, description="channels of a token")
    state_size: int = Field(default=24, ge=1, le=512, description="N, states per channel of the scan")
    dt_rank: int = Field(default=24, ge=1, le=1024, description="rank of the step-size projection")
    mlp_ratio: int = Field(default=4, ge=1, le=64, description="hidden width of the MLPs over `width`")
    classifier_hidden: int | None = Field(
        default=1024,
        ge=1,
        le=65536,
        description="inner width of the classifier; null where it is a single layer",
    )

    @model_validator(mode="after")
    def _fits(self) -> NetworkConfig:
        if self.width % 16:
            raise ValueError(f"width must be a multiple of 16 (4x4 pixels per token), got {self.width}")
        return self

    @property
    def tokens(self) -> int:
        """L, tokens of a patch."""
        return self.patch_size**2

    @property
    def fusion_channels(self) -> int:
        """Channels of an AALF sub-token: a token is spread over 2 x 2 of them."""
        return self.width // 4

    @property
    def flat_features(self) -> int:
        """Inputs of the classifier."""
        return self.tokens * self.width
