"""Text from outside is printed, and written into pages, unchanged."""

import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest
import torch
from torch import nn

import convkern
from convkern._show import html, progress
from convkern._show.progress import Progress
from convkern._show.tables import Table
from convkern.bench import Row, Sample, Suite, write_report
from convkern.cli import main
from fashion_mnist_files import (
    data_dir_fixture,  # noqa: F401
)

# rich would take some of these for markup, closing or opening, or for an emoji. HTML would take
# others for a tag.
NAMES = [
    "[red]",
    "[/x]",
    "x[/red]y",
    "[bold]a[/bold]",
    "[link=x]",
    ":bomb:",
    "\\[x]",
    '<b>&"',
    "a]",
]


@pytest.mark.parametrize("name", NAMES)
def test_tables_show_names_as_they_are(name: str) -> None:
    table = Table((name, "b"), ("c",))
    table.add_row(name, "x", "1")
    lines = str(table).splitlines()
    assert [line.split()[0] for line in lines] == [name, name]
    page = table._repr_html_()
    assert [unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t", page)] == [
        name, "b", "c", name, "x", "1"
    ]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("terminal", [False, True])
def test_lines_are_printed_as_they_are(
    name: str, terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    if terminal:
        console = pytest.importorskip("rich.console")
        assert isinstance(progress._terminal(), console.Console)
    Progress().print(f"data: {name}")
    assert capsys.readouterr().out == f"data: {name}\n"


def test_every_console_is_a_plain_one() -> None:
    """Only progress.py makes a Console."""
    package = Path(convkern.__file__).parent
    makers = [
        path.name for path in package.rglob("*.py") if re.search(r"\bConsole\(", path.read_text())
    ]
    assert makers == ["progress.py"]


@pytest.mark.parametrize("name", ["[red]", "[/x]", '<b>&"'])
def test_models_with_any_names_of_layers(name: str) -> None:
    model = nn.Sequential()
    model.add_module(name, convkern.Conv2d(1, 1, 3))
    explained = convkern.explain(model, torch.ones(1, 1, 8, 8))
    assert str(explained).splitlines()[1].startswith(f"{name} ")
    assert f">{html.escape(name)}<" in explained._repr_html_()


@pytest.mark.parametrize("name", ["[red]", "x[/x]"])
def test_commands_print_paths_as_they_are(
    name: str, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    pytest.importorskip("matplotlib")
    from convkern.fashion_mnist.study import report

    monkeypatch.setattr(report, "write_report", lambda folder, study, nets, data: None)
    folder = tmp_path / name
    folder.parent.mkdir(exist_ok=True)
    data_dir.rename(folder)
    options = ["--models", "plain", "--seeds", "1", "--epochs", "1", "--timing-epochs", "0"]
    out = tmp_path / f"out{name}"
    assert main(["compare", "--data", str(folder), "--out", str(out), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"data: {folder}"
    assert lines[-1] == f"report: {out / 'report.html'}"
    assert main(["train", "--data", str(folder), "--epochs", "1"]) == 0
    assert capsys.readouterr().out.startswith(f"data: {folder}\n")


@pytest.mark.parametrize("name", ["net/[red]", "net/[/x]", 'net/<b>&"', "net/$x^$"])
def test_the_benchmarks_show_labels_as_they_are(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = Sample(1.0, 0.9, 1.1, 9)
    row = Row(
        f"n1c1h4w4k1r2s2_f32_nchw_fwd#{name}", "fwd", 1, {"convkern": sample, "torch": sample}
    )
    suite = Suite({"<b>": '&"'}, "", [row])
    suite.write(tmp_path / "result.json")
    result = str(tmp_path / "result.json")
    assert main(["bench", "compare", result, result]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith(f"{name} ")
    pytest.importorskip("matplotlib")
    page = write_report(tmp_path / "out", [suite]).read_text()
    assert f">{html.escape(name)}<" in page
    assert "<b>" not in page
    assert "&lt;b&gt;" in page


WITHOUT_RICH = """
import sys
sys.modules["rich"] = None
sys.stdout.isatty = lambda: True
import torch, convkern
from convkern.cli import main
print(convkern.explain(torch.nn.Sequential(convkern.Conv2d(1, 1, 3)), torch.ones(1, 1, 8, 8)))
with convkern.profile(roof=False) as profile:
    convkern.Conv2d(1, 1, 3)(torch.ones(1, 1, 8, 8))
print(profile)
quick = ["--passes", "fwd", "--peers", "torch", "--threads", "1", "--seconds", "0"]
sys.exit(main(["bench", "--shapes", "n1c1h8w8k1r3s3_f32_nchw_fwd#tiny", *quick]))
"""


def test_all_prints_without_rich() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RICH], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [
        "layer", "0", "1", "problem", lines[4].split()[0], "1", "problem", "tiny", "geometric"
    ]  # fmt: skip
    assert done.stderr == ""


def test_figures_align_to_the_right_and_wide_letters_take_two_columns() -> None:
    table = Table(("name", "kind"), ("ms",), ("note",))
    table.add_row("\u5c64", "a", "1.5", "x")
    table.add_row("e\u0301", "abcdef", "10.25", "")
    assert str(table).splitlines() == [
        "name  kind       ms  note",
        "\u5c64    a         1.5  x",
        "e\u0301     abcdef  10.25",
    ]
    with pytest.raises(ValueError, match="a row of 1 cells for 4 columns"):
        table.add_row("x")
