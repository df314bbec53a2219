"""What is said about a model, in few lines also where the model is large."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping


def grouped(
    found: Iterable[tuple[str, str | None]], paths: Mapping[str, str | None] | None = None
) -> list[str]:
    """Returns a line for each different text, such as "12x aten.cat.default (first: stage2.0)".

    Args:
        found: the texts, each with the path of a part of the model. "" is the model itself, and
            None is not shown.
        paths: the names of nodes that the texts may contain, with their own paths. Texts that
            differ only in these names have one line, with dots for the names. Where a text is
            alone, paths stand for the names.

    Example:
        >>> grouped([("a sum", "x.0"), ("a product", ""), ("a sum", "x.1")])
        ['2x a sum (first: x.0)', 'a product (the model itself)']
    """
    known = paths or {}
    groups: dict[str, list[tuple[str, str | None]]] = {}
    for text, path in found:
        alike = re.sub(r"\w+", lambda word: "..." if word[0] in known else word[0], text)
        groups.setdefault(alike, []).append((text, path))
    lines = []
    for alike, members in groups.items():
        text, path = members[0]
        shown = re.sub(r"\w+", lambda word: known.get(word[0]) or word[0], text)
        if any(other != text for other, _ in members):
            shown = alike
        where = None if path is None else path or "the model itself"
        if len(members) > 1:
            shown, where = f"{len(members)}x {shown}", where and f"first: {where}"
        lines.append(f"{shown} ({where})" if where else shown)
    return lines
