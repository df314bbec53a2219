"""The built documentation has no warnings, and a browser shows it without a network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from chromium import show
from documents import DOCS, ROOT
from shared_builds import Once

pytestmark = [
    pytest.mark.exhaustive,  # builds the pictures and runs the notebook
    pytest.mark.skipif(not DOCS.exists(), reason="needs the source tree"),
]


@pytest.fixture(scope="module")
def site(build_once: Once) -> Path:
    for package in ("material", "mkdocstrings", "nbclient", "ipykernel", "matplotlib"):
        pytest.importorskip(package, reason=f"needs {package}: pip install '.[docs]'")
    return build_once("site", build_site)


def build_site(folder: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr


def test_nothing_is_loaded_from_the_network(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        loaded = (
            r'<(?:script|img|iframe|link rel="(?:stylesheet|preconnect|icon)")[^>]*"(?:https?:)?//'
        )
        assert re.findall(loaded, page.read_text()) == [], page


def test_every_public_page_is_there(site: Path) -> None:
    assert all((site / f"{page.stem}.html").exists() for page in DOCS.glob("*.md"))
    assert (site / "notebook.html").exists()


def test_pictures_have_words(site: Path) -> None:
    images = [
        image
        for page in site.rglob("*.html")
        for image in re.findall("<img[^>]*>", page.read_text())
    ]
    assert len(images) >= 10
    assert all(re.search('alt="[^"]{20,}"', image) for image in images)


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("name", ["index", "padding-and-stride", "performance", "notebook"])
def test_a_page_fits_its_window(site: Path, name: str, width: int, tmp_path: Path) -> None:
    shown = show(site / f"{name}.html", width, tmp_path)
    assert shown.console == []
    assert shown.found["scrollWidth"] <= width
    assert all(loaded for _, loaded in shown.found["images"])
