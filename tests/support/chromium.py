"""Shows a page in Chromium without a network."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SECONDS = 60.0  # for one page, which takes 2 on an idle machine

_PROBE = """
<script>
addEventListener("load", () => {
  const view = document.querySelector("iframe").contentWindow;
  view.document.querySelectorAll("details").forEach((d) => { d.open = true; });
  const right = view.document.querySelector("main").getBoundingClientRect().right;
  const found = {
    width: view.innerWidth,
    scrollWidth: view.document.documentElement.scrollWidth,
    images: [...view.document.images].map(
      (image) => [image.alt, image.complete && image.naturalWidth > 0]),
    beyond: [...view.document.querySelectorAll("main *")]
      .filter((e) => e.getBoundingClientRect().right > right + 1 && !e.closest("thead, [tabindex]"))
      .map((e) => e.outerHTML.slice(0, 80)),
  };
  const output = document.createElement("pre");
  output.id = "found";
  output.textContent = JSON.stringify(found);
  document.body.append(output);
});
</script>
"""


@dataclass(frozen=True)
class Shown:
    """What Chromium made of a page.

    Attributes:
        console: its messages of any level.
        found: `width` and `scrollWidth` in CSS pixels, `images` as (alt, whether it loaded), and
            `beyond`, the elements that stick out of `main`, except those that scroll in a box.
    """

    console: list[str]
    found: dict[str, Any]

    def check(self, width: int, images: int) -> None:
        """Checks that the page fits a screen of `width`, shows `images` images, and logs
        nothing."""
        assert self.console == []
        assert self.found["width"] == width
        assert self.found["scrollWidth"] <= width
        assert self.found["beyond"] == []
        assert len(self.found["images"]) == images
        assert [alt for alt, loaded in self.found["images"] if not (loaded and alt)] == []


def show(page: str | Path, width: int, folder: Path) -> Shown:
    """Opens a page, given as its HTML or its file, in a window of `width` CSS pixels. Skips the
    test without Chromium."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("needs chromium: apt-get install chromium")
    source = f'src="{page.as_uri()}"' if isinstance(page, Path) else f'srcdoc="{html.escape(page)}"'
    # The page is in a frame, because windows are at least 500 pixels wide.
    frame = (
        f'<!doctype html><html lang="en"><link rel="icon" href="data:,"><title>frame</title>'
        f'<iframe style="border: 0; width: {width}px; height: 800px" {source}>'
        f"</iframe>{_PROBE}"
    )
    path = folder / f"frame{width}.html"
    path.write_text(frame, encoding="utf-8")
    command = [
        program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--enable-logging=stderr", "--proxy-server=127.0.0.1:9", f"--window-size={width + 100},900",
        f"--user-data-dir={folder / 'profile'}", "--allow-file-access-from-files",
        "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    match = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert match is not None, done.stderr
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return Shown(console, json.loads(html.unescape(match[1])))
