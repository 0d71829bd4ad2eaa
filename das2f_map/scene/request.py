"""A pair of images as a user requests it, and as it is read once its bands and shift are known."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral, Real
from pathlib import Path
from typing import Literal

from das2f_map.errors import InputError
from das2f_map.scene.bands import BandChoice, GivenBands, given_bands
from das2f_map.scene.common_grid.shift import PanShift
from das2f_map.scene.mask import MaskFile
from das2f_map.scene.pair import ScenePair, open_pair
from das2f_map.scene.products.delivered import DeliveredScene
from das2f_map.scene.products.recognise import recognise
from das2f_map.scene.registration import Coregistration, coregister
from das2f_map.scene.shift_choice import DEFAULT_MAX_SHIFT, DEFAULT_MODE, MODES, CoregisterMode
from das2f_map.scene.vector_path import local_file
from das2f_map.scene.virtual_image import VirtualImage
from das2f_map.settings import one_of

log = logging.getLogger(__name__)

CLOUDS: Literal["clouds"] = "clouds"
"""The mask that is the product's own."""


@dataclass(frozen=True)
class PairRequest:
    """Two images as a user requests them. Can be pickled; :meth:`open` gives the pair.

    Attributes
    ----------
    ms, pan:
        The multispectral and the panchromatic image: paths or anything else that GDAL opens. Without ``pan``
        ``ms`` is a product as delivered, see :mod:`das2f_map.scene.products`.
    bands:
        The MS bands that the user names, each as (name in the model, number in the file from 1 or name
        there); ``None`` if the user names none.
    nodata:
        Undeclared nodata value of both files. An MS pixel is invalid if all bands in use have this value.
    mask:
        Mask file of pixels that are left out, or ``"clouds"`` for the mask in the product.
    coregistration, max_shift:
        How to treat a shift between the contents of the images, and the PAN pixels over which a shift is
        refused; see :func:`das2f_map.scene.registration.coregister`.
    force:
        Take MS : PAN ratios under 1.5 or over 8.
    reflectance:
        Read reflectance, by the scale and offset that the product states.

    Raises
    ------
    InputError
        A value is of the wrong type, ``coregistration`` is no mode, or ``max_shift`` is not positive and
        finite. The
        error names the argument, its value and the values that it can have. Or ``reflectance`` or the mask
        ``"clouds"`` is wanted of two files.
    """

    ms: str
    pan: str | None
    bands: tuple[tuple[str, int | str], ...] | None = None
    nodata: float | None = None
    mask: MaskFile | Literal["clouds"] | None = None
    coregistration: CoregisterMode = DEFAULT_MODE
    max_shift: float = DEFAULT_MAX_SHIFT
    force: bool = False
    reflectance: bool = False

    def __post_init__(self) -> None:
        for name, which in self.bands or ():
            if not isinstance(name, str):
                raise _unusable("bands", name, "a text as the name of each band in the model")
            if isinstance(which, bool) or not isinstance(which, (int, str)):
                raise _unusable(f"bands[{name!r}]", which, "a band's number in the file, from 1, or its name")
        if self.nodata is not None and not _is_number(self.nodata):
            raise _unusable("nodata", self.nodata, "a number or None")
        clouds = isinstance(self.mask, str) and self.mask == CLOUDS
        if self.mask is not None and not clouds and not isinstance(self.mask, MaskFile):
            raise _unusable("mask", self.mask, "a path, a MaskFile, 'clouds' or None")
        if self.pan is not None:
            _refuse_of_two_files(self)
        if self.coregistration not in MODES:
            raise _unusable("coregistration", self.coregistration, one_of(MODES))
        # `not …` also refuses nan, for which every comparison is false.
        if not _is_number(self.max_shift) or not 0 < self.max_shift < math.inf:
            raise _unusable("max_shift", self.max_shift, "a number of PAN pixels, more than 0 and finite")

    @classmethod
    def of(
        cls,
        ms: str | Path,
        pan: str | Path | None = None,
        *,
        bands: GivenBands | None = None,
        nodata: float | None = None,
        mask: str | Path | MaskFile | None = None,
        coregistration: CoregisterMode = DEFAULT_MODE,
        max_shift: float = DEFAULT_MAX_SHIFT,
        force: bool = False,
        reflectance: bool = False,
    ) -> PairRequest:
        """A request from the arguments of the package's public functions.

        Raises
        ------
        InputError
            As for the class; or ``ms`` or ``pan`` is no path, or ``bands`` is no mapping.
        """
        if not isinstance(ms, (str, Path)):
            raise _unusable("ms", ms, "a path or a URL")
        if pan is not None and not isinstance(pan, (str, Path)):
            raise _unusable("pan", pan, "a path or a URL, or None where ms is a product")
        if bands is not None and not isinstance(bands, Mapping):
            raise _unusable("bands", bands, 'a mapping such as {"blue": 1, "nir": "B8"}, or None')
        return cls(
            str(ms),
            None if pan is None else str(pan),
            None if bands is None else tuple((name, _as_int(which)) for name, which in bands.items()),
            nodata,
            MaskFile(mask) if isinstance(mask, (str, Path)) and mask != CLOUDS else mask,
            coregistration,
            max_shift,
            force,
            reflectance,
        )

    @property
    def given_bands(self) -> GivenBands | None:
        """The bands that the user names, as a mapping; ``None`` if the user names none."""
        return None if self.bands is None else dict(self.bands)

    @cached_property
    def product(self) -> DeliveredScene | None:
        """The product that holds both images; ``None`` for two files.

        Raises
        ------
        InputError
            There is no PAN, and the other path is no product; see
            :func:`das2f_map.scene.products.recognise.recognise`.
        """
        if self.pan is not None:
            return None
        product = recognise(self.ms)
        log.info("%s", product.sentence())
        return product

    @cached_property
    def images(self) -> tuple[str | VirtualImage, str | VirtualImage]:
        """The MS and the PAN image, as they are opened.

        Raises
        ------
        InputError
            As for :attr:`product`; or a file of the product cannot be used.
        """
        if self.product is not None:
            return self.product.images(reflectance=self.reflectance)
        assert self.pan is not None  # else there is a product
        return self.ms, self.pan

    @property
    def arguments(self) -> tuple[str, ...]:
        """The images as a user names them: MS and PAN, or the product."""
        return (self.ms,) if self.pan is None else (self.ms, self.pan)

    @property
    def mask_file(self) -> MaskFile | None:
        """The mask file, or that of the product's clouds; ``None`` for none.

        Raises
        ------
        InputError
            The product has no mask of clouds; or as for :attr:`product`.
        """
        if self.mask != CLOUDS:
            return self.mask
        assert self.product is not None  # two files are refused
        return self.product.cloud_mask()

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of all files that are read. Raises as :attr:`product` and :attr:`mask_file` do."""
        mask = self.mask_file
        images = self.arguments if self.product is None else self.product.files
        return (*images, *(() if mask is None else (local_file(mask.path),)))

    def open(self, shift: PanShift | None = None) -> ScenePair:
        """The open pair with all bands. Use it as a context manager.

        Parameters
        ----------
        shift:
            Shift of the contents that is corrected; ``None`` for none.

        Raises
        ------
        InputError
            See :func:`das2f_map.scene.pair.open_pair`; or the product or its mask cannot be used.
        """
        product, nodata = self.product, self.nodata
        if product is not None and nodata is None:
            nodata = product.nodata
        pair = open_pair(*self.images, force=self.force, nodata=nodata, mask=self.mask_file, shift=shift)
        if product is not None:
            pair.product = product.report(reflectance=self.reflectance)
        return pair

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


def _refuse_of_two_files(request: PairRequest) -> None:
    """Raise ``InputError`` if two files are asked for a thing that only a product has."""
    files = f"{request.ms} and {request.pan}"
    if request.mask == CLOUDS:
        raise InputError(
            f"--mask clouds is the quality band of a product, and {files} are two files",
            "give the product in place of both, or the quality band: --mask FILE --mask-bits N "
            "(a file called clouds is ./clouds)",
        )
    if request.reflectance:
        raise InputError(
            f"--reflectance needs a product, which states scale and offset, and {files} are two files",
            "give the product in place of both",
        )


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
        return self.request.open(self.shift).with_bands(self.bands)
