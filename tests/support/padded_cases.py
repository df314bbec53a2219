"""Problems with different padding on the sides of an axis, and with padding of values of the image,
for every family of kernels at the edges of its tiles. They are made of cases with zeros."""

import re
from itertools import cycle

import cases
from convkern.testing import with_mode

MODES = ("circular", "reflect", "replicate")
_PADDING = re.compile(r"(?<=[a-z0-9])p(\d+)q(\d+)")
_SIZES = re.compile(r"h(\d+)w(\d+)")


def one_sided(case: str) -> str:
    """Returns the case with its padding moved: one more row above and all columns after."""
    rows, columns = map(int, _PADDING.search(case).groups())  # type: ignore[union-attr]
    sides = f"p{rows + 1}-{max(rows - 1, 0)}q0-{2 * columns}"
    return _PADDING.sub(sides, case) + "_one_sided"


def has_mode(case: str) -> bool:
    """Returns whether the image is larger than the padding, so that every mode is possible."""
    padding, sizes = _PADDING.search(case), _SIZES.search(case)
    if padding is None or sizes is None:
        return False
    pairs = zip(padding.groups(), sizes.groups(), strict=True)
    # Without padding, 1x1 kernels of one channel are products in one of the layouts only, and
    # tensors of one channel are in both.
    return "r1s1" not in case and all(int(pad) < int(size) for pad, size in pairs)


def _with_modes(table: list[str]) -> list[str]:
    """Returns each case with one of the modes in turn."""
    possible = [case for case in table if has_mode(case)]
    return [
        f"{with_mode(case, mode)}_{mode}"
        for case, mode in zip(possible, cycle(MODES), strict=False)
    ]


def _some(table: list[str], step: int) -> list[str]:
    return [case for case in table if _PADDING.search(case)][::step]


_ANY = [
    *_some(cases.TILES + cases.BATCHES, 3), *_some(cases.COLUMNS, 4), *_some(cases.KERNELS, 2),
    *cases.GEOMETRIES, *_some(cases.CHANNELS, 1), *_some(cases.BLOCKING, 2),
]  # fmt: skip
# Batches that are padded in several parts of equal and unequal sizes, with more parts than sums.
PARTS = [
    "n67c3h24w26k6r3s3p1-2q2-0_f32_nchw_fwd+reflect+bias#parts",
    "n11c16h90w90k16r3s3p1q1g16_f32_nchw_fwd+circular#parts_of_one_image",
]
ANY_SHAPE = [one_sided(case) for case in _some(_ANY, 2)] + _with_modes(_some(_ANY, 1)) + PARTS
MATMUL = [one_sided(c) for c in _some(cases.MATMUL, 4)] + _with_modes(_some(cases.MATMUL, 3))
DEPTHWISE = [
    *(one_sided(case) for case in _some(cases.DEPTHWISE, 4)),
    *_with_modes(_some(cases.DEPTHWISE, 3)),
]
GROUPED = [one_sided(c) for c in _some(cases.GROUPED, 4)] + _with_modes(_some(cases.GROUPED, 3))
FFT = [one_sided(case) for case in _some(cases.FFT, 4)] + _with_modes(_some(cases.FFT, 3))
WINOGRAD = [one_sided(c) for c in _some(cases.WINOGRAD, 2)] + _with_modes(_some(cases.WINOGRAD, 2))
CUDA = [
    *(one_sided(case) for case in _some(cases.CUDA_WINDOWS + cases.CUDA_TILES, 3)),
    *_with_modes(_some(cases.CUDA_WINDOWS + cases.CUDA_TILES, 2)),
    PARTS[0],
]  # fmt: skip
