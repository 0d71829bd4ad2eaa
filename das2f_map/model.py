"""The model bundle: a folder (or zip) with ``model.safetensors`` and ``model.json``, the card.

The card holds everything a map needs beside the weights: network sizes, legend, band order,
normalisation statistics, patch geometry, where the training data came from and how good the
model is. Weights are safetensors only; nothing in a bundle is ever evaluated.
"""

from __future__ import annotations

import difflib
import json
import shutil
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import safetensors
import safetensors.torch
import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    field_validator,
    model_validator,
)
from torch import Tensor

from das2f_map.errors import ModelError, OutputError
from das2f_map.legend import Legend
from das2f_map.network import Das2fNet, NetworkConfig
from das2f_map.scene.radiometry import BandStatistics

FORMAT_VERSION: Final = 1
CARD_NAME = "model.json"
WEIGHTS_NAME = "model.safetensors"


class PatchGeometry(BaseModel):
    """Where the classified pixel sits in its patch, and how scene borders are filled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(default=16, ge=2, description="MS pixels a side")
    target_index: int = Field(default=7, ge=0, description="row and column of the classified pixel, from 0")
    pan_per_ms: Literal[4] = 4
    border: Literal["reflect101"] = Field(
        default="reflect101", description="reflection that does not repeat the edge pixel"
    )
    invalid_fill: Literal["neighbours", "band-mean"] = Field(
        default="neighbours",
        description="what an invalid neighbour in a patch is replaced by: means of what is around it, "
        "see scene/fill.py, or the band's mean",
    )
    max_invalid_share: float = Field(
        default=0.5, ge=0, le=1, description="a target with more invalid pixels in its patch is nodata"
    )

    @model_validator(mode="after")
    def _inside(self) -> PatchGeometry:
        if self.target_index >= self.size:
            raise ValueError(f"target_index {self.target_index} lies outside a patch of {self.size}")
        return self

    @property
    def fill_radius(self) -> int:
        """MS pixels up to which invalid neighbours are filled: every pixel that a patch can have, since its
        target is valid; 0 for the band's mean."""
        return max(self.before, self.after) if self.invalid_fill == "neighbours" else 0

    @property
    def before(self) -> int:
        """Halo above and left of a target, MS pixels."""
        return self.target_index

    @property
    def after(self) -> int:
        """Halo below and right of a target, MS pixels."""
        return self.size - 1 - self.target_index


class Domain(BaseModel):
    """The scenes the model is meant for; `classify` without `--model` chooses by it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ms_gsd_m: tuple[FiniteFloat, FiniteFloat] = Field(
        description="smallest and largest MS pixel size, metres"
    )
    ratio: tuple[FiniteFloat, FiniteFloat] = Field(
        description="smallest and largest MS : PAN pixel size ratio"
    )
    sensor: str = Field(default="", description="free text, e.g. 'Landsat-8 OLI, digital numbers'")


def domain_around(ms_gsd_m: float, ratio: float) -> Domain:
    """The domain of a model trained on one scene: a fifth finer to a quarter coarser, and so its ratio."""
    return Domain(ms_gsd_m=(0.8 * ms_gsd_m, 1.25 * ms_gsd_m), ratio=(0.8 * ratio, 1.25 * ratio))


class TrainingRecord(BaseModel):
    """Where the weights came from, enough to judge and to repeat."""

    model_config = ConfigDict(extra="forbid")

    data: str = Field(default="", description="what was trained on, in words, with source and licence")
    split: dict[str, Any] = Field(default_factory=dict, description="spatial split: block size, gap, counts")
    settings: dict[str, Any] = Field(default_factory=dict, description="epochs, batch, seed, rate…")
    notes: str = ""


class ModelCard(BaseModel):
    """``model.json``."""

    model_config = ConfigDict(extra="forbid")

    format_version: Literal[1] = FORMAT_VERSION
    name: str
    description: str = ""
    network: NetworkConfig
    legend: Legend
    ms_bands: tuple[BandStatistics, ...]
    pan_band: BandStatistics
    patch: PatchGeometry = PatchGeometry()
    domain: Domain | None = None
    training: TrainingRecord = TrainingRecord()
    metrics: dict[str, Any] = Field(default_factory=dict, description="held-out accuracy, see accuracy.py")
    software_version: str = ""
    licence: str = ""

    @field_validator("metrics")
    @classmethod
    def _readable_metrics(cls, metrics: dict[str, Any]) -> dict[str, Any]:
        """What others rely on in the figures; whatever else a training notes is its own affair."""
        for part, figures in metrics.items():
            if not isinstance(figures, dict):
                raise ValueError(f"{part} must be a table of figures")
            for key in ("overall_accuracy", "average_accuracy", "kappa"):
                if not isinstance(figures.get(key), (int, float, type(None))):
                    raise ValueError(f"{part}.{key} must be a number or null")
            classes = figures.get("classes", [])
            if not isinstance(classes, list) or not all(isinstance(c, dict) and "name" in c for c in classes):
                raise ValueError(f"{part}.classes must list the classes by name")
        return metrics

    @model_validator(mode="after")
    def _consistent(self) -> ModelCard:
        if len(self.ms_bands) != self.network.ms_bands:
            raise ValueError(f"{len(self.ms_bands)} band statistics for {self.network.ms_bands} MS bands")
        if len(self.legend) != self.network.classes:
            raise ValueError(f"legend of {len(self.legend)} for a network of {self.network.classes} classes")
        if self.patch.size != self.network.patch_size:
            raise ValueError(f"patch of {self.patch.size} for a network of {self.network.patch_size}")
        return self


class ModelBundle:
    """A card and the network's weights; :meth:`network` builds the torch module of them."""

    def __init__(self, card: ModelCard, state_dict: Mapping[str, Tensor], path: Path | None = None) -> None:
        self.card = card
        self.state_dict = dict(state_dict)
        self.path = path

    def network(self) -> Das2fNet:
        """The network in evaluation mode, float32 on the CPU, with this bundle's weights.

        Raises :class:`~das2f_map.errors.ModelError` when weights and card do not belong together.
        """
        with torch.device("meta"):
            network = Das2fNet(self.card.network)
        if problems := state_dict_problems(network.state_dict(), self.state_dict):
            where = f" in {self.path}" if self.path else ""
            raise ModelError(
                f"the weights{where} do not fit the card's network: {problems}",
                "the bundle is damaged; import or train it again",
            )
        kinds = network.state_dict()
        network.load_state_dict({n: t.to(kinds[n].dtype) for n, t in self.state_dict.items()}, assign=True)
        return network.eval()


def state_dict_problems(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], limit: int = 6) -> str:
    """What is missing, unexpected, of another shape or not finite in ``given``; empty when all fits."""
    shapes = {
        name: f"{name} is {_shape(given[name])}, should be {_shape(tensor)}"
        for name, tensor in expected.items()
        if name in given and given[name].shape != tensor.shape
    }
    bad = [n for n, t in given.items() if n in expected and t.is_floating_point() and not t.isfinite().all()]
    parts = []
    for label, names in (
        ("missing", [n for n in expected if n not in given]),
        ("unexpected", [n for n in given if n not in expected]),
        ("of another shape", list(shapes.values())),
        ("not finite", bad),
    ):
        if names:
            more = f" and {len(names) - limit} more" if len(names) > limit else ""
            parts.append(f"{len(names)} {label} ({', '.join(names[:limit])}{more})")
    return "; ".join(parts)


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "scalar"


def require_replaceable(path: Path, *, overwrite: bool) -> None:
    """Raise :class:`~das2f_map.errors.OutputError` unless a bundle may be written at ``path``.

    A bundle that exists is replaced only with ``overwrite``; a folder or file that is none, never.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not ((path / CARD_NAME).is_file() if path.is_dir() else zipfile.is_zipfile(path)):
        raise OutputError(f"{path} exists and is not a model bundle", "choose another name with -o")
    if not overwrite:
        raise OutputError(f"{path} exists already", "use --overwrite to replace it")


def save_bundle(
    path: Path,
    card: ModelCard,
    state_dict: Mapping[str, Tensor],
    *,
    add_files: Callable[[Path], None] | None = None,
) -> None:
    """Write a bundle: a folder, or one file when the path ends in ``.zip``.

    It is made beside its place and renamed when complete; one that exists is replaced as a whole.

    Parameters
    ----------
    path:
        Of the bundle; its parent folders are made.
    card, state_dict:
        What it holds.
    add_files:
        Writes further files into the unfinished folder that it is given.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    tensors = {name: t.detach().cpu().contiguous() for name, t in state_dict.items()}
    path = path.resolve()  # a link stays a link to the new bundle; `.` gets its name
    partial = path.with_name(f".{path.name}.partial")
    replaced = path.with_name(f".{path.name}.replaced")
    try:
        _remove(partial)
        partial.mkdir(parents=True)
        metadata = {"format": "pt", "model": card.name}
        (partial / WEIGHTS_NAME).write_bytes(safetensors.torch.save(tensors, metadata=metadata))
        (partial / CARD_NAME).write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")
        if add_files is not None:
            add_files(partial)
        if path.suffix == ".zip":
            archive_path = partial / path.name
            members = [p for p in partial.iterdir() if p.is_file()]
            with zipfile.ZipFile(archive_path, "w", zipfile.ZIP_STORED) as archive:
                for member in members:
                    archive.write(member, member.name)
            archive_path.replace(path)
            return
        if path.exists():
            _remove(replaced)
            path.rename(replaced)
        partial.rename(path)
        _remove(replaced)
    except OSError as error:
        raise OutputError(f"cannot write the model bundle {path}: {error.strerror or error}") from error
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)  # an error may be on its way to the user: that one counts
    else:
        path.unlink(missing_ok=True)


def bundle_files(path: Path) -> list[Path]:
    """All files of a bundle: the zip, or what is in the folder."""
    return sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]


def read_card(path: Path) -> ModelCard:
    """The card of a bundle or an ONNX file, without its weights. Errors as :func:`load_bundle`."""
    if _is_onnx(path):
        return load_bundle(path).card
    return parse_card(_read_member(path, CARD_NAME), path, CARD_NAME)


def parse_card(text: bytes, path: Path, where: str) -> ModelCard:
    """The card that stands ``where`` in the model ``path``. Errors as :func:`load_bundle`."""
    if (version := _format_version(text)) > FORMAT_VERSION:
        raise ModelError(
            f"{path} has bundle format {version}, this das2f-map reads up to {FORMAT_VERSION}",
            "update das2f-map",
        )
    try:
        return ModelCard.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(f"{part}: " for part in first["loc"])
        raise ModelError(
            f"{path}: {where} is not a das2f-map model card: {place}{first['msg']}",
            "a checkpoint of the published network is turned into a bundle by `das2f-map models import`",
        ) from error


def _is_onnx(path: Path) -> bool:
    return path.suffix.lower() == ".onnx" and not path.is_dir()


def load_bundle(path: str | Path) -> ModelBundle:
    """Read a bundle folder or zip, or an ONNX file as a :class:`~das2f_map.onnx_file.OnnxModel`.

    Raises :class:`~das2f_map.errors.ModelError` when it is missing, damaged, foreign, or written by a
    newer version; :class:`~das2f_map.errors.MissingDependencyError` for ONNX without onnxruntime.
    """
    path = Path(path)
    if _is_onnx(path):
        from das2f_map.onnx_file import load_onnx

        return load_onnx(path)
    card = read_card(path)
    data = _read_member(path, WEIGHTS_NAME)
    try:
        state_dict = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise ModelError(f"{path}: {WEIGHTS_NAME} is damaged or not a safetensors file: {error}") from error
    return ModelBundle(card, state_dict, path)


def _format_version(card: bytes) -> int:
    """Of a card that may be of a later version or no card at all: 0 where it does not say."""
    try:
        version = json.loads(card)["format_version"]
    except (ValueError, TypeError, KeyError):
        return 0
    return version if isinstance(version, int) else 0


def _read_member(path: Path, name: str) -> bytes:
    hint = "`das2f-map models list` shows the bundled models"
    if not path.exists():
        raise ModelError(f"model not found: {path}", hint)
    try:
        if path.is_dir():
            return (path / name).read_bytes()
        with zipfile.ZipFile(path) as archive:
            return archive.read(name)
    except (FileNotFoundError, KeyError) as error:
        raise ModelError(f"{path} is not a model bundle: it has no {name}", hint) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        # A damaged stream, a password, a compression that Python does not know.
        raise ModelError(
            f"{path} is not a model bundle: neither a folder nor a sound zip file",
            "a checkpoint of the published network is turned into a bundle by `das2f-map models import`",
        ) from error
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error


def bundled_models() -> dict[str, Path]:
    """Name → folder of the models that ship with the package, in alphabetical order.

    In a checkout they are in ``models/`` beside the package; a wheel carries them inside it.
    """
    package = Path(__file__).parent
    for folder in (package / "models", package.parent / "models"):
        found = {p.parent.name: p.parent for p in sorted(folder.glob(f"*/{CARD_NAME}"))}
        if found:
            return found
    return {}


def find_model(name_or_path: str | Path) -> Path:
    """The bundle a user means: a bundled model's name, else a path.

    Raises :class:`~das2f_map.errors.ModelError`, with near names, when there is neither.
    """
    bundled = bundled_models()
    if str(name_or_path) in bundled:
        return bundled[str(name_or_path)]
    path = Path(name_or_path)
    if path.exists():
        return path
    near = difflib.get_close_matches(str(name_or_path), bundled, n=1, cutoff=0.5)
    known = f"bundled models: {', '.join(bundled) or 'none'}"
    raise ModelError(
        f"no model {str(name_or_path)!r}: neither a bundled model nor a path",
        f"did you mean {near[0]!r}?" if near else known,
    )
