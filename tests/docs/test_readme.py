"""The code in the README works as written."""

import os
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

import convkern
from convkern import _C, fashion_mnist
from convkern.cli import main
from convkern.fashion_mnist import TrainResult
from convkern.peaks import Peaks
from documents import README, blocks, printed
from fashion_mnist_files import (
    data_dir_fixture,  # noqa: F401
)

pytestmark = pytest.mark.skipif(
    not README.exists(), reason="needs the source tree, not an installed package"
)
PYTHON = blocks(README, "python") if README.exists() else []


def test_the_ten_lines_run() -> None:
    out = printed(PYTHON[0], {})
    assert out.startswith("(19, 19)\n")
    assert "kernel     fwd.fft.f32." in out


def test_a_model_is_replaced() -> None:
    printed(PYTHON[1], {})


def test_the_onnx_export_writes_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript", reason="ONNX export needs onnx and onnxscript")
    (example,) = [block for block in PYTHON if "onnx" in block.text]
    monkeypatch.chdir(tmp_path)
    # An earlier block leaves these variables.
    layer, images = convkern.Conv2d(1, 1, kernel_size=14, padding=2), torch.randn(512, 1, 28, 28)
    printed(example, {"torch": torch, "convkern": convkern, "layer": layer, "images": images})
    assert (tmp_path / "layer.onnx").exists()


@pytest.mark.filterwarnings("ignore:convkern")  # with so few images it does not learn
def test_the_training_example_is_the_same_each_time(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = partial(fashion_mnist.load_fashion_mnist, data_dir=data_dir)

    def losses(seed: int) -> list[float]:
        torch.manual_seed(seed)
        names: dict[str, TrainResult] = {}
        printed(PYTHON[-1], names)
        return names["result"].losses

    monkeypatch.setattr(
        fashion_mnist, "load_fashion_mnist", lambda batch_size, **options: load(20, **options)
    )
    assert losses(1) == losses(2)


@pytest.mark.exhaustive
def test_the_training_example_runs() -> None:
    names: dict[str, float] = {}
    printed(PYTHON[-1], names)
    assert 0.55 <= names["loss"] <= 0.62
    assert names["accuracy"] > 0.77


@pytest.mark.exhaustive
def test_rows_are_spread_over_processes(tmp_path: Path) -> None:
    script = next(block.text for block in PYTHON if block.text.startswith("# rows.py"))
    (tmp_path / "rows.py").write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*command, "--nproc-per-node", "2", str(tmp_path / "rows.py")],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
    )
    assert done.returncode == 0, done.stderr
    torch.manual_seed(0)
    images, weight = torch.randn(1, 3, 63, 64), torch.randn(8, 3, 5, 5, requires_grad=True)
    convkern.conv2d(images, weight, padding="same").square().sum().backward()
    assert weight.grad is not None
    lines = sorted(re.findall(r"rank (\d): \(1, 8, (\d+), 64\), gradient ([\d.]+)", done.stdout))
    assert [line[:2] for line in lines] == [("0", "32"), ("1", "31")]
    for *_, norm in lines:
        assert float(norm) == pytest.approx(weight.grad.norm().item(), rel=1e-4)


@pytest.mark.skipif(_C.available_isa() == "baseline", reason="shows what is printed with AVX2")
@pytest.mark.parametrize("place", [0, 1], ids=["a problem", "a model"])
def test_the_explanation_is_the_one_printed(
    place: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # These peaks were measured on two cores of Zen 3 with AVX2.
    monkeypatch.setattr(
        "convkern.peaks.known_peaks", lambda threads, _: Peaks(threads, 201e9, 28e9)
    )
    line, _, output = blocks(README, "console")[place].text.partition("\n")
    prompt, *command = shlex.split(line)
    assert [prompt, *command[:3]] == ["$", "python", "-m", "convkern"]
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with convkern.use_isa("avx2"):
            assert main(command[3:]) == 0
    finally:
        torch.set_num_threads(threads)
    assert capsys.readouterr().out == output
