"""The layers of das2f_map: their order, the rules for imports, and a picture of both.

    python docs/structure.py

This reads the imports of every module, draws them into docs/images/layers.png and lists the broken rules.
tests/test_layers.py checks the same rules. This script parses the package and imports nothing of it.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "das2f_map"
PICTURE = ROOT / "docs" / "images" / "layers.png"

LAYERS = {
    "cli": "commands: parse options, call one workflow, print",
    "workflows": "one module a verb: plan, run, finish",
    "mapping": "a map: request, plan, run",
    "running": "compute the blocks of a plan",
    "training": "split, patches, loop",
    "pages": "HTML pages about maps and models",
    "assess": "confusion matrix, accuracies",
    "labels": "vector, raster or table → labelled pixels",
    "engines": "normalised block → logits",
    "products": "rasters, polygons, styles, pictures, reports",
    "bundle": "the model on disk: card, weights, catalogue",
    "outputs": "files that appear complete or not at all",
    "scene": "an MS + PAN pair on one grid → normalised blocks",
    "network": "the DAS²F modules and the selective scan",
}
"""Folders of the package from top to bottom, and their contents. A folder may import from those below it."""

FOUNDATION = ("legend", "types", "errors", "settings", "progress", "installation", "_version")
"""Modules that every layer may import; together they form the lowest layer."""

FRONT = PACKAGE
"""The package's ``__init__``: names for Python users, above all layers. No module may import from it."""

BOTTOM = "foundation"
ORDER = (FRONT, *LAYERS, BOTTOM)


# --- imports ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class Import:
    """A statement by which a module imports another one of the same folder.

    Attributes
    ----------
    importer, imported:
        Full names of modules.
    path, line:
        Place of the statement.
    when:
        ``at module level``, ``in a function``, ``for types`` (under ``TYPE_CHECKING``) or ``by name`` (a
        string, in a module that uses importlib).
    """

    importer: str
    imported: str
    path: Path
    line: int
    when: str

    def __str__(self) -> str:
        return f"{shown(self.path)}:{self.line}: {self.importer} imports {self.imported} {self.when}"


def shown(path: Path) -> str:
    """A path for a message: inside the repository from its root, elsewhere in full."""
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


def modules_in(folder: Path, package: str = "") -> dict[str, Path]:
    """Python files below a folder by module name; without ``package`` the folder holds scripts."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = [*package.split("."), *path.relative_to(folder).with_suffix("").parts]
        found[".".join(p for p in parts if p and p != "__init__")] = path
    return found


def read_imports(modules: Mapping[str, Path]) -> list[Import]:
    """All imports between these modules, at any place in a file, in order of files and lines.

    An import of ``a.b`` makes Python load ``a`` too; only ``a.b`` is listed.
    """
    found = []
    for module, path in modules.items():
        reader = _Reader(module, path, modules)
        reader.visit(ast.parse(path.read_text(encoding="utf-8"), str(path)))
        # One line may import several names of a module.
        found += dict.fromkeys(reader.found)
    return found


class _Reader(ast.NodeVisitor):
    """Collects the imports of one module."""

    def __init__(self, module: str, path: Path, modules: Mapping[str, Path]) -> None:
        self.found: list[Import] = []
        self._module, self._path, self._modules = module, path, modules
        self._when = "at module level"
        self._strings = False

    def visit_Module(self, node: ast.Module) -> None:
        statements = (n for n in ast.walk(node) if isinstance(n, (ast.Import, ast.ImportFrom)))
        self._strings = any("importlib" in ast.unparse(s) for s in statements)
        self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, node.lineno, self._when)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            inside = self._module.split(".")
            up = node.level - (self._path.name == "__init__.py")
            base = ".".join([*inside[: len(inside) - up], *([base] if base else [])])
        for alias in node.names:
            self._add(f"{base}.{alias.name}".lstrip("."), node.lineno, self._when)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        before = self._when
        self._when = before if before == "for types" else "in a function"
        self.generic_visit(node)
        self._when = before

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_If(self, node: ast.If) -> None:
        before = self._when
        if ast.unparse(node.test).split(".")[-1] == "TYPE_CHECKING":
            self._when = "for types"
        for child in node.body:
            self.visit(child)
        self._when = before
        for child in node.orelse:
            self.visit(child)

    def visit_Constant(self, node: ast.Constant) -> None:
        if self._strings and isinstance(node.value, str) and node.value in self._modules:
            self._add(node.value, node.lineno, "by name")

    def _add(self, name: str, line: int, when: str) -> None:
        """Note an import of a module, or of a name in one."""
        while name and name not in self._modules:
            name = name.rpartition(".")[0]
        if name:
            self.found.append(Import(self._module, name, self._path, line, when))


# --- rules -----------------------------------------------------------------------------------------------


def layer_of(module: str) -> str:
    """Layer of a module: a folder, ``foundation``, or the package for its ``__init__`` and ``__main__``."""
    first = module.split(".")[1:2]
    if first in ([], ["__main__"]):
        return FRONT
    return BOTTOM if first[0] in FOUNDATION else first[0]


def broken_rules(modules: Mapping[str, Path], imports: Sequence[Import]) -> list[str]:
    """A line for every place where the package breaks a rule; empty if it breaks none."""
    return [*unknown_layers(modules), *upward(imports), *between_workflows(imports), *circles(imports)]


def unknown_layers(modules: Mapping[str, Path]) -> list[str]:
    """A line for every folder or module that is in no layer, and for every layer without a module."""
    there = {layer_of(module) for module in modules}
    strangers = [
        f"{shown(path)}: {layer_of(module)} is no layer: put it into docs/structure.py, above all that it "
        "imports and below all that import it"
        for module, path in modules.items()
        if layer_of(module) not in ORDER
    ]
    missing = [
        f"{name} is a layer in docs/structure.py and has no module" for name in ORDER if name not in there
    ]
    return strangers + missing


def upward(imports: Sequence[Import]) -> list[str]:
    """A line for every import from a higher layer."""
    rank = {name: n for n, name in enumerate(ORDER)}
    found = []
    for i in imports:
        low, high = layer_of(i.importer), layer_of(i.imported)
        if low in rank and high in rank and rank[high] < rank[low]:
            found.append(f"{i}: imports only point down, and {high} lies above {low}")
    return found


def between_workflows(imports: Sequence[Import]) -> list[str]:
    """A line for every import of one workflow by another."""
    found = []
    for i in imports:
        ends = [m.split(".")[1:3] for m in (i.importer, i.imported)]
        if ends[0] != ends[1] and all(e[:1] == ["workflows"] for e in ends):
            found.append(f"{i}: workflows share the layers below them, not each other")
    return found


def circles(imports: Sequence[Import]) -> list[str]:
    """A line for every circle of modules that import each other; imports in functions count too."""
    places = {(i.importer, i.imported): i for i in reversed(imports)}
    graph: dict[str, set[str]] = {}
    for importer, imported in places:
        graph.setdefault(importer, set()).add(imported)
    found = []
    while (circle := _circle(graph)) is not None:
        links = [places[pair] for pair in pairwise(circle)]
        found.append(f"{'; '.join(map(str, links))}: imports form no circle")
        # Remove one link of this circle to find the next circle.
        graph[circle[0]].discard(circle[1])
    return found


def _circle(graph: Mapping[str, set[str]]) -> list[str] | None:
    """Modules of one circle, each importing the next, the first one repeated at the end; or ``None``."""
    try:
        TopologicalSorter({name: sorted(graph[name]) for name in sorted(graph)}).prepare()
    except CycleError as error:
        # In graphlib's circle each module is imported by the next.
        return list(reversed(error.args[1]))
    return None


# --- picture ---------------------------------------------------------------------------------------------

WIDTH, ROW, BOX = 1200, 62, 46
"""Pixels: width of the picture, height of a row and of a box."""
LEFT, RIGHT = 122, 740
"""Pixels: left and right edge of the boxes."""
REACH = 50
"""Pixels that each row of an arrow's length adds to the distance of its control points from the boxes."""
UPWARD = "#d62728"
"""Colour of an import that breaks the order. No layer has a red like it."""
DATA = "#1f6b34"
"""Colour of the route of the data."""
COLOURS = {
    FRONT: "#5f6b7a",
    "cli": "#b07aa1",
    "workflows": "#4fa39d",
    "mapping": "#c2585d",
    "running": "#8c6d31",
    "training": "#3d5a99",
    "assess": "#9aa032",
    "labels": "#e39c37",
    "engines": "#5b9bd5",
    "products": "#8458b3",
    "bundle": "#4d4d4d",
}
PLAIN = "#9aa5b1"
"""Colour of layers that import from the foundation alone."""


def draw(modules: Mapping[str, Path], imports: Sequence[Import], picture: Path = PICTURE) -> None:
    """Draw the layers with the imports between them, as a PNG 1200 pixels wide; the same file each time.

    Imports of the foundation are left out: nearly every module has some.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    height = ROW * len(ORDER) + 44
    figure = Figure(figsize=(WIDTH / 100, height / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(height, 0))
    axes.axis("off")
    counts = Counter(layer_of(module) for module in modules)
    for name in ORDER:
        _draw_box(axes, name, counts[name])
    for arrow in _arrows(imports):
        _draw_arrow(axes, arrow)
    _draw_route(axes)
    note = (
        "Arrows: imports, as wide as they are many, in the colour of the importing layer (red: upward, which "
        "the tests refuse). Left: the way of the data."
    )
    axes.text(LEFT, height - 24, note, fontsize=9, color="#555555", va="center")
    picture.parent.mkdir(parents=True, exist_ok=True)
    canvas.draw()
    drawn = Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba())
    # 256 colours are enough and take a third of the space. Maximum coverage keeps rare colours, such as a
    # single red arrow.
    colours = drawn.convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE)
    colours.save(picture, format="PNG", optimize=True)


def _middle(name: str) -> float:
    """Height of a layer's middle in the picture."""
    return 8 + ROW * (ORDER.index(name) + 0.5)


def _draw_box(axes: Axes, name: str, modules: int) -> None:
    from matplotlib.patches import FancyBboxPatch, Rectangle

    middle = _middle(name)
    top, edge = middle - BOX / 2, COLOURS.get(name, PLAIN)
    style = "round,pad=0,rounding_size=5"
    box = FancyBboxPatch(
        (LEFT, top), RIGHT - LEFT, BOX, boxstyle=style, fc="white", ec=edge, lw=1.3, zorder=3
    )
    axes.add_patch(box)
    axes.add_patch(Rectangle((LEFT + 2, top + 5), 6, BOX - 10, fc=edge, zorder=4))
    title, text = name, LAYERS.get(name, "")
    if name == FRONT:
        title, text = f"{PACKAGE}/__init__", "names for Python: classify, train, …"
    elif name == BOTTOM:
        title, text = ", ".join(FOUNDATION), "for all layers"
    written = axes.text(LEFT + 18, middle, title, fontsize=12, weight="bold", va="center", zorder=5)
    axes.annotate(
        text,
        (1, 0.5),
        xycoords=written,
        xytext=(9, 0),
        textcoords="offset points",
        fontsize=10.5,
        va="center",
        zorder=5,
    )
    count = f"{modules} module" + "s" * (modules != 1)
    axes.text(RIGHT - 12, middle, count, fontsize=9.5, ha="right", va="center", color="#555555", zorder=5)


@dataclass(frozen=True)
class Arrow:
    """Imports of a layer by another one, and the heights at which their arrow starts and ends."""

    importer: str
    imported: str
    number: int
    start: float
    end: float


def _arrows(imports: Sequence[Import]) -> list[Arrow]:
    """The arrows of the picture, widest first. Each pair of modules counts once."""
    pairs = {(i.importer, i.imported) for i in imports}
    counts = Counter((layer_of(a), layer_of(b)) for a, b in pairs)
    shown = {
        ends: number
        for ends, number in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        if ends[0] != ends[1] and (ends[1] != BOTTOM or ORDER.index(ends[0]) > ORDER.index(BOTTOM))
    }
    ports = {name: _ports(name, shown) for name in ORDER}
    return [Arrow(a, b, n, ports[a][a, b], ports[b][a, b]) for (a, b), n in shown.items()]


def _ports(name: str, counts: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], float]:
    """Height on a box's right side of each of its arrows.

    Arrows that link it with a higher layer come first, the nearest layer at the top. Arrows that link it with
    a lower layer follow, the nearest layer at the bottom.
    """
    above = [ends for ends in counts if name in ends and min(map(ORDER.index, ends)) < ORDER.index(name)]
    below = [ends for ends in counts if name in ends and ends not in above]

    def far(ends: tuple[str, str]) -> int:
        return abs(ORDER.index(ends[0]) - ORDER.index(ends[1]))

    order = [*sorted(above, key=far), *sorted(below, key=far, reverse=True)]
    widths = [_width(counts[ends]) for ends in order]
    gap = (BOX - 6 - sum(widths)) / (len(order) + 1)
    places, top = {}, _middle(name) - BOX / 2 + 3
    for ends, width in zip(order, widths, strict=True):
        places[ends] = top + gap + width / 2
        top += gap + width
    return places


def _width(number: int) -> float:
    """Width of an arrow, in pixels."""
    return 1 + 0.24 * number


def _draw_arrow(axes: Axes, arrow: Arrow) -> None:
    from matplotlib.patches import PathPatch, Polygon
    from matplotlib.path import Path as Curve

    rows = ORDER.index(arrow.imported) - ORDER.index(arrow.importer)
    colour = COLOURS.get(arrow.importer, PLAIN) if rows > 0 else UPWARD
    width = max(_width(arrow.number), 1 if rows > 0 else 4)
    length, half = 6 + 0.9 * width, 2.2 + 0.75 * width
    out = RIGHT + 30 + REACH * abs(rows)
    points = [(RIGHT, arrow.start), (out, arrow.start), (out, arrow.end), (RIGHT + length, arrow.end)]
    curve = Curve(points, [Curve.MOVETO, *3 * [Curve.CURVE4]])
    points_a_pixel = 72 / 100
    line = {"fc": "none", "ec": colour, "lw": width * points_a_pixel, "capstyle": "butt"}
    axes.add_patch(PathPatch(curve, alpha=0.85, zorder=2, **line))
    tip = [(RIGHT + 1, arrow.end), *((RIGHT + 1 + length, arrow.end + s * half) for s in (-1, 1))]
    axes.add_patch(Polygon(tip, fc=colour, lw=0, zorder=2.5))


def _draw_route(axes: Axes) -> None:
    """Draw the route of the data left of the boxes: scene → engines → products."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Curve

    scene, engines, products = (_middle(name) for name in ("scene", "engines", "products"))
    for begin, end, out in ((scene, engines - 9, 84), (engines + 9, products, 24)):
        bend = 12 if end > begin else -12
        points = [
            *((LEFT - 3, begin), (LEFT - out + 12, begin), (LEFT - out, begin), (LEFT - out, begin + bend)),
            *((LEFT - out, end - bend), (LEFT - out, end), (LEFT - out + 12, end), (LEFT - 1, end)),
        ]
        corner = [Curve.LINETO, Curve.CURVE3, Curve.CURVE3]
        route = Curve(points, [Curve.MOVETO, *corner, *corner, Curve.LINETO])
        style = "-|>,head_length=7,head_width=4"
        axes.add_patch(
            FancyArrowPatch(path=route, arrowstyle=style, fc=DATA, ec=DATA, lw=2.4, joinstyle="miter")
        )
    text = {"color": DATA, "fontsize": 10, "va": "center"}
    axes.text(LEFT - 96, (scene + engines) / 2, "normalised blocks", rotation=90, ha="center", **text)
    axes.text(LEFT - 30, (engines + products) / 2, "logits", ha="right", **text)


def main() -> None:
    """Draw the picture, and list the broken rules."""
    modules = modules_in(ROOT / PACKAGE, PACKAGE)
    imports = read_imports(modules)
    draw(modules, imports)
    found = broken_rules(modules, imports)
    if found:
        raise SystemExit("\n".join(found))


if __name__ == "__main__":
    main()
