"""Writes HTML without dependencies: tables, pictures within the page, and the page around them."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

# The style of every page. It is light or dark by the reader's setting, and text has a contrast of
# at least 4.5 to its background. The page is never wider than the screen: pictures shrink, and wide
# tables scroll in a box.
STYLE = """
:root { color-scheme: light dark; --text: #1b1b1b; --quiet: #595959; --page: #fff; --line: #d0d0d0;
  --link: #005a9c; }
@media (prefers-color-scheme: dark) { :root { --text: #e8e8e8; --quiet: #a8a8a8; --page: #16181c;
  --line: #3a3d44; --link: #7cc4ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1rem; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
a { color: var(--link); }
figure { margin: 1.5rem 0; }
figure img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
figcaption { color: var(--quiet); margin-bottom: .5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .25rem .75rem .25rem 0; vertical-align: top;
  border-bottom: 1px solid var(--line); }
summary { cursor: pointer; }
"""
# Cells carry their own alignment, because Jupyter shows tables without the page and its style.
_LEFT = ' style="text-align: left"'
_RIGHT = ' style="text-align: right; white-space: nowrap"'


def page(title: str, sections: Iterable[str]) -> str:
    """Returns a page in one file. The title is plain text, and the sections are HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Without an icon in the page, browsers would ask the server for one.
        f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    )


def section(heading: str, *parts: str) -> str:
    """Returns a section. The heading is plain text, and the parts below it are HTML."""
    return "\n".join(("<section>", f"<h2>{escape(heading)}</h2>", *parts, "</section>"))


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def picture(png: bytes, alt: str, caption: str = "") -> str:
    """Returns a PNG within the page. `alt` says in words what it shows."""
    data = base64.b64encode(png).decode()
    above = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    image = f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}">'
    return f"<figure>{above}{image}</figure>"


def table(headings: Sequence[str], right: Sequence[bool], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table. `right` says which columns align to the right, as figures do. Headings and
    cells are plain text."""
    css = [_RIGHT if aligned else _LEFT for aligned in right]
    heads = zip(css, headings, strict=True)
    lines = ["<tr>" + "".join(f'<th scope="col"{c}>{escape(t)}</th>' for c, t in heads) + "</tr>"]
    lines += [
        "<tr>"
        + "".join(f"<td{c}>{escape(t)}</td>" for c, t in zip(css, row, strict=True))
        + "</tr>"
        for row in rows
    ]
    return _scrolling(lines)


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Returns a table of names and their values."""
    lines = (
        f'<tr><th scope="row"{_LEFT}>{escape(name)}</th><td{_LEFT}>{escape(text)}</td></tr>'
        for name, text in rows
    )
    return _scrolling(lines)


def _scrolling(lines: Iterable[str]) -> str:
    # Keyboard users can scroll only what has a tabindex.
    opened = '<div style="overflow-x: auto" tabindex="0"><table>'
    return "\n".join([opened, *lines, "</table></div>"])


def details(summary: str, *parts: str) -> str:
    """Returns HTML parts that are folded away below a summary in plain text."""
    return "\n".join(("<details>", f"<summary>{escape(summary)}</summary>", *parts, "</details>"))
