"""What tests read in a chart."""

import re
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree


def dots(path: Path) -> Counter[str]:
    """How many markers have each colour, those of the legend among them."""
    shapes = ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}use")
    return Counter(
        fill[1] for s in shapes if (fill := re.search(r"fill: (#\w+)", s.get("style", "")))
    )
