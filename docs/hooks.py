"""Files that the site's build makes: the tutorial's pictures, and the notebook as a page."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbclient import NotebookClient

from convkern.fashion_mnist import MODELS, build_convnet
from convkern.fashion_mnist.study.diagrams import receptive_fields, sliding
from convkern.fashion_mnist.study.figures import Picture, new_figure, saver
from convkern.fashion_mnist.study.geometry import Layer, layers_of
from convkern.fashion_mnist.study.pictures import draw_reads

NOTEBOOK = "padding_and_stride.ipynb"
PAGE = "notebook.md"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated files to those of docs/."""
    for picture in pictures():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / picture.file
            picture.draw(path)
            drawn = path.read_bytes()
        files.append(File.generated(config, f"pictures/{picture.file}", content=drawn))
    notebook = run(Path(config.docs_dir) / NOTEBOOK)
    for name, content in page(notebook):
        files.append(File.generated(config, name, content=content))
    return files


def pictures() -> list[Picture]:
    """The pictures of the tutorial: those of the study's report that need no trained network."""
    stacks = {name: layers_of(build_convnet(name, seed=0)[0]) for name in MODELS}
    edge = Picture(
        "reads.png",
        "How often each pixel is read",
        "",  # the tutorial says what this shows
        "",
        saver(lambda: _reads(stacks)),
    )
    return [*sliding(), receptive_fields(stacks), edge]


def _reads(stacks: dict[str, list[Layer]]) -> Any:
    figure = new_figure(1.5)
    draw_reads(figure, stacks)
    return figure


def run(path: Path) -> nbformat.NotebookNode:
    """The notebook at `path` with the outputs of a run from top to bottom.

    Raises:
        CellExecutionError: a cell raised.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(
            notebook,
            timeout=120,
            resources={"metadata": {"path": folder}},
            extra_arguments=["--log-level=ERROR"],
        ).execute()
    return notebook


def page(notebook: nbformat.NotebookNode) -> Iterator[tuple[str, str | bytes]]:
    """The notebook as Markdown, and its pictures: names in the site and contents."""
    parts = []
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        printed = "".join(map(_text, cell.outputs)).rstrip()
        if printed:
            parts.append(f'```text title="Output"\n{printed}\n```')
        for output in cell.outputs:
            picture = output.get("data", {}).get("image/png")
            if picture is not None:
                name = f"notebook-{number}.png"
                yield f"pictures/{name}", base64.b64decode(picture)
                # The metadata of a cell says in words what its picture shows.
                parts.append(f"![{cell.metadata.alt}](pictures/{name})")
    yield PAGE, "\n\n".join(parts) + "\n"


def _text(output: nbformat.NotebookNode) -> str:
    """The text of an output; empty if it is a picture."""
    if output.output_type == "stream":
        return str(output.text)
    data = output.get("data", {})
    return "" if "image/png" in data else str(data.get("text/plain", ""))
