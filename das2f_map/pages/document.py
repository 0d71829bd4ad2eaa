"""A whole page around its content, and the form of the same content for a notebook."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from das2f_map._version import __version__
from das2f_map.errors import OutputError
from das2f_map.outputs.staging import StagedOutputs
from das2f_map.outputs.write_errors import writing
from das2f_map.pages.elements import Html, clean, el, join
from das2f_map.pages.style import CSS, PAGE_CSS

PAGE_SUFFIXES = (".html", ".htm")


@dataclass(frozen=True, eq=False)
class Page:
    """The content of a page.

    Attributes
    ----------
    kind:
        What the page is about in two or three words, above the title.
    title:
        Its heading.
    lead:
        A line below the heading.
    sections:
        Heading, anchor and content of each part; those without content are left out.
    summary:
        Comes before the parts, without a heading.
    """

    kind: str
    title: str
    lead: Html
    sections: tuple[tuple[str, str, Html], ...]
    summary: Html

    def html(self) -> str:
        """The whole page: one file that needs no other file, no script and no network."""
        shown = [(title, anchor) for title, anchor, content in self.sections if content]
        links = [el("li", el("a", title, href=f"#{anchor}")) for title, anchor in shown]
        head = el(
            "head",
            el("meta", charset="utf-8"),
            el("meta", name="viewport", content="width=device-width, initial-scale=1"),
            el("meta", name="generator", content=f"das2f-map {__version__}"),
            el("title", f"{self.title} – {self.kind}"),
            _style(CSS + PAGE_CSS),
        )
        nav = el("nav", el("ul", *links), aria_label="Parts of this page") if links else None
        footer = el("footer", el("p", f"Made with das2f-map {__version__}. This page needs no network."))
        body = el("body", self._header(nav), el("main", *self._parts(anchors=True)), footer, class_="das2f")
        return f'<!DOCTYPE html>\n<html lang="en">{head}{body}</html>\n'

    def notebook_form(self) -> str:
        """The content for a notebook: a part of a page, whose style leaves the notebook's own alone."""
        content = join([self._header(None), el("main", *self._parts(anchors=False))])
        return f"{_style(CSS)}{el('div', content, class_='das2f')}"

    def _header(self, nav: Html | None) -> Html:
        return el(
            "header",
            el("p", self.kind, class_="kind"),
            el("h1", el("bdi", self.title)),
            el("p", self.lead, class_="lead"),
            nav,
        )

    def _parts(self, *, anchors: bool) -> list[Html]:
        """The parts; without anchors where several pages may share a document, as in a notebook."""
        parts = [self.summary]
        for title, anchor, content in self.sections:
            if content and anchors:
                parts.append(el("section", el("h2", title, id=anchor), content, aria_labelledby=anchor))
            elif content:
                parts.append(el("section", el("h2", title), content))
        return parts

    def write(self, path: Path, *, inputs: tuple[Path, ...] = (), overwrite: bool = False) -> None:
        """Write the page; it appears complete or not at all.

        Raises
        ------
        OutputError
            The extension is not that of a page, the file exists, or it cannot be written.
        """
        check_page_path(path)
        with StagedOutputs(inputs=list(inputs), overwrite=overwrite) as staged:
            place = staged.stage(path)
            with writing(place):
                self.write_at(place)

    def write_at(self, path: Path) -> None:
        """Write the page at a path, as it is. Raises ``OSError``."""
        path.write_text(self.html(), encoding="utf-8")


def check_page_path(path: Path) -> None:
    """Raise :class:`OutputError` unless a path has the extension of a page."""
    if path.suffix.lower() not in PAGE_SUFFIXES:
        raise OutputError(f"output {path} is not an HTML page", "give it the extension .html")


def _style(css: str) -> Html:
    # The rules hold no <, & or ]]>, which HTML and XML read differently.
    return Html(f"<style>{clean(css)}</style>")
