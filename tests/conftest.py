"""What all tests share. ``from synthetic import make_pair`` works from any test file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
# Test files are imported without a package (importlib mode), so their helpers need a place on the path.
sys.path.insert(0, str(HERE))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of further real scenes beside the repository, where there is one."""
    folder = HERE.parents[1] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real scenes in {folder}, which are not part of the repository")
    return folder
