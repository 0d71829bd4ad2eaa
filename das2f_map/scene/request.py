"""A pair of images as a user requests it, and as it is read once its bands and shift are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path

from das2f_map.errors import InputError
from das2f_map.scene.bands import BandChoice, GivenBands, given_bands
from das2f_map.scene.common_grid.shift import PanShift
from das2f_map.scene.mask import MaskFile
from das2f_map.scene.pair import ScenePair, open_pair
from das2f_map.scene.registration import Coregistration, coregister
from das2f_map.scene.shift_choice import DEFAULT_MAX_SHIFT, DEFAULT_MODE, MODES, CoregisterMode
from das2f_map.scene.vector_path import local_file
from das2f_map.settings import one_of


@dataclass(frozen=True)
class PairRequest:
    """Two images as a user requests them. Can be pickled; :meth:`open` gives the pair.

    Attributes
    ----------
    ms, pan:
        The multispectral and the panchromatic image: paths or anything else that GDAL opens.
    bands:
        The MS bands that the user names, each as (name in the model, number in the file from 1 or name
        there); ``None`` if the user names none.
    nodata:
        Undeclared nodata value of both files. An MS pixel is invalid if all bands in use have this value.
    mask:
        Mask file of pixels that are left out.
    coregistration, max_shift:
        How to treat a shift between the contents of the images, and the PAN pixels over which a shift is
        refused; see :func:`das2f_map.scene.registration.coregister`.
    force:
        Take MS : PAN ratios under 1.5 or over 8.

    Raises
    ------
    InputError
        A value is of the wrong type, ``coregistration`` is no mode, or ``max_shift`` is not positive. The
        error names the argument, its value and the values that it can have.
    """

    ms: str
    pan: str
    bands: tuple[tuple[str, int | str], ...] | None = None
    nodata: float | None = None
    mask: MaskFile | None = None
    coregistration: CoregisterMode = DEFAULT_MODE
    max_shift: float = DEFAULT_MAX_SHIFT
    force: bool = False

    def __post_init__(self) -> None:
        for name, which in self.bands or ():
            if not isinstance(name, str):
                raise _unusable("bands", name, "a text as the name of each band in the model")
            if isinstance(which, bool) or not isinstance(which, (int, str)):
                raise _unusable(f"bands[{name!r}]", which, "a band's number in the file, from 1, or its name")
        if self.nodata is not None and not _is_number(self.nodata):
            raise _unusable("nodata", self.nodata, "a number or None")
        if self.mask is not None and not isinstance(self.mask, MaskFile):
            raise _unusable("mask", self.mask, "a path, a MaskFile or None")
        if self.coregistration not in MODES:
            raise _unusable("coregistration", self.coregistration, one_of(MODES))
        # `not … > 0` also refuses nan, for which every comparison is false.
        if not _is_number(self.max_shift) or not self.max_shift > 0:
            raise _unusable("max_shift", self.max_shift, "a number of PAN pixels, more than 0")

    @classmethod
    def of(
        cls,
        ms: str | Path,
        pan: str | Path,
        *,
        bands: GivenBands | None = None,
        nodata: float | None = None,
        mask: str | Path | MaskFile | None = None,
        coregistration: CoregisterMode = DEFAULT_MODE,
        max_shift: float = DEFAULT_MAX_SHIFT,
        force: bool = False,
    ) -> PairRequest:
        """A request from the arguments of the package's public functions.

        Raises
        ------
        InputError
            As for the class; or ``ms`` or ``pan`` is no path, or ``bands`` is no mapping.
        """
        for name, path in (("ms", ms), ("pan", pan)):
            if not isinstance(path, (str, Path)):
                raise _unusable(name, path, "a path or a URL")
        if bands is not None and not isinstance(bands, Mapping):
            raise _unusable("bands", bands, 'a mapping such as {"blue": 1, "nir": "B8"}, or None')
        return cls(
            str(ms),
            str(pan),
            None if bands is None else tuple((name, _as_int(which)) for name, which in bands.items()),
            nodata,
            MaskFile(mask) if isinstance(mask, (str, Path)) else mask,
            coregistration,
            max_shift,
            force,
        )

    @property
    def given_bands(self) -> GivenBands | None:
        """The bands that the user names, as a mapping; ``None`` if the user names none."""
        return None if self.bands is None else dict(self.bands)

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of all files that are read."""
        return (self.ms, self.pan, *(() if self.mask is None else (local_file(self.mask.path),)))

    def open(self) -> ScenePair:
        """The open pair with all bands and no shift corrected. Use it as a context manager.

        Raises
        ------
        InputError
            See :func:`das2f_map.scene.pair.open_pair`.
        """
        return open_pair(self.ms, self.pan, force=self.force, nodata=self.nodata, mask=self.mask)

    def select(self, pair: ScenePair) -> ScenePair:
        """An open pair with the MS bands that the user names, in that order; with all if the user names none.

        Raises
        ------
        InputError
            A band is not in the file, or is named twice.
        """
        given = self.given_bands
        return pair if given is None else pair.with_bands(given_bands(given, pair.file_bands, pair.ms_path))

    def coregister(self, pair: ScenePair) -> Coregistration:
        """An open pair with the shift of its contents measured and corrected, as the request says."""
        return coregister(pair, self.coregistration, max_shift=self.max_shift)


def _unusable(argument: str, value: object, wanted: str) -> InputError:
    """The error for an argument with a value that it cannot have."""
    return InputError(f"{argument} cannot be {value!r}: it must be {wanted}")


def _is_number(value: object) -> bool:
    """Whether a value is a real number, also one of NumPy's; a truth value is none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _as_int(value: int | str) -> int | str:
    """A whole number of any type, such as NumPy's, as ``int``; any other value as it is."""
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value


@dataclass(frozen=True)
class PairView:
    """A pair as it is read: the request, the bands that were found and the shift that is corrected.

    Can be pickled; any process that opens it reads the same values.

    Attributes
    ----------
    request:
        The files and how to open them.
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
        """The view of an open pair of this request, as the pair is read now."""
        return cls(request, pair.bands, pair.shift)

    def open(self) -> ScenePair:
        """The open pair, read with these bands and this shift. Use it as a context manager.

        Raises
        ------
        InputError
            See :func:`das2f_map.scene.pair.open_pair`.
        """
        r = self.request
        pair = open_pair(r.ms, r.pan, force=r.force, nodata=r.nodata, mask=r.mask, shift=self.shift)
        return pair.with_bands(self.bands)
