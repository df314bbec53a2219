"""benchmarks/kinds.py shows results by kind of layer, as a table and as a chart."""

from pathlib import Path

import pytest

import kinds
from convkern.bench import PASSES, Row, Sample, Suite, read_shapes
from dots import LAYOUT_COLOURS
from svg import dots

FIRST, WIDE, NARROW = "resnet50/conv1", "resnet50/layer1.0.conv3", "resnet50/layer1.0.conv1"
# By layout, and for each layer forward and forward+backward.
RATIOS = {
    "nchw": {FIRST: (2, 3), WIDE: (4, 0.5), NARROW: (1, 2)},
    "nhwc": {FIRST: (1, 1), WIDE: (9, 1), NARROW: (4, 1)},
}
TABLE = """\
| layers | NCHW forward | NCHW forward+backward | channels_last forward | channels_last forward+backward |
|---|---|---|---|---|
| ResNet-50 first layer, 1 | 2.00x | 3.00x | 1.00x | 1.00x |
| ResNet-50 1x1, 2 | 2.00x (1.00 to 4.00) | 1.00x (0.50 to 2.00) | 6.00x (4.00 to 9.00) | 1.00x (1.00 to 1.00) |
| geometric mean of all layers | 2.00x | 1.44x | 3.30x | 1.00x |
"""  # noqa: E501


def sample(median: float) -> Sample:
    return Sample(median, median, median, 9)


def row(label: str, pass_: str = "fwd", ratio: float = 1, threads: int = 2) -> Row:
    """Returns a row for the layer with that label in benchmarks/shapes."""
    problems = read_shapes(label.partition("/")[0])
    problem = next(problem for problem in problems if problem.endswith(f"#{label}"))
    return Row(problem, pass_, threads, {"convkern": sample(1), "torch": sample(ratio)})


def write(folder: Path) -> list[str]:
    """Writes the suites of RATIOS as files, which also have rows of another number of threads."""
    paths = []
    for layout, of_layer in RATIOS.items():
        rows = [
            row(label, pass_, ratio, threads)
            for label, ratios in of_layer.items()
            for threads, scale in ((1, 100), (2, 1))
            for pass_, ratio in zip(PASSES, (r * scale for r in ratios), strict=True)
        ]
        path = folder / f"{layout}.json"
        Suite({}, "", rows).write(path)
        paths.append(str(path))
    return paths


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("resnet50/conv1", "ResNet-50 first layer"),
        ("resnet50/layer1.0.conv1", "ResNet-50 1x1"),
        ("resnet50/layer1.0.conv2", "ResNet-50 3x3"),
        ("resnet50/layer2.0.conv2", "ResNet-50 3x3 stride 2"),
        ("resnet50/layer2.0.downsample.0", "ResNet-50 1x1 stride 2"),
        ("resnext/layer1.0.conv2", "ResNeXt grouped 3x3"),
        ("resnext/layer2.0.conv2", "ResNeXt grouped 3x3 stride 2"),
        ("mobilenet_v2/features.0.0", "MobileNetV2 first layer"),
        ("mobilenet_v2/features.1.conv.0.0", "MobileNetV2 depthwise 3x3"),
        ("mobilenet_v2/features.2.conv.1.0", "MobileNetV2 depthwise 3x3 stride 2"),
        ("convnext/features.1.0.block.0", "ConvNeXt depthwise 7x7"),
        ("convnext/features.2.1", "ConvNeXt 2x2 stride 2"),
        ("replknet/stage1", "RepLKNet depthwise 13x13 to 31x31"),
        ("replknet/stage4", "RepLKNet depthwise 13x13 to 31x31"),
        ("fmnist/stride.conv3", "Fashion-MNIST"),
        ("lenet/conv1", "LeNet"),
        ("srcnn/conv2", "SRCNN"),
    ],
)
def test_a_kind_is_network_kernel_stride_and_grouping(label: str, kind: str) -> None:
    assert kinds.kind(row(label)) == kind


def test_every_layer_of_the_table_has_a_kind() -> None:
    for network, name in kinds.NETWORKS.items():
        for problem in read_shapes(network):
            assert kinds.kind(Row(problem, "fwd", 1, {"convkern": sample(1)})).startswith(name)


def test_ratios_are_those_of_one_number_of_threads() -> None:
    rows = [
        row(NARROW, "fwd", 2), row(WIDE, "fwd", 3), row(WIDE, "fwd_bwd", 5), row(FIRST, "fwd", 7),
        row(WIDE, "fwd", 11, threads=1), Row(row(WIDE).problem, "fwd", 2, {"convkern": sample(1)}),
    ]  # fmt: skip
    assert kinds.ratios_by_kind(rows, 2) == {
        "ResNet-50 1x1": {"fwd": [2, 3], "fwd_bwd": [5]},
        "ResNet-50 first layer": {"fwd": [7], "fwd_bwd": []},
    }
    assert kinds.ratios_by_kind(rows, 1) == {"ResNet-50 1x1": {"fwd": [11], "fwd_bwd": []}}


def test_the_script_prints_means_and_ranges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["kinds.py", *write(tmp_path), "--threads", "2"])
    kinds.main()
    assert capsys.readouterr().out == TABLE


def test_the_chart_has_a_dot_for_each_layer_and_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    chart = tmp_path / "layers.svg"
    monkeypatch.setattr("sys.argv", ["kinds.py", *write(tmp_path), "--chart", str(chart)])
    kinds.main()
    text = chart.read_text()
    for name in ("ResNet-50 first layer", "ResNet-50 1x1", "forward+backward", "channels_last"):
        assert name in text
    # The dots of the layers in both passes, and of the legend.
    assert dots(chart) == dict.fromkeys(LAYOUT_COLOURS.values(), 3 * len(PASSES) + 1)
    kinds.main()
    assert chart.read_text() == text  # so that git shows a change only if the results change
