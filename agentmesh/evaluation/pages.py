"""A report as a value, and as Markdown and as one HTML file that needs no network. Knows nothing of what it reports."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Page", "Picture", "Section", "Table", "to_html", "to_markdown"]

_STYLE = """
:root{color-scheme:light dark;--ink:#1b2430;--muted:#566070;--line:#d5dbe3;--back:#fff;--band:#f4f6f8}
@media (prefers-color-scheme:dark){:root{--ink:#e8edf4;--muted:#a9b4c3;--line:#333d4a;--back:#10151c;--band:#1a212b}}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:var(--ink);background:var(--back);
max-width:76rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.2rem}
.wide{overflow-x:auto}table{border-collapse:collapse;margin:.8rem 0}
th,td{padding:.3rem .8rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th{color:var(--muted);font-weight:600}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
tbody tr:nth-child(even){background:var(--band)}img{max-width:100%;height:auto;background:#fff;border-radius:6px}
"""


@dataclass(frozen=True)
class Table:
    """Rows of text under headings."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: tuple[str, ...] = ()
    """The headings of columns that hold numbers."""


@dataclass(frozen=True)
class Picture:
    """A plot."""

    name: str
    """Of its file, beside the report."""
    caption: str
    png: bytes


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it, in this order."""

    heading: str
    text: str = ""
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    text: str
    sections: Sequence[Section]


def to_markdown(page: Page) -> str:
    """The report as Markdown; its pictures are files beside it."""
    blocks = [f"# {_plain(page.title)}", _plain(page.text)]
    for section in page.sections:
        blocks += [f"## {_plain(section.heading)}", _plain(section.text)]
        for table in section.tables:
            ruler = ("---:" if heading in table.numbers else "---" for heading in table.headings)
            lines = [table.headings, tuple(ruler), *table.rows]
            blocks.append("\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines))
        blocks += [f"![{_plain(picture.caption)}]({picture.name})" for picture in section.pictures]
    return "\n\n".join(block for block in blocks if block) + "\n"


def to_html(page: Page) -> str:
    """The report as one HTML document, pictures inside; whatever a file or a model wrote is escaped."""
    parts = [f"<h1>{escape(page.title)}</h1>", _paragraph(page.text)]
    for section in page.sections:
        parts += [f"<h2>{escape(section.heading)}</h2>", _paragraph(section.text)]
        parts += [_html_table(table) for table in section.tables]
        for picture in section.pictures:
            data = base64.b64encode(picture.png).decode()
            parts.append(f'<p><img alt="{escape(picture.caption)}" src="data:image/png;base64,{data}"></p>')
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(page.title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )


def _html_table(table: Table) -> str:
    places = [heading in table.numbers for heading in table.headings]

    def line(cells: Sequence[str], tag: str) -> str:
        looks = (' class="n"' if number else "" for number in places)
        pairs = zip(cells, looks, strict=True)
        return "<tr>" + "".join(f"<{tag}{look}>{escape(cell)}</{tag}>" for cell, look in pairs) + "</tr>"

    head, body = line(table.headings, "th"), "\n".join(line(row, "td") for row in table.rows)
    return f'<div class="wide"><table><thead>{head}</thead>\n<tbody>{body}</tbody></table></div>'


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>" if text else ""


def _plain(text: str) -> str:
    """One line in which nothing is markup."""
    line = " ".join(text.split())
    return "".join("\\" + c if c in "\\`*_[]<>#|" else c for c in line)


def _cell(text: str) -> str:
    return text if text in ("---", "---:") else _plain(text)
