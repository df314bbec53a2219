"""DTensor's sharding of the three ops, against torch's convolution of the whole tensors."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convkern
from convkern._register.dtensor import _ADJUSTERS
from processes import Processes

# Letters for placements: R, P for Partial, and 0, 1, 2, ... for Shard. There is one letter for each
# dimension of a mesh.
Letters = str


def placements(letters: Letters) -> list[Any]:
    from torch.distributed.tensor import Partial, Replicate, Shard

    return [
        Replicate() if one == "R" else Partial() if one == "P" else Shard(int(one))
        for one in letters
    ]


def letters_of(tensor: Any) -> Letters:
    return "".join(
        "R" if p.is_replicate() else "P" if p.is_partial() else str(p.dim)
        for p in tensor.placements
    )


# N, C, O, groups, and the arguments of conv2d.
PROBLEMS: dict[str, tuple[int, int, int, int, dict[str, Any]]] = {
    "dense": (4, 4, 8, 1, {"padding": 1}),
    "uneven": (5, 3, 7, 1, {"padding": (0, 1), "stride": 2}),
    "depthwise": (4, 8, 8, 8, {"padding": 1}),
    "uneven depthwise": (3, 5, 5, 5, {"padding": 2, "dilation": 2}),
    "multiplier": (2, 4, 8, 4, {"padding": 1}),
    "two groups": (4, 4, 6, 2, {"padding": 1}),
    "odd groups": (4, 6, 9, 3, {"padding": 1}),
}


def operands(name: str) -> tuple[dict[str, Any], list[Tensor], Tensor]:
    """Returns the arguments, then x, w and b, then gy. They are the same in every process."""
    n, c, o, groups, arguments = PROBLEMS[name]
    generator = torch.Generator().manual_seed(11)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, w, b = random(n, c, 7, 6), random(o, c // groups, 3, 3), random(o)
    arguments = {**arguments, "groups": groups}
    return arguments, [x, w, b], random(*F.conv2d(x, w, b, **arguments).shape)


def close(actual: Any, expected: Tensor) -> None:
    whole = actual.full_tensor()
    torch.testing.assert_close(whole, expected.detach(), rtol=1e-12, atol=1e-12)


def mesh_of(shape: tuple[int, ...]) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh("cpu", shape)


def convolution(
    name: str,
    shape: tuple[int, ...],
    given: list[Letters],
    activation: str | None = None,
    bias: bool = True,
) -> list[Letters]:
    """Checks forward and gradients, and the placements of y and the gradients of x, w and b."""
    from torch.distributed.tensor import distribute_tensor

    arguments, plain, gy = operands(name)
    plain, mesh = plain if bias else plain[:2], mesh_of(shape)
    exact = [tensor.requires_grad_() for tensor in plain]
    y = F.conv2d(*exact, **arguments)
    y = F.relu(y) if activation else y
    gradients = torch.autograd.grad(y, exact, gy)

    spread = [
        distribute_tensor(tensor.detach(), mesh, placements(letters)).requires_grad_()
        for tensor, letters in zip(plain, given, strict=False)
    ]
    ours = convkern.conv2d(*spread, **arguments, activation=activation)
    close(ours, y)
    # The gradient is placed like y or everywhere, as it is for a loss that is computed from y.
    where = [p if p.is_shard() else placements("R")[0] for p in ours.placements]
    ours.backward(distribute_tensor(gy, mesh, where))
    for tensor, gradient in zip(spread, gradients, strict=True):
        assert tensor.grad.shape == tensor.shape
        close(tensor.grad, gradient)
    return [letters_of(ours), *(letters_of(tensor.grad) for tensor in spread)]


def divides_groups(name: str) -> bool:
    """Returns whether groups may be divided between processes, which needs torch 2.13 or later."""
    return PROBLEMS[name][3] == 1 or _ADJUSTERS is not None


@pytest.mark.parametrize(
    ("name", "given", "found"),
    [
        ("dense", ["R", "R", "R"], ["R", "R", "R", "R"]),
        ("dense", ["0", "R", "R"], ["0", "0", "P", "P"]),
        ("dense", ["R", "0", "0"], ["1", "P", "0", "0"]),
        ("dense", ["1", "1", "R"], ["P", "1", "1", "R"]),
        ("uneven", ["0", "R", "R"], ["0", "0", "P", "P"]),
        ("uneven", ["R", "0", "0"], ["1", "P", "0", "0"]),
        ("uneven", ["1", "1", "R"], ["P", "1", "1", "R"]),
        ("depthwise", ["0", "R", "R"], ["0", "0", "P", "P"]),
        ("depthwise", ["1", "0", "0"], ["1", "1", "0", "0"]),
        ("uneven depthwise", ["1", "0", "0"], ["1", "1", "0", "0"]),
        ("multiplier", ["1", "0", "0"], ["1", "1", "0", "0"]),
        ("two groups", ["1", "0", "0"], ["1", "1", "0", "0"]),
        # Three groups cannot be divided between two processes, so something must be gathered.
        ("odd groups", ["1", "0", "0"], None),
        ("dense", ["2", "R", "R"], None),
        ("dense", ["0", "0", "0"], None),
        ("dense", ["3", "2", "R"], None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("count", [2, 3, 4])
def test_is_the_convolution_of_the_whole(
    name: str, given: list[Letters], found: list[Letters] | None, count: int, processes: Processes
) -> None:
    where = processes.run(count, convolution, name, (count,), given)
    assert all(each == where[0] for each in where)
    if found is not None and divides_groups(name) and placed_without_gathering(name, given, count):
        assert where[0] == found


def placed_without_gathering(name: str, given: list[Letters], count: int) -> bool:
    """Returns whether every process gets channels, whole groups, or images."""
    n, c, o, groups, _ = PROBLEMS[name]
    split = {"0": [n], "R": [o] if given[1] == "0" else [], "1": [c]}[given[0]]
    if groups > 1 and given[0] == "1":
        return all(
            len(chunks := torch.arange(size).chunk(count)) == count
            and all(len(chunk) % (size // groups) == 0 for chunk in chunks)
            for size in (c, o)
        )
    return all(len(torch.arange(size).chunk(count)) == count for size in split)


@pytest.mark.parametrize(
    ("name", "given", "found"),
    [
        ("dense", ["0R", "R0", "R0"], ["01", "0P", "P0", "P0"]),
        ("dense", ["01", "R1", "RR"], ["0P", "01", "P1", "PR"]),
        ("dense", ["1R", "10", "R0"], ["P1", "1P", "10", "R0"]),
        ("dense", ["RR", "00", "00"], ["11", "PP", "00", "00"]),
        ("depthwise", ["11", "00", "00"], ["11", "11", "00", "00"]),
        ("depthwise", ["01", "R0", "R0"], ["01", "01", "P0", "P0"]),
        ("two groups", ["11", "00", "00"], None),
        ("uneven", ["00", "RR", "RR"], None),
    ],
)
def test_mesh_of_two_dimensions(
    name: str, given: list[Letters], found: list[Letters] | None, processes: Processes
) -> None:
    where = processes.run(4, convolution, name, (2, 2), given)
    assert all(each == where[0] for each in where)
    if found is not None and divides_groups(name):
        assert where[0] == found


def test_relu_is_of_the_sum_of_the_parts(processes: Processes) -> None:
    """Input channels can be split only without a ReLU: max(0, a) + max(0, b) is not the ReLU of a +
    b."""
    partial = processes.run(2, convolution, "dense", (2,), ["1", "1", "R"])
    assert partial[0][0] == "P"
    for given in (["1", "1", "R"], ["0", "R", "R"], ["R", "0", "0"]):
        where = processes.run(2, convolution, "dense", (2,), given, "relu")
        assert "P" not in where[0][0]


def test_without_bias(processes: Processes) -> None:
    for name, given in (("dense", ["1", "1"]), ("dense", ["R", "0"]), ("depthwise", ["1", "0"])):
        processes.run(2, convolution, name, (2,), given, None, False)


def second_order(given: list[Letters], name: str) -> None:
    """Second derivatives use the gradients of both gradient ops."""
    from torch.distributed.tensor import distribute_tensor

    arguments, plain, _ = operands(name)
    mesh = mesh_of((2,))

    def penalty(x: Any, w: Any, convolve: Callable[..., Any]) -> Any:
        y = convolve(x, w, None, **arguments)
        gradients = torch.autograd.grad(y.square().sum(), (x, w), create_graph=True)
        return gradients[0].square().sum() + gradients[1].square().sum()

    exact = [tensor.requires_grad_() for tensor in plain[:2]]
    penalty(*exact, F.conv2d).backward()
    spread = [
        distribute_tensor(tensor.detach(), mesh, placements(letters)).requires_grad_()
        for tensor, letters in zip(plain, given, strict=False)
    ]
    penalty(*spread, convkern.conv2d).backward()
    for tensor, expected in zip(spread, exact, strict=True):
        assert expected.grad is not None
        torch.testing.assert_close(tensor.grad.full_tensor(), expected.grad, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("dense", ["0", "R"]),
        ("dense", ["R", "0"]),
        ("dense", ["1", "1"]),
        ("depthwise", ["1", "0"]),
    ],
)
def test_second_derivatives(name: str, given: list[Letters], processes: Processes) -> None:
    processes.run(2, second_order, given, name)


# --- modules -------------------------------------------------------------------------------


def tensor_parallel() -> None:
    """Two layers, the first split by its output channels and the second by its input channels, like
    a pair of linear layers. They need only one sum of the output."""
    from torch.distributed.tensor import DTensor, Replicate, distribute_module, distribute_tensor

    torch.manual_seed(2)
    net = nn.Sequential(
        convkern.Conv2d(3, 8, 3, padding=1), nn.ReLU(), convkern.Conv2d(8, 4, 3, padding=1)
    ).double()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    expected = net(x)
    expected.square().sum().backward()
    gradients = [p.grad for p in net.parameters()]
    net.zero_grad()

    mesh = mesh_of((2,))
    split = {"0": {"weight": "0", "bias": "0"}, "2": {"weight": "1", "bias": "R"}}

    def partition(name: str, module: nn.Module, mesh: Any) -> None:
        for key, parameter in list(module.named_parameters(recurse=False)):
            spread = distribute_tensor(parameter.detach(), mesh, placements(split[name][key]))
            module.register_parameter(key, nn.Parameter(spread))

    distribute_module(net, mesh, partition)
    y = net(DTensor.from_local(x, mesh, [Replicate()]))
    assert letters_of(y) == "P"
    close(y, expected)
    y.redistribute(mesh, [Replicate()]).square().sum().backward()
    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        assert parameter.grad is not None
        close(parameter.grad, gradient)


def test_tensor_parallel_layers(processes: Processes) -> None:
    processes.run(2, tensor_parallel)


def channels_last() -> None:
    from torch.distributed.tensor import DTensor

    arguments, (x, w, b), _ = operands("dense")
    mesh = mesh_of((2,))
    half = x.chunk(2)[mesh.get_rank()].contiguous(memory_format=torch.channels_last)
    spread = DTensor.from_local(half, mesh, placements("0"))
    parameters = [DTensor.from_local(t, mesh, placements("R")) for t in (w, b)]
    y = convkern.conv2d(spread, *parameters, **arguments)
    close(y, F.conv2d(x, w, b, **arguments))
    for tensor in (y, y.to_local()):
        assert tensor.is_contiguous(memory_format=torch.channels_last)


def test_channels_last(processes: Processes) -> None:
    processes.run(2, channels_last)


UNREGISTERED = """
import sys, torch, torch.distributed as dist, convkern
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, distribute_tensor

dist.init_process_group("gloo", f"file://{sys.argv[1]}", rank=0, world_size=1)
mesh = init_device_mesh("cpu", (1,))
x, w = (distribute_tensor(torch.ones(1, 1, n, n), mesh, [Replicate()]) for n in (4, 3))
try:
    torch.ops.convkern.conv2d(x, w)
except NotImplementedError as error:
    print(error)
convkern.conv2d(x, w)
print(torch.ops.convkern.conv2d(x, w).full_tensor().flatten().tolist())
dist.destroy_process_group()
"""


def test_conv2d_registers_the_rules_of_the_ops(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNREGISTERED, str(tmp_path / "store")],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if not line.startswith("[Gloo]")]
    assert lines == [
        "Operator convkern.conv2d.default does not have a sharding strategy registered.",
        "[9.0, 9.0, 9.0, 9.0]",
    ]


def compiled() -> None:
    from torch.distributed.tensor import distribute_tensor

    import convkern.distributed

    arguments, plain, gy = operands("dense")
    mesh = mesh_of((2,))
    exact = [tensor.requires_grad_() for tensor in plain]
    expected = F.conv2d(*exact, **arguments)
    gradients = torch.autograd.grad(expected, exact, gy)
    spread = [
        distribute_tensor(tensor.detach(), mesh, placements(letters)).requires_grad_()
        for tensor, letters in zip(plain, ("R", "0", "0"), strict=True)
    ]
    y = torch.compile(convkern.conv2d, backend="aot_eager", fullgraph=True)(*spread, **arguments)
    assert letters_of(y) == "1"
    close(y, expected)
    y.backward(distribute_tensor(gy, mesh, placements("1")))
    for tensor, gradient in zip(spread, gradients, strict=True):
        close(tensor.grad, gradient)


def test_compiled_function(processes: Processes) -> None:
    processes.run(2, compiled)


def test_import_stays_quick() -> None:
    """DTensor takes a second to import. `import convkern` and plain tensors do not need it."""
    program = (
        "import sys, torch, convkern; convkern.Conv2d(1, 1, 3)(torch.ones(1, 1, 4, 4)); "
        "assert 'torch.distributed.tensor' not in sys.modules; "
        "assert 'convkern.distributed' not in sys.modules; "
        "assert 'convkern._register.dtensor' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
