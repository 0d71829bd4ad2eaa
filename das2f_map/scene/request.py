"""A pair of images as a user asks for it, and as it is read once everything about it is decided."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from das2f_map.scene.bands import BandChoice, GivenBands, given_bands
from das2f_map.scene.common_grid.shift import PanShift
from das2f_map.scene.mask import MaskFile
from das2f_map.scene.pair import ScenePair, open_pair
from das2f_map.scene.registration import DEFAULT_MAX_SHIFT, CoregisterMode, Coregistration, coregister
from das2f_map.scene.registration.correct import MODES


@dataclass(frozen=True)
class PairRequest:
    """Two images as a user asks for them. Can be pickled; :meth:`open` gives the pair.

    Attributes
    ----------
    ms, pan:
        The multispectral and the panchromatic image: paths or whatever else GDAL opens.
    bands:
        The MS bands that the user names: (name in the model, number in the file from 1 or name there) each;
        ``None`` if they name none.
    nodata:
        Value of undeclared invalid pixels, of both files; in MS where all bands that are used have it.
    mask:
        Pixels that are left out.
    coregistration, max_shift:
        How to treat a shift between the contents of the images, and PAN pixels over which they are refused;
        see :func:`das2f_map.scene.registration.coregister`.
    force:
        Take MS : PAN ratios under 1.5 or over 8.

    Raises
    ------
    ValueError
        ``coregistration`` is no mode, or ``max_shift`` is not positive.
    """

    ms: str
    pan: str
    bands: tuple[tuple[str, int | str], ...] | None = None
    nodata: float | None = None
    mask: MaskFile | None = None
    coregistration: CoregisterMode = "auto"
    max_shift: float = DEFAULT_MAX_SHIFT
    force: bool = False

    def __post_init__(self) -> None:
        if self.coregistration not in MODES:
            raise ValueError(f"coregister is one of {', '.join(MODES)}, not {self.coregistration!r}")
        if not self.max_shift > 0:
            raise ValueError(f"max_shift must be positive, got {self.max_shift}")

    @classmethod
    def of(
        cls,
        ms: str | Path,
        pan: str | Path,
        *,
        bands: GivenBands | None = None,
        nodata: float | None = None,
        mask: str | Path | MaskFile | None = None,
        coregistration: CoregisterMode = "auto",
        max_shift: float = DEFAULT_MAX_SHIFT,
        force: bool = False,
    ) -> PairRequest:
        """A request from what people pass to the package's functions."""
        return cls(
            str(ms),
            str(pan),
            None if bands is None else tuple(bands.items()),
            nodata,
            MaskFile(mask) if isinstance(mask, (str, Path)) else mask,
            coregistration,
            max_shift,
            force,
        )

    @property
    def given_bands(self) -> GivenBands | None:
        """The bands that the user names; ``None`` if there are none."""
        return None if self.bands is None else dict(self.bands)

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of all files that are read."""
        return (self.ms, self.pan, *(() if self.mask is None else (str(self.mask.path),)))

    def open(self) -> ScenePair:
        """The pair as it is delivered: all bands, no shift corrected. Use it as a context manager.

        Raises
        ------
        InputError
            See :func:`das2f_map.scene.pair.open_pair`.
        """
        return open_pair(self.ms, self.pan, force=self.force, nodata=self.nodata, mask=self.mask)

    def select(self, pair: ScenePair) -> ScenePair:
        """An open pair with the MS bands that the user names, in that order; with all if they name none.

        Raises
        ------
        InputError
            A band is not in the file, or is named twice.
        """
        given = self.given_bands
        return pair if given is None else pair.with_bands(given_bands(given, pair.file_bands, pair.ms_path))

    def coregister(self, pair: ScenePair) -> Coregistration:
        """Measure the shift of an open pair's contents and correct it, as far as is asked for."""
        return coregister(pair, self.coregistration, max_shift=self.max_shift)


@dataclass(frozen=True)
class PairView:
    """A pair as it is read: with the bands that were found and the shift that was measured.

    Can be pickled; any process that opens it reads the same.

    Attributes
    ----------
    request:
        The files, and how they are opened.
    bands:
        MS bands that are read, in this order.
    shift:
        Shift of the contents that is corrected; ``None`` for none.
    """

    request: PairRequest
    bands: tuple[BandChoice, ...]
    shift: PanShift | None

    @classmethod
    def of(cls, request: PairRequest, pair: ScenePair) -> PairView:
        """The view that an open pair of this request gives."""
        return cls(request, pair.bands, pair.shift)

    def open(self) -> ScenePair:
        """Open the files and read them like this. Use it as a context manager; errors as in the request."""
        r = self.request
        pair = open_pair(r.ms, r.pan, force=r.force, nodata=r.nodata, mask=r.mask, shift=self.shift)
        return pair.with_bands(self.bands)
