"""Writes the report: one HTML file that needs no other, and its pictures beside it.

Needs matplotlib and jinja2.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from torch import nn

from convkern._files import write_file
from convkern._show.html import STYLE
from convkern.fashion_mnist import FashionMNISTData
from convkern.fashion_mnist.study.diagrams import receptive_fields, sliding
from convkern.fashion_mnist.study.figures import Picture
from convkern.fashion_mnist.study.geometry import describe, layers_of
from convkern.fashion_mnist.study.pictures import pictures
from convkern.fashion_mnist.study.plots import confusions, plots
from convkern.fashion_mnist.study.results import Study
from convkern.fashion_mnist.study.tables import HEADINGS, results_rows
from convkern.fashion_mnist.study.verdicts import dead_seeds, judge, rule, steadiness

_TYPES = {".png": "image/png", ".gif": "image/gif"}


def write_report(
    folder: Path, study: Study, nets: Mapping[tuple[str, int], nn.Module], data: FashionMNISTData
) -> Path:
    """Writes `report.html` and the pictures into `folder`, which must exist, and returns its path.

    `nets` are the networks by model and seed. The HTML contains the pictures.
    """
    shown = {model: nets[model, study.shown(model).seed] for model in study.models}
    images, labels = data.test.tensors
    of_numbers, of_classes = plots(study), confusions(study)
    of_images = pictures(study, shown, images, labels)
    slides = sliding()
    stacks = {model: layers_of(net) for model, net in shown.items()}
    sections = [
        ("Results", of_numbers, []),
        ("Errors", [*of_classes[:1], of_images[0]], of_classes[1:]),
        ("What was learned", of_images[1:], []),
        ("Padding and stride", [receptive_fields(stacks), *slides[:1]], slides[1:]),
    ]
    environment = Environment(
        loader=PackageLoader("convkern.fashion_mnist.study", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("report.html").render(
        style=Markup(STYLE),
        study=study,
        verdicts=judge(study),
        rule=rule(study),
        dead=dead_seeds(study),
        steadiness=steadiness(study),
        descriptions={model: describe(layers) for model, layers in stacks.items()},
        headings=HEADINGS,
        rows=results_rows(study),
        sections=[
            (title, [_drawn(p, folder) for p in open_], [_drawn(p, folder) for p in folded])
            for title, open_, folded in sections
        ],
        seeds=len({run.seed for run in study.runs}),
    )
    path = folder / "report.html"
    write_file(path, html)
    return path


def _drawn(picture: Picture, folder: Path) -> dict[str, str]:
    """Returns the picture's texts, and the picture as a data: URI. Writes it into `folder` too."""
    # matplotlib can write an animation to a path only.
    with TemporaryDirectory(prefix=".convkern-", dir=folder) as scratch:
        path = Path(scratch) / picture.file
        picture.draw(path)
        content = path.read_bytes()
    write_file(folder / picture.file, content)
    return {
        "title": picture.title,
        "alt": picture.alt,
        "caption": picture.caption,
        "uri": f"data:{_TYPES[path.suffix]};base64,{base64.b64encode(content).decode()}",
    }
