"""upstream.py finds which tests reach convkern, and which fail with torch too."""

import subprocess
import sys
from pathlib import Path

TESTS = """
import torch
import torch.nn.functional as F

X, W = torch.ones(1, 1, 3, 3), torch.ones(1, 1, 2, 2)

def test_module():
    assert torch.nn.Conv2d(1, 1, 2)(X).shape == (1, 1, 2, 2)

def test_function():
    assert torch.conv2d(X, W)[0, 0, 0, 0] == torch.conv2d(X, W, stride=2).item() == 4

def test_message_of_torch_alone():
    try:
        F.conv2d(X, W.double())
    except RuntimeError as error:
        assert "should be the same dtype" not in str(error)

def test_fails_everywhere():
    assert F.conv2d(X, W).sum() == 0

def test_other():
    assert F.conv1d(X[0], W[0]).shape == (1, 2)
"""


def test_outcomes(tmp_path: Path) -> None:
    script = Path(__file__).parent / "upstream.py"

    def run(tests: str) -> subprocess.CompletedProcess[str]:
        (file := tmp_path / "test_convolution.py").write_text(tests)
        return subprocess.run(
            [sys.executable, str(script), str(file)], capture_output=True, text=True
        )

    done = run(TESTS)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-2:] == [
        "4 tests call conv2d: 2 pass with convkern, 0 skip, 1 fail with torch too, "
        "1 fail with convkern alone; 1 other tests",
        "fails with convkern alone: test_convolution.py::test_message_of_torch_alone: "
        "not known why",
    ]
    assert run(TESTS.replace(" not in str", " in str")).returncode == 0
    assert run("def test_nothing(): pass").returncode == 1
