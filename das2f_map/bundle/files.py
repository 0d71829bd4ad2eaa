"""The model bundle on disk: a folder (or zip) with ``model.safetensors`` and ``model.json``, the card.

Weights are safetensors only; nothing in a bundle is ever evaluated.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

import safetensors
import safetensors.torch
from torch import Tensor

from das2f_map.bundle.card import ModelCard
from das2f_map.bundle.members import CARD_NAME, WEIGHTS_NAME, is_onnx, read_card
from das2f_map.bundle.model import ModelBundle, weights_limit
from das2f_map.bundle.onnx_file import load_onnx
from das2f_map.bundle.untrusted import read_member
from das2f_map.errors import ModelError, OutputError
from das2f_map.outputs.names import require_local
from das2f_map.outputs.staging import StagedOutputs
from das2f_map.scene.paths import exists

__all__ = [
    "CARD_NAME",
    "WEIGHTS_NAME",
    "BundleOutput",
    "bundle_files",
    "load_bundle",
    "read_card",
    "require_replaceable",
    "save_bundle",
]


def require_replaceable(path: Path, *, overwrite: bool) -> None:
    """Raise :class:`~das2f_map.errors.OutputError` unless a bundle may be written at ``path``.

    A bundle that exists is replaced only with ``overwrite``; a folder or file that is none, never.
    """
    if not exists(path) or (path.is_dir() and not any(path.iterdir())):
        return
    if not ((path / CARD_NAME).is_file() if path.is_dir() else zipfile.is_zipfile(path)):
        raise OutputError(f"{path} exists and is not a model bundle", "choose another name with -o")
    if not overwrite:
        raise OutputError(f"{path} exists already", "use --overwrite to replace it")


class BundleOutput:
    """A place for a bundle, held by this run until the ``with`` block ends; the bundle appears then.

    The bundle is a folder, or one file when the path ends in ``.zip``. It replaces one that exists as a
    whole.

    Parameters
    ----------
    path:
        Of the bundle; its parent folders are made.
    overwrite:
        Replace a bundle that exists.

    Raises
    ------
    OutputError
        The path cannot be written, is a root, is written by another run, or must not be replaced.
    """

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        require_local(path)
        self._given, self._overwrite = path, overwrite
        self.path = path.resolve()  # a link stays a link to the new bundle; `.` gets its name
        if not self.path.name:
            raise OutputError(
                f"cannot write the model bundle {path}: it is the root of a file system",
                "give the path of a folder in it",
            )
        self._outputs = StagedOutputs(overwrite=True)
        self._staged: Path | None = None

    def __enter__(self) -> BundleOutput:
        with ExitStack() as stack:
            outputs = stack.enter_context(self._outputs)
            with self._named_errors():
                self._staged = outputs.stage_whole(
                    self.path, lambda: require_replaceable(self._given, overwrite=self._overwrite)
                )
            stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._outputs.__exit__(kind, error, trace)

    def write(
        self,
        card: ModelCard,
        state_dict: Mapping[str, Tensor],
        *,
        add_files: Callable[[Path], None] | None = None,
    ) -> None:
        """Write the bundle; see :func:`save_bundle`."""
        if self._staged is None:
            raise ValueError("a bundle is written inside the with block")
        tensors = {name: t.detach().cpu().contiguous() for name, t in state_dict.items()}
        is_zip = self.path.suffix == ".zip"
        with self._named_errors():
            folder = self._outputs.work_folder(self.path) / "bundle" if is_zip else self._staged
            folder.mkdir()
            # safetensors writes several entries in any order; with one, equal weights are equal files.
            weights = safetensors.torch.save(tensors, metadata={"format": "pt"})
            (folder / WEIGHTS_NAME).write_bytes(weights)
            (folder / CARD_NAME).write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")
            if add_files is not None:
                add_files(folder)
            if is_zip:
                with zipfile.ZipFile(self._staged, "w", zipfile.ZIP_STORED) as archive:
                    for member in sorted(p for p in folder.iterdir() if p.is_file()):
                        archive.write(member, member.name)

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"cannot write the model bundle {self.path}: {error.strerror or error}"
            ) from error


def save_bundle(
    path: Path,
    card: ModelCard,
    state_dict: Mapping[str, Tensor],
    *,
    add_files: Callable[[Path], None] | None = None,
) -> None:
    """Write a bundle: a folder, or one file when the path ends in ``.zip``.

    It appears when it is complete; one that exists is replaced as a whole.

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
        It cannot be written, or another run writes it; or something that is no bundle lies there.
    """
    with BundleOutput(path, overwrite=True) as output:
        output.write(card, state_dict, add_files=add_files)


def bundle_files(path: Path) -> list[Path]:
    """All files of a bundle: the zip, or what is in the folder."""
    return sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]


def load_bundle(path: str | Path) -> ModelBundle:
    """Read a bundle folder or zip, or an ONNX file as a :class:`~das2f_map.bundle.onnx_file.OnnxModel`.

    Raises :class:`~das2f_map.errors.ModelError` when it is missing, damaged, foreign, larger than the network
    of its card, or written by a newer version; :class:`~das2f_map.errors.MissingDependencyError` for ONNX
    without onnxruntime.
    """
    path = Path(path)
    if is_onnx(path):
        return load_onnx(path)
    card = read_card(path)
    data = read_member(path, WEIGHTS_NAME, weights_limit(card, path))
    try:
        state_dict = safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        # Types of numbers that torch lacks are a KeyError.
        raise ModelError(f"{path}: {WEIGHTS_NAME} is damaged or not a safetensors file: {error}") from error
    return ModelBundle(card, state_dict, path)
