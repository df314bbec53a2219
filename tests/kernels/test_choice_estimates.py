"""The estimates of csrc/cpu/choice.h for vectors of 16 numbers. They decide between the CPU kernels
and say why a kernel leaves a problem to others."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from folders import CSRC, KERNEL_TESTS

Said = Callable[[str], dict[str, str]]
LANES, SLOWER, SUPPORTED = (
    "would do too, but another kernel should make better use of the lanes",
    "would do too, but another kernel should be faster",
    "supported",
)


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Said:
    program = tmp_path_factory.mktemp("choice") / "choice"
    sources = [KERNEL_TESTS / "choice" / "main.cpp", CSRC / "cpu" / "choice.cpp"]
    sources += [CSRC / "cpu" / "fft_size.cpp"]
    core = ("activation.cpp", "problem.cpp", "geometry_rules.cpp")
    sources += [CSRC / "core" / name for name in core]
    subprocess.run(
        ["g++", "-std=c++20", f"-I{CSRC}", "-o", str(program), *map(str, sources)], check=True
    )

    def run(problem: str) -> dict[str, str]:
        done = subprocess.run([program, "16", problem], check=True, capture_output=True, text=True)
        lines = done.stdout.splitlines()
        said: dict[str, str] = {}
        for line in lines:
            split = line.find("decline")
            end = line.find(" ", max(split, 0))
            said[line[:end]] = line[end + 1 :]
        return said

    return run


@pytest.mark.parametrize(
    ("problem", "name", "value"),
    [
        # All 64 channels are in 4 whole vectors, with runs of 64 products: 64 / 73.
        ("n8c64h14w14k64r3s3p1q1_f32_nchw_fwd", "implicit_gemm", 64 / 73),
        # One vector uses 4 of 16 lanes, with runs of 3 channels x 3 taps.
        ("n8c3h14w14k4r3s3p1q1_f32_nchw_fwd", "implicit_gemm", 4 / 16 * 0.65 * 9 / 18),
        ("n8c1h14w14k16r5s5p2q2_f32_nchw_fwd", "implicit_gemm", 0.65 * 5 / 19),
        ("n8c64h14w14k64r3s3p1q1_f32_nchw_gw", "implicit_gemm", 64 / 65.5),
        ("n8c3h14w14k4r3s3p1q1_f32_nchw_gw", "implicit_gemm", 4 / 16 * 0.65 * 3 / 6),
        # Rows of 28 in 2 vectors. Each number of x and of y has 25 products and is copied.
        ("n1c1h28w28k1r5s5p2q2_f32_nchw_fwd", "columnlane", 28 / 32 * 0.7 * 25 / 41),
        ("n1c1h28w28k1r5s5p2q2_f32_nhwc_fwd", "columnlane", 28 / 32 * 0.7 * 0.7 * 25 / 53),
        # A band has all 28 rows, which are 49 vectors of outputs.
        ("n1c1h28w28k1r5s5p2q2_f32_nchw_gw", "columnlane", 28 / 32 * 0.7 * 25 / 41 * 49 / 89),
        # A band has 2 rows of 512 columns, which are 64 vectors of outputs.
        (
            "n1c96h9w512k1r5s5p2q2_f32_nchw_gw",
            "columnlane",
            0.9 / (1 + 8 / 25 + 8 / 2400) * 64 / 104,
        ),
        # 17 images in 2 vectors.
        ("n17c1h28w28k1r5s5p2q2_f32_nchw_fwd", "batchlane", 17 / 32 * 0.85 * 25 / 41),
        ("n17c1h28w28k1r5s5p2q2_f32_nchw_gw", "batchlane", 17 / 32 * 0.7 * 25 / 41 * 1568 / 1618),
        ("n16c2h28w28k2r1s1_f32_nhwc_fwd", "batchlane", 0.85 / 15),
        ("n16c2h28w28k13r1s1_f32_nhwc_fwd", "batchlane", 0.85 * 0.35 / (1 + 14 / 2 + 14 / 13)),
        ("n16c2h28w28k2r1s1_f32_nchw_fwd", "batchlane", 0.85 * 0.6 / 9),
        # Patches of few outputs, and of many.
        ("n16c1h32w32k64r8s8u8v8_f32_nchw_fwd", "batchlane", 0.85 * 0.8),
        ("n16c1h32w32k80r8s8u8v8_f32_nchw_fwd", "batchlane", 0.85 * 0.6 / (1 + 8 / 80 + 8 / 64)),
        # Each number of x takes part in a quarter of the 9 taps' products.
        ("n16c2h28w28k2r3s3u2v2_f32_nchw_fwd", "batchlane", 0.85 / (1 + 8 / 4.5 + 8 / 18)),
        ("n1c65h28w28k2r3s3_f32_nhwc_fwd", "columnlane", 26 / 32 * 0.21 / (1 + 14 / 18 + 14 / 585)),
        ("n16c65h28w28k2r3s3_f32_nhwc_gx", "batchlane", 0.85 * 0.7 / (1 + 14 / 18 + 14 / 585)),
    ],
)
def test_estimates(said: Said, problem: str, name: str, value: float) -> None:
    assert float(said(problem)[name]) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("problem", "name", "reason"),
    [
        # Large kernels take transforms, and small ones, small batches and many channels do not.
        ("n512c1h28w28k1r14s14p2q2_f32_nchw_fwd", "fft declines", SUPPORTED),
        ("n512c1h28w28k1r5s5p2q2_f32_nchw_fwd", "fft declines", SLOWER),
        ("n1c1h28w28k1r14s14p2q2_f32_nchw_fwd", "fft declines", SLOWER),
        ("n4c128h56w56k128r31s31p15q15g128_f32_nhwc_gw", "fft declines", SUPPORTED),
        ("n4c128h56w56k128r3s3p1q1g128_f32_nhwc_gw", "fft declines", SLOWER),
        ("n64c17h28w28k9r14s14p2q2_f32_nchw_gx", "fft declines", SLOWER),
        # Channels of a group in channels_last are copied pixel by pixel.
        ("n512c2h28w28k2r14s14p2q2g2_f32_nchw_fwd", "fft declines", SUPPORTED),
        ("n512c2h28w28k2r14s14p2q2g2_f32_nhwc_fwd", "fft declines", SLOWER),
        # Depthwise layers whose channels fill half a vector, and less.
        ("n2c8h9w9k8r3s3g8_f32_nchw_fwd", "channellane declines", SUPPORTED),
        ("n2c7h9w9k7r3s3g7_f32_nchw_fwd", "channellane declines", LANES),
        # For a vector that is one group, implicit_gemm reads less in the weight gradient.
        ("n2c64h9w9k64r3s3g4_f32_nchw_fwd", "channellane declines", SUPPORTED),
        ("n2c64h9w9k64r3s3g4_f32_nchw_gw", "channellane declines", SLOWER),
        # Outputs that fill tiles of 4x4, and outputs that use little of them.
        ("n8c64h16w16k64r3s3p1q1_f32_nchw_fwd", "winograd_4x4 declines", SUPPORTED),
        ("n8c64h2w2k64r3s3p1q1_f32_nchw_fwd", "winograd_4x4 declines", SLOWER),
        ("n8c64h2w2k64r3s3p1q1_f32_nchw_fwd", "winograd_2x2 declines", SUPPORTED),
        ("n8c7h16w16k64r3s3p1q1_f32_nchw_fwd", "winograd_4x4 declines", SLOWER),
        # Transforms of 12 channels pay only in the weight gradient, and those of 7x7 outputs less.
        ("n8c24h16w16k24r3s3p1q1_f32_nchw_fwd", "winograd_2x2 declines", SUPPORTED),
        ("n8c16h16w16k47r3s3p1q1_f32_nchw_fwd", "winograd_2x2 declines", SLOWER),
        ("n8c16h16w16k47r3s3p1q1_f32_nchw_gw", "winograd_2x2 declines", SUPPORTED),
        ("n8c14h16w16k16r3s3p1q1_f32_nchw_gw", "winograd_2x2 declines", SLOWER),
        ("n8c64h7w7k64r3s3p1q1_f32_nchw_fwd", "winograd_2x2 declines", SLOWER),
        ("n8c128h7w7k128r3s3p1q1_f32_nchw_fwd", "winograd_2x2 declines", SUPPORTED),
        # Too few tiles for the transforms of the weight gradient.
        ("n1c64h4w4k64r3s3p1q1_f32_nchw_fwd", "winograd_4x4 declines", SUPPORTED),
        ("n1c64h4w4k64r3s3p1q1_f32_nchw_gw", "winograd_4x4 declines", SLOWER),
        # Layers of few channels are left to the direct kernels if these compute the problem.
        ("n8c64h14w14k64r3s3p1q1_f32_nchw_fwd", "implicit_gemm declines", SUPPORTED),
        ("n512c1h28w28k1r14s14_f32_nchw_fwd", "implicit_gemm declines", SLOWER),
        ("n512c1h28w28k1r14s14_f32_nchw_fwd", "implicit_gemm alone declines", SUPPORTED),
        # Lanes filled by images, or by columns.
        ("n512c1h28w28k1r14s14_f32_nchw_fwd", "columnlane declines", SLOWER),
        ("n512c1h28w28k1r14s14_f32_nchw_fwd", "columnlane alone declines", SUPPORTED),
        ("n1c1h28w28k1r14s14_f32_nchw_fwd", "columnlane declines", SUPPORTED),
        # Groups of few channels, layers of one channel, and products of few weights.
        ("n8c32h14w14k32r3s3g4_f32_nchw_fwd", "pairs decline", SUPPORTED),
        ("n8c24h14w14k24r3s3g4_f32_nchw_fwd", "pairs decline", LANES),
        ("n8c8h14w14k8r3s3_f32_nchw_fwd", "pairs decline", SUPPORTED),
        ("n16c2h28w28k2r5s5_f32_nchw_fwd", "pairs decline", LANES),
        ("n8c64h7w7k100r7s7_f32_nhwc_fwd", "pairs decline", SLOWER),
        ("n8c64h7w7k100r7s7p1q1_f32_nhwc_fwd", "pairs decline", SUPPORTED),
        ("n8c512h7w7k512r7s7_f32_nhwc_fwd", "pairs decline", SUPPORTED),
        # skinny_gemm takes images of one output, 1x1 kernels that are narrow on one side, and of
        # patches what has few dot products and, in the gradients, few channels.
        ("n512c64h7w7k512r7s7_f32_nchw_fwd", "skinny_gemm declines", SUPPORTED),
        ("n8c16h28w28k96r1s1_f32_nhwc_fwd", "skinny_gemm declines", SUPPORTED),
        ("n8c17h28w28k96r1s1_f32_nhwc_fwd", "skinny_gemm declines", SLOWER),
        ("n8c96h28w28k4r1s1_f32_nhwc_fwd", "skinny_gemm declines", SUPPORTED),
        ("n8c96h28w28k5r1s1_f32_nhwc_fwd", "skinny_gemm declines", SLOWER),
        ("n8c48h28w28k4r1s1_f32_nhwc_fwd", "skinny_gemm declines", SLOWER),
        ("n8c96h28w28k24r1s1_f32_nhwc_gw", "skinny_gemm declines", SUPPORTED),
        ("n8c24h28w28k96r1s1_f32_nhwc_gw", "skinny_gemm declines", SLOWER),
        ("n8c96h48w48k8r7s7u7v7_f32_nchw_fwd", "skinny_gemm declines", SLOWER),
        ("n8c96h48w48k8r8s8u8v8_f32_nchw_fwd", "skinny_gemm declines", SLOWER),
        ("n8c96h224w224k96r32s32u32v32_f32_nchw_fwd", "skinny_gemm declines", SUPPORTED),
        ("n8c96h217w217k96r31s31u31v31_f32_nchw_fwd", "skinny_gemm declines", SLOWER),
        ("n8c4h224w224k8r16s16u16v16_f32_nchw_fwd", "skinny_gemm declines", SLOWER),
        ("n8c3h224w224k8r16s16u16v16_f32_nchw_fwd", "skinny_gemm declines", SUPPORTED),
        ("n8c3h224w224k9r16s16u16v16_f32_nchw_fwd", "skinny_gemm declines", SLOWER),
        ("n8c1h224w224k8r16s16u16v16_f32_nchw_fwd", "skinny_gemm declines", SUPPORTED),
        ("n8c1h224w224k8r16s16u16v16_f32_nhwc_fwd", "skinny_gemm declines", SLOWER),
        ("n8c4h224w224k32r16s16u16v16_f32_nhwc_fwd", "skinny_gemm declines", SUPPORTED),
        ("n8c4h224w224k33r16s16u16v16_f32_nhwc_fwd", "skinny_gemm declines", SLOWER),
        ("n8c4h224w224k32r16s16u16v16_f32_nchw_fwd", "skinny_gemm declines", SLOWER),
        ("n8c16h224w224k256r16s16u16v16_f32_nhwc_fwd", "skinny_gemm declines", SUPPORTED),
        ("n8c16h224w224k256r16s16u16v16_f32_nhwc_gw", "skinny_gemm declines", SUPPORTED),
        ("n8c3h224w224k96r4s4u4v4_f32_nchw_gx", "skinny_gemm declines", SUPPORTED),
        ("n8c33h56w56k96r4s4u4v4_f32_nchw_gx", "skinny_gemm declines", SLOWER),
        ("n8c3h56w56k9r2s2u2v2_f32_nchw_gx", "skinny_gemm declines", SUPPORTED),
        ("n8c3h56w56k8r2s2u2v2_f32_nchw_gx", "skinny_gemm declines", SLOWER),
        ("n8c3h224w224k8r4s4u4v4_f32_nchw_gw", "skinny_gemm declines", SLOWER),
        ("n8c3h224w224k8r4s4u4v4_f32_nhwc_gw", "skinny_gemm declines", SUPPORTED),
        ("n8c16h224w224k16r4s4u4v4_f32_nhwc_gw", "skinny_gemm declines", SUPPORTED),
        ("n8c16h224w224k16r4s4u4v4_f32_nchw_gw", "skinny_gemm declines", SLOWER),
        ("n8c16h224w224k17r4s4u4v4_f32_nhwc_gw", "skinny_gemm declines", SLOWER),
        ("n8c96h224w224k8r4s4u4v4_f32_nhwc_gw", "skinny_gemm declines", SUPPORTED),
        ("n8c96h224w224k9r4s4u4v4_f32_nhwc_gw", "skinny_gemm declines", SLOWER),
        # Narrow pixels of images that fill the lanes, and of images that do not.
        ("n13c8h28w28k4r1s1_f32_nhwc_gx", "skinny_gemm declines", SLOWER),
        ("n12c8h28w28k4r1s1_f32_nhwc_gx", "skinny_gemm declines", SUPPORTED),
        ("n13c12h28w28k4r1s1_f32_nhwc_gx", "skinny_gemm declines", SLOWER),
        ("n13c13h28w28k4r1s1_f32_nhwc_gx", "skinny_gemm declines", SUPPORTED),
        ("n13c8h1w1k4r1s1_f32_nhwc_gx", "skinny_gemm declines", SUPPORTED),
        # Residues of a stride of 2 with 8 columns, and with 9.
        ("n2c64h15w15k64r3s3p1q1u2v2g4_f32_nchw_gx", "channellane declines", SLOWER),
        ("n2c64h17w17k64r3s3p1q1u2v2g4_f32_nchw_gx", "channellane declines", SUPPORTED),
        # Short rows of groups, of images that fill the lanes.
        ("n15c64h8w16k64r3s3p1q1g4_f32_nchw_fwd", "channellane declines", SLOWER),
        ("n15c64h8w8k64r3s3p1q1g4_f32_nchw_gx", "channellane declines", SLOWER),
        ("n14c64h8w16k64r3s3p1q1g4_f32_nchw_fwd", "channellane declines", SUPPORTED),
        ("n15c64h8w17k64r3s3p1q1g4_f32_nchw_fwd", "channellane declines", SUPPORTED),
        ("n15c64h8w7k64r3s3p1q1g4_f32_nchw_fwd", "channellane declines", SUPPORTED),
        ("n15c64h8w16k64r3s3p1q1g4_f32_nhwc_fwd", "channellane declines", SUPPORTED),
        ("n15c64h8w16k64r3s3p1q1g8_f32_nchw_fwd", "channellane declines", SUPPORTED),
        ("n15c64h8w16k64r3s3p1q1u2v2g8_f32_nchw_fwd", "channellane declines", SLOWER),
        ("n15c64h8w16k64r3s3p1q1u2v2g8_f32_nchw_gx", "channellane declines", SUPPORTED),
        ("n15c64h8w16k64r3s3p1q1u2v2g64_f32_nchw_fwd", "channellane declines", SUPPORTED),
    ],
)
def test_reasons(said: Said, problem: str, name: str, reason: str) -> None:
    assert said(problem)[name] == reason
