"""The study's report and its pictures."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import nn

from chromium import show
from convkern.fashion_mnist import MODELS, build_convnet
from convkern.fashion_mnist.study import Study, judge
from study_cases import SHAPES, small_data, study, timed

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from convkern.fashion_mnist.study.pictures import pictures
from convkern.fashion_mnist.study.plots import confusions, plots
from convkern.fashion_mnist.study.report import write_report

ACCURACIES = {
    "plain": [0.70, 0.1, 0.72],
    "padding2": [0.77, 0.78, 0.79],
    "padding3": [0.78, 0.79, 0.80],
    "stride": [0.1, 0.1, 0.1],
}
PICTURES = [
    "accuracy.png", "confusion-padding2.png", "confusion-padding3.png", "confusion-plain.png",
    "edge.png", "features.png", "kernels.png", "loss.png", "misclassified.png",
    "receptive-field.png", "sliding.gif", "sliding.png",
]  # fmt: skip


@dataclass(frozen=True)
class Report:
    folder: Path
    html: str
    study: Study


def networks(of: Study) -> Mapping[tuple[str, int], nn.Module]:
    return {(r.model, r.seed): build_convnet(r.model, seed=r.seed)[0] for r in of.runs}


@pytest.fixture(scope="module", name="report")
def report_fixture(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Returns a report with seeds that learned, some that did not, and a model of which none
    learned."""
    folder = tmp_path_factory.mktemp("report")
    given = timed(study(ACCURACIES), {model: ([0.5], [5.0]) for model in SHAPES})
    given = replace(given, data="<b>here</b> & there")
    path = write_report(folder, given, networks(given), small_data())
    return Report(folder, path.read_text(encoding="utf-8"), given)


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.found if name == tag]


def test_every_picture_is_written_and_is_in_the_page(report: Report) -> None:
    files = sorted(path.name for path in report.folder.iterdir())
    assert files == sorted([*PICTURES, "report.html"])
    images = Tags(report.html).of("img")
    assert len(images) == len(PICTURES)
    for image in images:
        assert image["src"].startswith(("data:image/png;base64,", "data:image/gif;base64,"))
        assert len(image["alt"]) > 40


def test_the_page_needs_no_other(report: Report) -> None:
    tags = Tags(report.html)
    for _, attributes in tags.found:
        for name in ("src", "href", "srcset", "action", "data"):
            assert attributes.get(name, "data:").startswith("data:"), attributes
    assert not tags.of("script")
    assert "url(" not in report.html
    assert "@import" not in report.html


def test_the_page_is_accessible(report: Report) -> None:
    tags = Tags(report.html)
    assert tags.of("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in tags.of("meta")
    assert re.search("<title>.+</title>", report.html)
    assert len(tags.of("h1")) == len(tags.of("main")) == 1
    assert "prefers-color-scheme: dark" in report.html


def test_the_page_says_what_the_numbers_say(report: Report) -> None:
    text = report.html.replace("&#39;", "'").replace("&lt;", "<")
    for verdict in judge(report.study):
        assert f"{verdict.claim.name}: {verdict.decision}" in text
        for sentence in verdict.sentences:
            assert sentence in text
    assert "4 of 12 runs never learned" in text
    assert "23x23" in text


def test_text_from_outside_is_escaped(report: Report) -> None:
    assert "&lt;b&gt;here&lt;/b&gt; &amp; there" in report.html


def test_a_study_in_which_nothing_learned_is_drawn(tmp_path: Path) -> None:
    given = study({model: [0.1] for model in MODELS})
    nets = networks(given)
    for net in nets.values():
        for parameter in net.parameters():
            nn.init.zeros_(parameter)
    page = write_report(tmp_path, given, nets, small_data()).read_text()
    assert "4 of 4 runs never learned" in page
    assert "confusion" not in page
    assert not list(tmp_path.glob("confusion*"))
    assert (tmp_path / "kernels.png").stat().st_size > 10_000


def test_a_model_without_errors_is_drawn(tmp_path: Path) -> None:
    images, _ = small_data().test.tensors
    net, _, _ = build_convnet("plain", seed=0)
    with torch.no_grad():
        labels = net(images).argmax(dim=1)
    picture = pictures(study({"plain": [0.9]}), {"plain": net}, images, labels)[0]
    assert picture.alt == "None of the images was taken for another class."
    picture.draw(tmp_path / picture.file)
    assert (tmp_path / "misclassified.png").exists()


def test_the_confusion_is_of_the_seeds_that_learned_best_model_first() -> None:
    drawn = confusions(study(ACCURACIES))
    assert [picture.file for picture in drawn] == [
        f"confusion-{model}.png" for model in ("padding3", "padding2", "plain")
    ]
    assert "the seeds that learned (0, 2)" in drawn[-1].caption
    assert "14% of the class" in drawn[0].alt


def test_pictures_are_the_same_each_time(report: Report, tmp_path: Path) -> None:
    nets = networks(report.study)
    shown = {model: nets[model, report.study.shown(model).seed] for model in ACCURACIES}
    again = [*plots(report.study), *pictures(report.study, shown, *small_data().test.tensors)]
    assert len(again) == 6
    for picture in again:
        picture.draw(tmp_path / picture.file)
        drawn = (tmp_path / picture.file).read_bytes()
        assert drawn == (report.folder / picture.file).read_bytes(), picture.file


@pytest.mark.parametrize("width", [320, 390, 1200])
def test_chromium_shows_all_of_it(report: Report, width: int, tmp_path: Path) -> None:
    show(report.html, width, tmp_path).check(width, len(PICTURES))


def test_chromium_would_tell_what_is_wrong(tmp_path: Path) -> None:
    page = """<!doctype html><title>wrong</title><main>
    <img alt="there" src="data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' width='9'/>">
    <img alt="not there" src="http://192.0.2.1/picture.png"><p style="width: 900px">wide</p></main>
    <script>console.warn("warned"); undefined_function()</script>"""
    shown = show(page, 390, tmp_path)
    messages = "\n".join(shown.console)
    assert "warned" in messages
    assert "undefined_function is not defined" in messages
    assert shown.found["images"] == [["there", True], ["not there", False]]
    assert shown.found["scrollWidth"] > 390
    assert len(shown.found["beyond"]) == 1
