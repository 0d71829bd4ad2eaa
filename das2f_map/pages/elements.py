"""HTML elements as text, in which everything that is not an element itself is escaped.

The text is valid HTML and well-formed XML at once. So any XML parser can check it, and a page survives
programs that know only one of the two.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape

_VOID = frozenset({"br", "img", "meta", "wbr"})
_NO_CHARACTER = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(f"{chr(plane << 16 | 0xFFFE)}{chr(plane << 16 | 0xFFFF)}" for plane in range(17))
    + "]"
)
"""Code points that HTML does not allow in a text: control characters, half surrogates, noncharacters."""


class Html(str):
    """A text that is HTML already. Only the functions of this module make it."""

    __slots__ = ()


def text(value: object) -> Html:
    """A value as text: markup is escaped, and code points that HTML forbids become U+FFFD."""
    return value if isinstance(value, Html) else Html(escape(clean(str(value))))


def clean(value: str) -> str:
    """A text with U+FFFD in place of every code point that HTML forbids."""
    return _NO_CHARACTER.sub("\ufffd", value)


def el(tag: str, *content: object, **attributes: object) -> Html:
    """An element.

    Parameters
    ----------
    content:
        :class:`Html`, or values that become text. ``None`` is left out.
    attributes:
        By name; an underscore stands for a hyphen, one at the end is dropped. Attributes with the value
        ``None`` are left out.
    """
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{text(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in _VOID:
        return Html(f"<{tag}{given} />")
    return Html(f"<{tag}{given}>{join(content)}</{tag}>")


def join(parts: Iterable[object]) -> Html:
    """Elements and texts one after the other; ``None`` is left out."""
    return Html("".join(text(p) for p in parts if p is not None))


def name(value: object) -> Html:
    """A name from a file. It may be in any script: its direction does not reach the words around it.

    It may break after underscores and slashes, where a column is narrow.
    """
    parts = re.split(r"(?<=[_/\\])(?=[^_/\\])", clean(str(value)))
    return el("bdi", parts[0], *(piece for part in parts[1:] for piece in (el("wbr"), part)))


def swatch(color: str) -> Html:
    """A square in the colour of a class; the class's name has to follow it."""
    box = el("rect", x="0.5", y="0.5", width="11", height="11", rx="2", fill=color, stroke="#39424c")
    return el("svg", box, class_="swatch", viewBox="0 0 12 12", width="12", height="12", aria_hidden="true")


def table(
    caption: object,
    header: Iterable[object],
    rows: Iterable[Iterable[object]],
    *,
    kinds: str = "",
    class_: str | None = None,
) -> Html:
    """A table that scrolls sideways where the page is too narrow for it.

    Parameters
    ----------
    header:
        Cells of the first row.
    rows:
        Cells of the others. The first cell of a row is its heading.
    kinds:
        A letter for each column: ``t`` for text, ``n`` for numbers, which go to the right, ``b`` for a bar,
        which takes the room that is left. By default all columns but the first hold numbers.
    class_:
        Of the table.
    """
    head = list(header)
    letters = kinds or "t" + "n" * (len(head) - 1)
    styles = [{"t": None, "n": "n", "b": "bar"}[letter] for letter in letters]
    lines = [
        el("tr", *(el("th", c, scope="col", class_=style) for c, style in zip(head, styles, strict=True)))
    ]
    body = []
    for row in rows:
        first, *rest = row
        cells = [el("th", first, scope="row", class_=styles[0])]
        cells += [el("td", c, class_=style) for c, style in zip(rest, styles[1:], strict=True)]
        body.append(el("tr", *cells))
    inner = el("table", caption_of(caption), el("thead", *lines), el("tbody", *body), class_=class_)
    return scrolling(inner, caption)


def caption_of(caption: object) -> Html:
    """A table's caption, which stays in sight while the table scrolls sideways."""
    return el("caption", el("span", caption))


def scrolling(inner: Html, label: object) -> Html:
    """A part of the page that scrolls sideways, by keyboard too."""
    plain = re.sub("<[^>]*>", "", text(label))
    # The label's markup is gone; its escapes are text again.
    return Html(f'<div class="wide" role="region" tabindex="0" aria-label="{plain}">{inner}</div>')


def facts(pairs: Iterable[tuple[object, object]]) -> Html:
    """Names and values, a line each; those without a value are left out."""
    items = [el("div", el("dt", k), el("dd", v)) for k, v in pairs if v not in (None, "")]
    return el("dl", *items, class_="facts") if items else Html("")


def tiles(pairs: Iterable[tuple[object, object, object]]) -> Html:
    """Key figures: name, value, and a small note or ``None``."""
    items = [
        el("div", el("dt", k), el("dd", el("b", v), None if note is None else el("small", note)))
        for k, v, note in pairs
    ]
    return el("dl", *items, class_="tiles") if items else Html("")


def notes(sentences: Iterable[object], kind: str = "note") -> Html:
    """A box of sentences; empty without any. The kind is ``note`` or ``warning``."""
    items = [el("li", s) for s in sentences]
    return el("ul", *items, class_=f"box {kind}") if items else Html("")
