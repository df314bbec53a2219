"""The pages of docs/: their code runs, their quotes and names are right, and they are complete."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import convkern
from convkern.cli import build_parser
from counts import count
from documents import DOCS, NEEDS, README, ROOT, Block, blocks, printed, run_all

pytestmark = pytest.mark.skipif(
    not DOCS.exists(), reason="needs the source tree, not an installed package"
)

PAGES = sorted(DOCS.rglob("*.md"))
NOTEBOOK = DOCS / "padding_and_stride.ipynb"
LANGUAGES = {"python", "sh", "console", "cpp", "text"}
MODULES = [
    "convkern",
    "convkern.distributed",
    "convkern.fashion_mnist",
    "convkern.fashion_mnist.study",
]


def page_id(path: Path) -> str:
    return str(path.relative_to(DOCS))


def all_blocks(language: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page, language)]


def block_id(block: Block) -> str:
    return f"{page_id(block.path)}:{block.line}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_python_blocks_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings_of_torch: None
) -> None:
    monkeypatch.chdir(tmp_path)
    ran, compiled = run_all(b for b in blocks(page, "python") if b.quoted_from is None)
    count("documentation: Python blocks that ran", ran)
    count("documentation: Python blocks that were only compiled", compiled)


@pytest.fixture
def settings_of_torch() -> Iterator[None]:
    """Restores what pages set, so that they leave no setting behind."""
    tf32 = torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32 = tf32
    assert convkern.get_float32_precision() == "high"
    assert convkern.weight_cache_bytes() == 0


def test_a_comment_that_is_not_printed_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1)  # 1\nprint(2)  # 3\n```\n")
    with pytest.raises(AssertionError, match=r"page.md:1: not printed: \['3'\]"):
        printed(blocks(page, "python")[0], {})


def test_pictures_in_text_are_what_is_printed() -> None:
    """They stand below the block that prints them."""
    page = DOCS / "padding-and-stride.md"
    names: dict[str, Any] = {}
    out = "".join(printed(block, names) for block in blocks(page, "python"))
    pictures = [b.text for b in blocks(page, "text") if re.match("rows|columns|zeros", b.text)]
    assert len(pictures) == out.count("rows and columns: ") + 1
    positions = [out.find(picture) for picture in pictures]
    assert positions == sorted(positions)
    assert positions[0] >= 0


def test_needs_are_known() -> None:
    """If a block's first line asks for something, the test knows what that is."""
    asked = [b.text.partition("\n")[0] for b in all_blocks("python") if b.text.startswith("# need")]
    assert asked
    assert set(asked) <= set(NEEDS)


def test_every_block_is_of_a_language_that_is_tested() -> None:
    for page in PAGES:
        opened = re.findall(r"^ *```(\w*)", page.read_text(), re.MULTILINE)
        found = [b for language in LANGUAGES for b in blocks(page, language)]
        assert len(opened) == 2 * len(found), page
        assert set(opened) <= LANGUAGES | {""}


@pytest.mark.parametrize(
    "block", [b for name in ("cpp", "python") for b in all_blocks(name) if b.quoted_from],
    ids=block_id,
)  # fmt: skip
def test_quotations_are_what_the_file_says(block: Block) -> None:
    assert block.quoted_from is not None
    assert block.text in (ROOT / block.quoted_from).read_text()


def test_cpp_is_quoted() -> None:
    assert all(block.quoted_from for block in all_blocks("cpp"))


@pytest.mark.parametrize("block", all_blocks("console"), ids=block_id)
def test_console_blocks_say_what_is_printed(block: Block) -> None:
    command, _, output = block.text.partition("\n")
    program, *arguments = shlex.split(command.removeprefix("$ "))
    assert program == "python"
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.stdout + done.stderr == output


@pytest.mark.parametrize("block", all_blocks("sh"), ids=block_id)
def test_commands_exist(block: Block) -> None:
    """Commands are parsed, not run, because they build, train and measure."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = [
            word for word in shlex.split(line, comments=True) if not re.match(r"[A-Z_]+=", word)
        ]
        if words[:1] == ["make"]:
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
        elif "convkern" in words:
            build_parser().parse_args(words[words.index("convkern") + 1 :])
        elif words[:1] == ["python"]:
            paths = [word for word in words[1:] if re.match(r"(tests|benchmarks)/", word)]
            assert paths or words[1:3] == ["-m", "pytest"], line
            assert all((ROOT / path).exists() for path in paths), line
        else:
            assert words[:1] in ([], ["torchrun"]) or words[:2] == ["pip", "install"], line


def test_paths_exist() -> None:
    """These are paths of the source tree, in the code of the text or as titles."""
    named = set()
    for page in PAGES:
        prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        named |= set(re.findall(r"`((?:csrc|tests|benchmarks|convkern|\.ci)/[\w./-]+)`", prose))
        named |= set(re.findall(r"`(\w+\.(?:md|toml|yml))`", prose))
    assert "csrc/cpu/kernel_list.cpp" in named
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_every_image_has_words() -> None:
    images = [image for page in PAGES for image in re.findall(r"!\[([^]]*)\]", page.read_text())]
    assert images
    assert all(len(alt.split()) >= 5 for alt in images)


def test_measurements_are_those_of_the_readme() -> None:
    """Tables of measurements are included from the README. The README also has what the text says
    about them."""
    paths = (README, ROOT / "benchmarks" / "README.md")
    measured = " ".join(word for path in paths for word in path.read_text().split())
    said = set()
    for page in PAGES:
        text = " ".join(page.read_text().split())
        said |= set(re.findall(r"\b\d[\d.]*x\b(?!\d)|[\d.]+ to [\d.]+(?:%| times)|\d+ MB", text))
    said = {words for words in said if "." in words or not words.endswith("x")}
    assert {"8 to 24%", "94 MB"} <= said
    assert [words for words in sorted(said) if words not in measured] == []


@pytest.mark.parametrize("module", MODULES)
def test_public_names_are_in_the_reference(module: str) -> None:
    entries = {
        entry
        for page in (DOCS / "api").glob("*.md")
        for entry in re.findall(r"^::: ([\w.]+)$", page.read_text(), re.MULTILINE)
    }
    missing = []
    for name in importlib.import_module(module).__all__:
        # The function explain has the same name as its module.
        if not {f"{module}.{name}", f"{module}.{name}.{name}"} & entries:
            missing.append(name)
    assert missing == []


def test_names_of_the_reference_have_docstrings() -> None:
    for page in (DOCS / "api").glob("*.md"):
        for entry in re.findall(r"^::: ([\w.]+)$", page.read_text(), re.MULTILINE):
            module, _, name = entry.rpartition(".")
            found = getattr(importlib.import_module(module), name)
            assert getattr(found, "__doc__", None), entry


def test_kernels_page_names_every_algorithm() -> None:
    page = (DOCS / "kernels.md").read_text()
    for kernel in convkern._C.kernels():
        if kernel["device"] == "cpu":
            assert f"`{kernel['name'].split('.')[1]}`" in page


def test_the_notebook_is_stored_without_outputs() -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat")
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs from top to bottom without a network, on its synthetic pictures."""
    for package in ("nbformat", "nbclient", "ipykernel"):
        pytest.importorskip(package, reason=f"needs {package}: pip install '.[docs]'")
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # If other programs use the machine, threads wait for each other: a step takes 60 ms instead of
    # 8.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "4000 images of 28x28" in text
    assert "equal; the kernel was fwd." in text
    count("documentation: cells of the notebook that ran", len(notebook.cells))
