"""Tables of text as HTML, for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def html_table(table: Sequence[Sequence[str]]) -> str:
    """A table whose first row is the header; the first column is set left, numbers right."""
    head, *rows = table
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td style="text-align:{"left" if i == 0 else "right"}">{escape(cell)}</td>'
            for i, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def html_page(title: str, tables: Iterable[str], notes: Iterable[str]) -> str:
    """A title, tables of :func:`html_table`, and a list of sentences."""
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return (
        f"<div><p><b>{escape(title)}</b></p>{''.join(tables)}{f'<ul>{listed}</ul>' if listed else ''}</div>"
    )
