"""A page in headless Chromium, on a screen as narrow as a telephone's."""

import json
import re
import shutil
import subprocess
import threading
from functools import partial
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

# Windows of Chromium are no narrower than 500 pixels; a frame can be.
_HOST = """<!DOCTYPE html><body><iframe src="%s" style="width: %dpx; height: 800px; border: 0">
</iframe><script>
onload = () => {
  const page = document.querySelector("iframe").contentDocument;
  page.querySelectorAll("details").forEach((d) => { d.open = true; });
  document.body.dataset.seen = JSON.stringify({
    width: page.documentElement.scrollWidth,
    images: [...page.images].map((i) => [i.naturalWidth, i.alt]),
  });
};
</script></body>"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def look(page: Path, width: int, profile: Path) -> dict[str, Any]:
    """The page's `width` in pixels, all details open, on a screen of the width given; its `images`
    as (width, alternative text), 0 for one that did not load; and what it wrote to the `console`.
    Skips the test where there is no Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs chromium")
    profile.mkdir()
    host = page.with_name("host.html")
    host.write_text(_HOST % (page.name, width))
    handler = partial(_Quiet, directory=str(page.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{host.name}"
        done = subprocess.run(
            [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
             f"--user-data-dir={profile}", "--no-proxy-server", "--dump-dom", url],
            capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        server.shutdown()
    host.unlink()
    seen = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert seen, done.stderr
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return {**json.loads(unescape(seen[1])), "console": console}
