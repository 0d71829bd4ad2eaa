"""A run that its report records, made ready to be done again."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from das2f_map._version import __version__
from das2f_map.bundle.catalogue import bundled_models, load_model
from das2f_map.bundle.model import ModelBundle
from das2f_map.errors import InputError, ModelError
from das2f_map.products.report import InputReport, RunReport
from das2f_map.scene.fingerprint import Fingerprint
from das2f_map.scene.mask import MaskFile
from das2f_map.scene.paths import is_file, is_local, readable
from das2f_map.scene.products.delivery import read_text

log = logging.getLogger(__name__)

PER_RUN: Final = frozenset({"cls", "overwrite", "resume", "max_memory", "workers", "cluster"})
"""Arguments of a run that change no file, and belong to one machine."""
_INPUTS: Final = ("ms", "pan", "aoi", "model")
_OUTPUTS: Final = ("vectors", "confidence", "probabilities", "entropy")
_MASK: Final = TypeAdapter(MaskFile)


def recorded_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a run as JSON has them, without those that belong to one machine."""
    return {name: _recorded(value) for name, value in given.items() if name not in PER_RUN}


def _recorded(value: Any) -> Any:
    if isinstance(value, Path):
        return readable(value)
    if isinstance(value, MaskFile):
        return _MASK.dump_python(value, mode="json")
    if isinstance(value, ModelBundle):
        return None if value.path is None else readable(value.path)
    if hasattr(value, "item"):  # a number of NumPy's
        return value.item()
    return to_jsonable_python(value, fallback=str)


def recorded_inputs(paths: list[str]) -> list[InputReport]:
    """The files that a run reads, with their sizes and checksums."""
    found = []
    for path in dict.fromkeys(paths):
        fingerprint = Fingerprint.of(path)
        found.append(InputReport(path=path, bytes=fingerprint.bytes, sha256=fingerprint.sha256))
    return found


def card_digest(bundle: ModelBundle) -> str:
    """SHA-256 of a model's card, hexadecimal."""
    return hashlib.sha256(bundle.card.model_dump_json().encode()).hexdigest()


@dataclass(frozen=True)
class RecordedRun:
    """The report of a run, and the place that its relative paths start from.

    Attributes
    ----------
    path:
        The report's file.
    report:
        The report.
    arguments:
        Arguments of :func:`das2f_map.classify`, as they were given; paths lead to the files from here.
    """

    path: Path
    report: RunReport
    arguments: dict[str, Any]

    @classmethod
    def read(cls, path: str | Path) -> RecordedRun:
        """The run of a report.

        Raises
        ------
        InputError
            The file is no report of a map's run, or one of a version that did not record the arguments.
        """
        file = Path(path)
        if not is_file(file):
            raise InputError(f"report {path} does not exist", "classify writes it beside the map")
        try:
            report = RunReport.model_validate_json(read_text(str(file)))
        except ValidationError as error:
            raise InputError(
                f"{path} is no report of a map's run: {error.errors()[0]['msg']}",
                "give the .json file that classify wrote beside the map",
            ) from error
        if report.request is None:
            raise InputError(
                f"{path} does not record the options of its run",
                "it is by an older das2f-map: run classify again",
            )
        base = _base(file, report)
        arguments = dict(report.request)
        for name in (*_INPUTS, *_OUTPUTS, "output"):
            arguments[name] = _from(base, arguments.get(name))
        mask = arguments.get("mask")
        if isinstance(mask, dict):
            arguments["mask"] = _MASK.validate_python({**mask, "path": _from(base, mask["path"])})
        # As the run resolved them: `auto` may choose otherwise today.
        arguments |= {"engine": report.engine, "precision": report.precision, "turns": report.turns}
        arguments["model"] = _model(report, arguments["model"])
        return cls(file, report, arguments)

    def require_unchanged(self) -> None:
        """Raise :class:`InputError` or :class:`ModelError` if an input or the model has changed."""
        base = _base(self.path, self.report)
        changed = [
            why for one in self.report.inputs if (why := _change(one, str(_from(base, one.path)))) is not None
        ]
        if changed:
            raise InputError(
                f"inputs of {self.path} have changed: {'; '.join(changed)}",
                "bring them back, or map the new ones with classify",
            )
        bundle = load_model(self.arguments["model"])
        was = self.report.model
        if (bundle.digest(), card_digest(bundle)) != (was.weights_sha256, was.card_sha256):
            part = "weights" if bundle.digest() != was.weights_sha256 else "entries in its card"
            raise ModelError(
                f"model {was.name} is another one than in the run of {self.path}: its {part} differ",
                "bring the old one back, or map with the new one: classify",
            )
        if unknown := [one.path for one in self.report.inputs if one.sha256 is None]:
            log.warning("%s cannot be compared with the run's: no local file", ", ".join(unknown))
        if self.report.software_version != __version__:
            log.warning(
                "%s is by das2f-map %s, this is %s: the map may differ",
                self.path,
                self.report.software_version,
                __version__,
            )

    def elsewhere(self, output: str | Path) -> RecordedRun:
        """The same run with all outputs in another folder; those named after the map follow its new name."""
        old, new = Path(self.arguments["output"]), Path(output)
        arguments = {**self.arguments, "output": str(new)}
        for name in _OUTPUTS:
            if path := self.arguments.get(name):
                own = Path(path).name
                rest = own.removeprefix(old.stem)
                # `area.tif` is not named after `a.tif`.
                named = rest != own and not rest[:1].isalnum()
                called = new.stem + rest if named else own
                place = new.parent / called
                if place.resolve() == Path(path).resolve():
                    place = new.parent / f"{new.stem}_{own}"
                arguments[name] = str(place)
        return RecordedRun(self.path, self.report, arguments)


def _base(file: Path, report: RunReport) -> Path:
    """The folder that relative paths of a report start from: where the run was, also if all has moved."""
    named = Path(report.outputs["report"])
    here = file.absolute()
    if not named.is_absolute() and ".." not in named.parts and here.parts[-len(named.parts) :] == named.parts:
        return Path(*here.parts[: -len(named.parts)])
    return Path(report.folder) if report.folder is not None else Path()


def _from(base: Path, path: Any) -> Any:
    """A relative local path from a folder; anything else as it is. A bundled model's name is no path."""
    if (
        not isinstance(path, str)
        or path in bundled_models()
        or not is_local(path)
        or Path(path).is_absolute()
    ):
        return path
    return path if base == Path.cwd() else str(base / path)


def _model(report: RunReport, given: Any) -> str:
    """The model of a run by name or path."""
    if given is not None:
        return str(given)
    if report.model.name in bundled_models():
        return report.model.name
    if report.model.path is None:
        raise ModelError(f"model {report.model.name} was given in memory", "save it, and run classify")
    return report.model.path


def _change(was: InputReport, path: str) -> str | None:
    """How a file differs from the report's; ``None`` if it does not, or if that cannot be told."""
    if was.sha256 is None:
        return None
    now = Fingerprint.of(path)
    if now.bytes is None:
        return f"{path} is not there"
    if now.bytes != was.bytes:
        return f"{path} has {now.bytes:,} bytes, had {was.bytes:,}"
    return None if now.sha256 == was.sha256 else f"{path} has other content"
