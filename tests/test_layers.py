"""Imports only point down the layers of docs/structure.py, without circles; those of benchmarks too."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def structure(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("structure")


def test_package_keeps_the_rules(structure: Any) -> None:
    modules = structure.modules_in(ROOT / "das2f_map", "das2f_map")
    imports = structure.read_imports(modules)
    assert len(imports) > 300
    found = structure.broken_rules(modules, imports)
    assert not found, "\n" + "\n".join(found)


SHARED = ("ablated", "common", "disturbed", "held_ground", "methods", "runs", "taught", "tried", "trivial")
"""Benchmarks' modules that other benchmarks may import."""


def test_benchmarks_import_shared_modules_and_render_imports_benchmarks(structure: Any) -> None:
    imports = structure.read_imports(structure.modules_in(ROOT / "benchmarks"))
    assert {i.imported for i in imports if i.importer == "render"} > {"common", "engines"}
    found = [
        f"{i}: a benchmark imports the shared modules alone, and only render.py imports benchmarks"
        for i in imports
        if i.importer != "render" and i.imported not in SHARED
    ]
    found += structure.circles(imports)
    assert not found, "\n" + "\n".join(found)


MADE_UP = {
    "__init__": "",
    "errors": "",
    "cli/app": "from das2f_map.workflows import classify",
    "workflows/classify": "import das2f_map.scene.pair\nimport das2f_map.engines.choose",
    "workflows/train": "import das2f_map.scene.pair",
    "engines/choose": "import das2f_map.errors as e",
    "scene/pair": "def read():\n    from das2f_map import errors\n",
}
"""A package that keeps the rules: module → text."""


def write(folder: Path, modules: dict[str, str]) -> Path:
    for name, text in modules.items():
        path = folder / "das2f_map" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder / "das2f_map"


def broken(structure: Any, folder: Path, changed: dict[str, str]) -> list[str]:
    """Broken rules of the made-up package with some modules replaced or added."""
    modules = structure.modules_in(write(folder, MADE_UP | changed), "das2f_map")
    imports = structure.read_imports(modules)
    # It has few of the layers.
    return [line for line in structure.broken_rules(modules, imports) if "has no module" not in line]


def test_a_package_that_keeps_the_rules_passes(structure: Any, tmp_path: Path) -> None:
    assert broken(structure, tmp_path, {}) == []


@pytest.mark.parametrize(
    ("text", "line", "when"),
    [
        ("import os\nimport das2f_map.engines.choose", 2, "at module level"),
        ("from das2f_map.engines.choose import choose", 1, "at module level"),
        ("from das2f_map.engines import choose", 1, "at module level"),
        ("from ..engines import choose", 1, "at module level"),
        ("from ..engines.choose import (\n    choose,\n    other,\n)", 1, "at module level"),
        (
            "try:\n    from das2f_map.engines.choose import x\nexcept ImportError:\n    x = 1",
            2,
            "at module level",
        ),
        ("class A:\n    async def b(self):\n        import das2f_map.engines.choose", 3, "in a function"),
        ("if TYPE_CHECKING:\n    from das2f_map.engines.choose import x", 2, "for types"),
        (
            "import typing as t\nif t.TYPE_CHECKING:\n    from das2f_map.engines.choose import x",
            3,
            "for types",
        ),
        ("if not TYPE_CHECKING:\n    from das2f_map.engines.choose import x", 2, "at module level"),
        ("import importlib\nHOMES = {'x': 'das2f_map.engines.choose'}", 2, "by name"),
    ],
)
def test_an_import_that_points_up(text: str, line: int, when: str, structure: Any, tmp_path: Path) -> None:
    (found,) = broken(structure, tmp_path, {"scene/pair": text})
    assert found == (
        f"{tmp_path}/das2f_map/scene/pair.py:{line}: das2f_map.scene.pair imports das2f_map.engines.choose "
        f"{when}: imports only point down, and engines lies above scene"
    )


@pytest.mark.parametrize(
    ("module", "text", "high", "low"),
    [
        ("errors", "from das2f_map.scene.pair import read", "scene", "foundation"),
        ("cli/app", "from das2f_map import __version__", "das2f_map", "cli"),
        ("engines/choose", "from das2f_map.workflows.train import train", "workflows", "engines"),
    ],
)
def test_highest_and_lowest_layer(
    module: str, text: str, high: str, low: str, structure: Any, tmp_path: Path
) -> None:
    found = broken(structure, tmp_path, {module: text})
    assert found[0].endswith(f"imports only point down, and {high} lies above {low}")


def test_a_workflow_that_imports_another(structure: Any, tmp_path: Path) -> None:
    (found,) = broken(
        structure, tmp_path, {"workflows/train": "from das2f_map.workflows.classify import plan"}
    )
    assert "workflows/train.py:1: das2f_map.workflows.train imports das2f_map.workflows.classify" in found
    assert found.endswith("workflows share the layers below them, not each other")


@pytest.mark.parametrize(
    "back",
    [
        "from das2f_map.scene.pair import read",
        "def f():\n    from das2f_map.scene.pair import read",
        "if TYPE_CHECKING:\n    from das2f_map.scene.pair import read",
    ],
)
def test_a_circle(back: str, structure: Any, tmp_path: Path) -> None:
    changed = {
        "scene/pair": "import das2f_map.scene.grid",
        "scene/grid": "\nfrom das2f_map.scene import mask",
        "scene/mask": back,
    }
    (found,) = broken(structure, tmp_path, changed)
    for link in (
        "scene/pair.py:1: das2f_map.scene.pair imports das2f_map.scene.grid",
        "scene/grid.py:2: das2f_map.scene.grid imports das2f_map.scene.mask",
        f"scene/mask.py:{back.count(chr(10)) + 1}: das2f_map.scene.mask imports das2f_map.scene.pair",
    ):
        assert link in found
    assert found.endswith("imports form no circle")


def test_two_circles_are_two_findings(structure: Any, tmp_path: Path) -> None:
    changed = {
        "scene/pair": "from das2f_map.scene import mask, grid",
        "scene/grid": "import das2f_map.scene.pair",
        "scene/mask": "import das2f_map.scene.pair",
    }
    assert len(broken(structure, tmp_path, changed)) == 2


def test_a_folder_and_its_own_module(structure: Any, tmp_path: Path) -> None:
    changed = {
        "scene/__init__": "from das2f_map.scene.pair import read",
        "scene/pair": "from das2f_map.scene import read",
    }
    (found,) = broken(structure, tmp_path, changed)
    assert found.endswith("imports form no circle")


@pytest.mark.parametrize(("module", "stranger"), [("extras/tool", "extras"), ("tool", "tool")])
def test_a_folder_or_module_without_a_layer(
    module: str, stranger: str, structure: Any, tmp_path: Path
) -> None:
    (found,) = broken(structure, tmp_path, {module: ""})
    assert found.startswith(f"{tmp_path}/das2f_map/{module}.py: {stranger} is no layer")


def test_a_layer_without_modules(structure: Any, tmp_path: Path) -> None:
    modules = structure.modules_in(write(tmp_path, MADE_UP), "das2f_map")
    found = structure.unknown_layers(modules)
    assert "labels is a layer in docs/structure.py and has no module" in found
    assert not any("scene" in line for line in found)


@pytest.mark.slow
def test_picture_is_the_same_each_time_and_shows_the_imports(structure: Any, tmp_path: Path) -> None:
    import matplotlib.image

    def drawn(name: str) -> Any:
        modules = structure.modules_in(tmp_path / "das2f_map", "das2f_map")
        structure.draw(modules, structure.read_imports(modules), tmp_path / name)
        return matplotlib.image.imread(tmp_path / name)[..., :3]

    def has_red(picture: Any) -> bool:
        red = [int(structure.UPWARD[i : i + 2], 16) for i in (1, 3, 5)]
        # The file has few colours, so it need not be quite the same.
        return bool((abs(255 * picture - red) < 16).all(axis=-1).any())

    write(tmp_path, MADE_UP)
    first = drawn("first.png")
    drawn("again.png")
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    assert first.shape[1] == 1200
    assert not has_red(first)
    write(tmp_path, {"scene/pair": "import das2f_map.engines.choose"})
    assert has_red(drawn("upward.png"))
