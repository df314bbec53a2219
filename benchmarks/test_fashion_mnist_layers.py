"""The seven Fashion-MNIST layers, forward and forward+backward, against torch.

    pytest benchmarks/ --benchmark-only

Each group is one layer and pass; the number in brackets behind a row's median is its ratio to the
fastest row of the group. Calls go through the public API, with allocation of the results, and
weights are not prepacked.
"""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from convkern.bench import PASS_NAMES, read_shapes
from convkern.bench.peers import prepare
from convkern.testing import operands

LAYERS = read_shapes("fmnist")


def label(problem: str) -> str:
    return problem.partition("#")[2]


@pytest.mark.parametrize("peer", ["convkern", "torch"])
@pytest.mark.parametrize("layer", LAYERS, ids=label)
@pytest.mark.parametrize("pass_", PASS_NAMES)
def test_layer(benchmark: BenchmarkFixture, layer: str, peer: str, pass_: str) -> None:
    ops = operands(layer)
    assert ops.b is not None
    call = prepare(peer, ops, pass_)
    assert call is not None
    benchmark.group = f"{label(layer)} {PASS_NAMES[pass_]}"
    result = benchmark(call)
    results, like = ((result,), (ops.gy,)) if pass_ == "fwd" else (result, (ops.x, ops.w, ops.b))
    assert [r.shape for r in results] == [t.shape for t in like]
