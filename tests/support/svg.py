"""Reads charts for tests."""

import re
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree


def dots(path: Path) -> Counter[str]:
    """Counts the markers of each colour, including those in the legend."""
    shapes = ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}use")
    return Counter(
        fill[1] for s in shapes if (fill := re.search(r"fill: (#\w+)", s.get("style", "")))
    )
