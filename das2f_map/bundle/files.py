"""The model bundle on disk: a folder (or zip) with ``model.safetensors`` and ``model.json``, the card.

Weights are safetensors only; nothing in a bundle is ever evaluated.
"""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from das2f_map.bundle.card import ModelCard, parse_card
from das2f_map.bundle.model import ModelBundle
from das2f_map.bundle.onnx_file import load_onnx
from das2f_map.errors import ModelError, OutputError

CARD_NAME = "model.json"
WEIGHTS_NAME = "model.safetensors"


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


def _is_onnx(path: Path) -> bool:
    return path.suffix.lower() == ".onnx" and not path.is_dir()


def load_bundle(path: str | Path) -> ModelBundle:
    """Read a bundle folder or zip, or an ONNX file as a :class:`~das2f_map.bundle.onnx_file.OnnxModel`.

    Raises :class:`~das2f_map.errors.ModelError` when it is missing, damaged, foreign, or written by a
    newer version; :class:`~das2f_map.errors.MissingDependencyError` for ONNX without onnxruntime.
    """
    path = Path(path)
    if _is_onnx(path):
        return load_onnx(path)
    card = read_card(path)
    data = _read_member(path, WEIGHTS_NAME)
    try:
        state_dict = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise ModelError(f"{path}: {WEIGHTS_NAME} is damaged or not a safetensors file: {error}") from error
    return ModelBundle(card, state_dict, path)


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
