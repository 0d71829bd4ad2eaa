"""How this package was installed, so that a hint about a missing extra works as it is typed."""

from __future__ import annotations

import json
import shlex
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

NAME = "das2f-map"
PACKAGE = Path(__file__).resolve().parent


def install_extra(extra: str) -> str:
    """The command that adds an extra to this installation, for the place that it was installed from."""
    return f"pip install {shlex.quote(requirement(extra, _origin(), PACKAGE.parent))}"


def requirement(extra: str, origin: dict[str, Any] | None, folder: Path) -> str:
    """The requirement that pip needs.

    Parameters
    ----------
    origin:
        The record of a direct installation (PEP 610); ``None`` for a package from an index, or for none.
    folder:
        The folder that contains the package.
    """
    if (folder / "pyproject.toml").is_file():
        # The package is imported from a checkout, whatever else is installed.
        return f"{folder}[{extra}]"
    if origin is None:
        return f"{NAME}[{extra}]"
    url = str(origin.get("url", ""))
    local = urlsplit(url)
    if "vcs_info" in origin:
        vcs = origin["vcs_info"]
        return f"{NAME}[{extra}] @ {vcs['vcs']}+{url}@{vcs['commit_id']}"
    if local.scheme == "file" and "dir_info" in origin:
        return f"{unquote(local.path)}[{extra}]"
    return f"{NAME}[{extra}] @ {url}"


def _origin() -> dict[str, Any] | None:
    """The record of a direct installation; ``None`` if pip has noted none."""
    try:
        text = metadata.distribution(NAME).read_text("direct_url.json")
        found = json.loads(text) if text else None
    except (metadata.PackageNotFoundError, OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
