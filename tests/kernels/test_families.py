"""The algorithm that runs each pass of every layer in the benchmark suite. The tables make a change
of the choice visible. csrc/cpu/choice.h has the reasons."""

from fnmatch import fnmatchcase

import pytest

import convkern
from convkern import _C
from convkern.bench import read_shapes
from convkern.bench.suite import SHAPES
from convkern.testing import variant

PASSES = ("fwd", "gx", "gw")
BATCH, COLUMN, CHANNEL = "direct_batchlane", "direct_columnlane", "direct_channellane"
GEMM, SKINNY, FFT = "implicit_gemm", "skinny_gemm", "fft"
WINOGRAD_2x2, WINOGRAD_4x4 = "winograd_2x2", "winograd_4x4"
Table = dict[str, tuple[str, str, str]]

# The algorithm of each pass with AVX-512, by pattern of labels. If several lines match, the last
# one decides.
CHOICES: Table = {
    # Many channels, small batches.
    "resnet50/*": (GEMM, GEMM, GEMM),
    "mobilenet_v2/*": (GEMM, GEMM, GEMM),
    "convnext/*": (GEMM, GEMM, GEMM),
    "srcnn/conv2": (GEMM, GEMM, GEMM),
    # Images of 3 channels, which are too few for the lanes of gx.
    "resnet50/conv1": (GEMM, COLUMN, GEMM),
    "mobilenet_v2/features.0.0": (GEMM, COLUMN, GEMM),
    # Patches.
    "convnext/features.0.0": (GEMM, SKINNY, SKINNY),
    # One channel in, or one out.
    "srcnn/conv[13]": (COLUMN, COLUMN, COLUMN),
    # Depthwise layers.
    "mobilenet_v2/features.1.conv.0.0": (CHANNEL, CHANNEL, CHANNEL),
    "mobilenet_v2/features.*.conv.1.0": (CHANNEL, CHANNEL, CHANNEL),
    "convnext/*.block.0": (CHANNEL, CHANNEL, CHANNEL),
    "replknet/*": (CHANNEL, CHANNEL, CHANNEL),
    # The number behind each line is the channels in a group.
    "resnext/layer1.0.conv2": (CHANNEL, CHANNEL, CHANNEL),  # 4
    "resnext/layer2.0.conv2": (CHANNEL, CHANNEL, CHANNEL),  # 8, stride 2
    "resnext/layer2.1.conv2": (CHANNEL, CHANNEL, CHANNEL),  # 8
    "resnext/layer3.0.conv2": (CHANNEL, CHANNEL, GEMM),  # 16, stride 2
    "resnext/layer3.1.conv2": (CHANNEL, CHANNEL, GEMM),  # 16
    "resnext/layer4.0.conv2": (GEMM, GEMM, GEMM),  # 32, stride 2
    "resnext/layer4.1.conv2": (GEMM, GEMM, GEMM),  # 32
    # Few channels, large batches.
    "fmnist/*": (BATCH, BATCH, BATCH),
    "lenet/*": (BATCH, BATCH, BATCH),
    "batches/*": (BATCH, BATCH, BATCH),
    "batches/17": (BATCH, COLUMN, BATCH),
    "edge/*": (BATCH, BATCH, BATCH),
    "edge/patches": (BATCH, SKINNY, BATCH),
    "edge/grouped": (CHANNEL, CHANNEL, CHANNEL),
    # Few channels, small batches.
    "edge/tiny": (COLUMN, COLUMN, GEMM),
    "fmnist/*.batch[127]": (COLUMN, COLUMN, COLUMN),
    "fmnist/padding2.conv2.batch2": (COLUMN, COLUMN, BATCH),
    "fmnist/padding3.conv2.batch7": (COLUMN, COLUMN, BATCH),
    "fmnist/padding3.conv3.batch2": (COLUMN, COLUMN, BATCH),
    "fmnist/stride.conv2.batch7": (COLUMN, COLUMN, BATCH),
    "fmnist/stride.conv3.batch1": (COLUMN, COLUMN, GEMM),
    "fmnist/stride.conv3.batch2": (COLUMN, COLUMN, BATCH),
    "fmnist/padding2.conv1.batch7": (BATCH, COLUMN, BATCH),
    "fmnist/padding2.conv2.batch7": (COLUMN, BATCH, BATCH),
    "fmnist/padding3.conv1.batch7": (COLUMN, COLUMN, BATCH),
    "fmnist/padding3.conv3.batch7": (COLUMN, COLUMN, BATCH),
    "fmnist/stride.conv3.batch7": (BATCH, BATCH, BATCH),
    "lenet/conv1.batch[127]": (COLUMN, COLUMN, COLUMN),
    "lenet/conv2.batch[127]": (GEMM, COLUMN, GEMM),
}
IN_NCHW: Table = {
    "edge/one_dimensional": (COLUMN, COLUMN, COLUMN),
    "edge/k31": (COLUMN, COLUMN, COLUMN),
}
IN_CHANNELS_LAST: Table = {
    "batches/17": (BATCH, BATCH, BATCH),
    "fmnist/padding2.conv2.batch7": (BATCH, BATCH, BATCH),
    "fmnist/padding3.conv1.batch7": (BATCH, COLUMN, BATCH),
    "fmnist/padding3.conv[23].batch7": (BATCH, BATCH, BATCH),
    "fmnist/stride.conv2.batch7": (COLUMN, BATCH, BATCH),
    "lenet/conv1.batch7": (COLUMN, COLUMN, BATCH),
    "lenet/conv2.batch7": (GEMM, BATCH, GEMM),
    "mobilenet_v2/features.0.0": (GEMM, BATCH, GEMM),
    "resnet50/conv1": (GEMM, BATCH, GEMM),
    "edge/patches": (BATCH, SKINNY, SKINNY),
    # 1x1 kernels with 16 or 24 channels on one side.
    "mobilenet_v2/features.1.conv.1": (GEMM, SKINNY, SKINNY),
    "mobilenet_v2/features.2.conv.0.0": (SKINNY, GEMM, SKINNY),
    "mobilenet_v2/features.2.conv.2": (GEMM, GEMM, SKINNY),
    "mobilenet_v2/features.3.conv.2": (GEMM, GEMM, SKINNY),
}
# Large kernels of one channel in large batches, and depthwise ones.
OF_TRANSFORMS: Table = {
    "convnext/features.[13].0.block.0": (FFT, FFT, FFT),
    "batches/64": (FFT, FFT, FFT),
    "batches/[12][0-9][0-9]*": (FFT, FFT, FFT),
    "edge/k31": (FFT, FFT, FFT),
    "fmnist/padding[23].conv1": (FFT, FFT, FFT),
    "lenet/conv2": (FFT, FFT, BATCH),
    "replknet/stage[123]": (FFT, FFT, FFT),
}
# The direct kernels find channels in the lanes.
OF_TRANSFORMS_IN_CHANNELS_LAST: Table = {
    "convnext/features.[13].0.block.0": (CHANNEL, CHANNEL, FFT),
}


def of_winograd(algorithm: str) -> Table:
    """3x3 layers of many channels with stride 1."""
    return {
        "resnet50/layer1.0.conv2": (algorithm, algorithm, algorithm),
        "resnet50/layer[234].1.conv2": (algorithm, algorithm, algorithm),
        "resnext/layer3.1.conv2": (CHANNEL, CHANNEL, algorithm),  # 16 channels in a group
    }


UNDER: dict[str, list[Table]] = {
    "highest": [],
    "high": [OF_TRANSFORMS, of_winograd(WINOGRAD_2x2)],
    "medium": [
        OF_TRANSFORMS,
        of_winograd(WINOGRAD_4x4),
        {
            "resnext/layer4.1.conv2": (WINOGRAD_4x4, WINOGRAD_4x4, WINOGRAD_4x4),
        },
    ],
}
LAYERS = {
    name: {problem.partition("#")[2]: problem for problem in read_shapes(name)}
    for name in sorted(path.stem for path in SHAPES.glob("*.txt"))
}


@pytest.fixture(params=UNDER)
def precision(request: pytest.FixtureRequest, restored_precision: None) -> str:
    convkern.set_float32_precision(request.param)
    return str(request.param)


def line_of(label: str, table: Table) -> str | None:
    matching = [pattern for pattern in table if fnmatchcase(label, pattern)]
    return matching[-1] if matching else None


def expected(label: str, tables: list[Table]) -> tuple[str, str, str]:
    for table in reversed(tables):
        line = line_of(label, table)
        if line is not None:
            return table[line]
    pytest.fail(f"no line of the tables is for {label}")


def algorithm(problem: str) -> str:
    return convkern.explain(problem).algorithm


@pytest.mark.skipif(
    not _C.available_isa().startswith("avx512"),
    reason="the tables are of AVX-512, which this processor lacks",
)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_run_the_algorithms_of_the_tables(name: str, layout: str, precision: str) -> None:
    tables = [CHOICES, IN_NCHW if layout == "nchw" else IN_CHANNELS_LAST, *UNDER[precision]]
    if layout == "nhwc" and precision != "highest":
        tables.append(OF_TRANSFORMS_IN_CHANNELS_LAST)
    with convkern.use_isa("avx512"):
        chosen = {
            label: tuple(algorithm(variant(text, layout=layout, pass_=pass_)) for pass_ in PASSES)
            for label, text in LAYERS[name].items()
        }
    assert chosen == {label: expected(label, tables) for label in chosen}


@pytest.mark.parametrize(
    "table",
    [CHOICES, IN_NCHW, IN_CHANNELS_LAST, *UNDER["medium"], OF_TRANSFORMS_IN_CHANNELS_LAST],
)
def test_every_line_of_a_table_is_of_some_layer(table: Table) -> None:
    lines = {line_of(label, table) for layers in LAYERS.values() for label in layers}
    assert lines - {None} == set(table)
