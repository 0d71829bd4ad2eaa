"""A scene as delivered: which bands of which files are MS and PAN, and the facts that its metadata state."""

from __future__ import annotations

from dataclasses import dataclass

from das2f_map.errors import InputError
from das2f_map.scene.mask import MaskFile
from das2f_map.scene.products.stack import BandSource, single_file, stacked
from das2f_map.scene.report import ProductBandReport, ProductReport
from das2f_map.scene.virtual_image import VirtualImage


@dataclass(frozen=True)
class DeliveredScene:
    """The pair of images that a product holds. Can be pickled.

    Attributes
    ----------
    place:
        The product as the user names it: a folder, an archive, a metadata file or an address.
    kind:
        Kind of the product, e.g. ``Landsat Collection 2 Level-1``.
    name:
        The product's own name.
    ms:
        MS bands, in the order in which they are read.
    pan:
        The PAN band.
    files:
        Files and addresses that are read: metadata, images, or the archive.
    sensor:
        Satellite and instrument; empty if the product does not say.
    date:
        Date or time of acquisition, ISO 8601; empty if the product does not say.
    nodata:
        Value that pixels without a measurement have, as the product says; ``None`` if it does not.
    clouds:
        Mask of clouds in the product; ``None`` if it has none.
    cloud_words:
        The pixels that ``clouds`` leaves out; without ``clouds`` the reason why there is no mask.
    reflectance:
        How the bands' scale and offset give reflectance; empty if the product does not state them.
    notes:
        Sentences on what was left out or could not be found.
    as_files:
        Whether MS and PAN are a file each, to be read as any two files are.
    """

    place: str
    kind: str
    name: str
    ms: tuple[BandSource, ...]
    pan: BandSource
    files: tuple[str, ...]
    sensor: str = ""
    date: str = ""
    nodata: float | None = None
    clouds: MaskFile | None = None
    cloud_words: str = "the product has no quality band"
    reflectance: str = ""
    notes: tuple[str, ...] = ()
    as_files: bool = False

    def images(self, *, reflectance: bool) -> tuple[str | VirtualImage, str | VirtualImage]:
        """The MS and the PAN image, to be opened by :func:`das2f_map.scene.pair.open_pair`.

        Parameters
        ----------
        reflectance:
            Whether the images give reflectance in place of the file's own units.

        Raises
        ------
        InputError
            A file cannot be opened or is not rectified, bands lie on different grids, or reflectance is
            wanted and the product does not state its scale.
        """
        if reflectance and not self.can_give_reflectance:
            raise InputError(
                f"{self.kind} product {self.name} does not state a scale and offset to reflectance",
                "leave out --reflectance; --radiometry scene normalises with the scene's own statistics",
            )
        if self.as_files:
            return self.ms[0].files[0], self.pan.files[0]
        labels = ", ".join(b.label for b in self.ms)
        place = self.place.rstrip("/") or self.place
        ms = stacked(f"{place} ({labels})", self.ms, "MS", reflectance=reflectance)
        alone = None if reflectance else single_file(self.pan)
        if alone is not None:
            return ms, alone
        return ms, stacked(f"{place} ({self.pan.label})", (self.pan,), "PAN", reflectance=reflectance)

    def sentence(self) -> str:
        """What was recognised, in a sentence."""
        from_when = " of ".join(filter(None, (self.sensor, self.date)))
        bands = f"MS is {', '.join(b.label for b in self.ms)}, PAN is {self.pan.label}"
        return f"{self.kind} {self.name}{f' ({from_when})' if from_when else ''}: {bands}"

    @property
    def can_give_reflectance(self) -> bool:
        """Whether every band has a scale and offset to reflectance."""
        return all(b.scale is not None for b in (*self.ms, self.pan))

    def cloud_mask(self) -> MaskFile:
        """The mask of clouds. Raises ``InputError`` with the reason if the product has none."""
        if self.clouds is None:
            raise InputError(
                f"--mask clouds has no mask to take from {self.place}: {self.cloud_words}",
                "give a mask of your own: --mask FILE",
            )
        return self.clouds

    def report(self, *, reflectance: bool) -> ProductReport:
        """The product for a report; ``reflectance`` as in :meth:`images`."""
        return ProductReport(
            path=self.place,
            kind=self.kind,
            name=self.name,
            sensor=self.sensor or None,
            date=self.date or None,
            bands=[
                ProductBandReport(name=b.role, label=b.label, band=b.number, files=list(b.files))
                for b in (*self.ms, self.pan)
            ],
            nodata=self.nodata,
            reflectance=self.reflectance if self.can_give_reflectance else None,
            reflectance_applied=reflectance,
            clouds=None if self.clouds is None else str(self.clouds.path),
            clouds_excluded=self.cloud_words,
            notes=list(self.notes),
        )
