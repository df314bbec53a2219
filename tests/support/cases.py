"""The case table has problems at and around every edge of the kernels' blocking.

Each is a forward problem in f32 nchw. convkern.testing.variant() gives other dtypes, layouts and
passes.
"""


def _case(label: str, x: tuple, w: tuple, tail: str = "", epilogue: str = "") -> str:
    (n, c, h, v), (k, r, s) = x, w
    return f"n{n}c{c}h{h}w{v}k{k}r{r}s{s}{tail}_f32_nchw_fwd{epilogue}#{label}"


# Batches one below, at and one above the lanes of every vector width: 4, 8, 16.
BATCHES = [
    _case(f"batch{n}", (n, 2, 7, 9), (3, 3, 2), "p1q1", "+bias")
    for n in (1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33)
]
# Output sizes around every register tile: rows of 2 and 4, and columns of 4, 5 and 6.
TILES = [
    _case(f"tile{h}x{w}", (5, 1, h + 2, w + 2), (1, 3, 3))
    for h, w in [(1, 1), (1, 6), (2, 3), (2, 4), (3, 5), (3, 6), (4, 7), (4, 8), (5, 9), (5, 10),
                 (6, 11), (7, 12), (8, 13), (9, 31)]
]  # fmt: skip
# Widths around the vectors of columns, with a part of a stride and a dilation.
COLUMNS = [
    _case(f"columns{w}{tail}", (2, 1, 5, w), (2, 3, 3), tail, "+bias")
    for w in (3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33)
    for tail in ("p1q1", "p1q1u2v2", "p2q2u1v3d1e2")
]
# The weight gradient tiles the kernel, so kernel sizes are its tile edges.
KERNELS = [
    _case(f"kernel{r}x{s}", (6, 1, 15, 17), (1, r, s), "p2q3", "+relu")
    for r, s in [(1, 1), (1, 4), (2, 3), (2, 5), (3, 6), (4, 7), (5, 12), (9, 13), (15, 17)]
]
GEOMETRIES = [
    _case("stride2", (4, 2, 11, 12), (3, 5, 5), "p2q2u2v2"),
    _case("stride3x2", (4, 1, 13, 12), (2, 4, 3), "p1q0u3v2", "+bias+relu"),
    _case("stride_above_kernel", (3, 2, 14, 15), (2, 2, 1), "p0q0u4v3"),
    _case("stride_above_input", (3, 1, 3, 4), (1, 3, 3), "p1q1u7v9"),
    _case("dilation", (4, 2, 14, 13), (2, 3, 4), "p2q3u1v1d2e3"),
    _case("stride_is_dilation", (4, 2, 14, 15), (2, 3, 3), "p2q2u2v2d2e2"),
    _case("stride_and_dilation_share_a_factor", (4, 1, 21, 22), (1, 3, 3), "p4q3u4v6d6e4"),
    _case("stride3_dilation2", (5, 1, 17, 16), (2, 4, 3), "p3q2u3v3d2e2"),
    _case("padding_above_kernel", (4, 1, 3, 5), (1, 2, 3), "p9q7"),
    _case("kernel_is_padded_input", (4, 1, 6, 5), (2, 8, 9), "p1q2"),
    _case("one_pixel", (9, 3, 1, 1), (2, 1, 1), "", "+bias"),
    _case("one_row", (9, 1, 1, 30), (1, 1, 5), "p0q2"),
    _case("one_column", (9, 1, 30, 1), (1, 5, 1), "p2q0"),
    _case("padding_only_rows", (5, 1, 2, 9), (1, 3, 3), "p5q1u3v1"),
]
CHANNELS = [
    _case("channels_1_to_9", (3, 1, 8, 9), (9, 3, 3), "p1q1", "+bias"),
    _case("channels_9_to_1", (3, 9, 8, 9), (1, 3, 3), "p1q1", "+relu"),
    _case("channels_4_to_4", (3, 4, 6, 5), (4, 3, 3), "p1q1"),
    _case("groups2", (5, 6, 9, 8), (4, 3, 3), "p1q1u2v1d1e1g2", "+bias"),
    _case("depthwise", (5, 5, 9, 8), (5, 3, 3), "p1q1u1v1d1e1g5"),
    _case("depthwise_multiplier", (5, 3, 9, 8), (6, 3, 3), "p1q1u1v1d1e1g3", "+bias+relu"),
]
# Enough rows for several bands, and batches large enough for several blocks in a chunk of the sum.
BLOCKING = [
    _case("bands", (2, 2, 190, 60), (2, 3, 5), "p1q2"),
    _case("bands_stride2", (17, 1, 131, 70), (2, 4, 4), "p2q1u2v2"),
    _case("chunks", (1100, 1, 5, 6), (1, 3, 3), "p1q1"),
    _case("channels_17", (1, 2, 6, 20), (17, 3, 3), "p1q1", "+bias+relu"),
    _case("channels_17_to_2", (1, 17, 6, 20), (2, 3, 3), "p1q1"),
    _case("slices", (17, 70, 4, 5), (66, 3, 3), "p1q1"),
    _case("slices_of_groups", (3, 120, 4, 3), (84, 3, 5), "p1q2u1v1d1e1g2"),
]
# Depthwise images so large that in half precision and channels_last a band of rows is converted at
# a time. Their channels are no whole vectors.
LARGE_DEPTHWISE = [
    _case("large_image", (1, 17, 360, 345), (17, 3, 3), "p1q1g17", "+bias+relu"),
    _case("large_image_stride2", (1, 40, 420, 251), (40, 3, 5), "p1q2u2v2g40", "+bias"),
    _case("large_images_5x5", (2, 24, 300, 301), (24, 5, 5), "p2q1g24", "+bias"),
]
# So many channels that direct_columnlane takes some of them at a time. The rows are too wide for
# direct_batchlane, where each column is a vector.
WIDE = [
    _case("planes_of_x", (1, 50, 24, 300), (3, 9, 3), "p4q1", "+bias+relu"),
    _case("planes_of_gy", (2, 3, 24, 300), (50, 9, 3), "p4q1"),
    _case("planes_stride2", (1, 30, 40, 500), (4, 9, 4), "p4q1u2v2", "+bias"),
]
# Many channels. There are panels of one to four vectors, with and without a part of a vector. There
# are rows of pixels around the tiles of 4 to 8, and sums that are cut into blocks of terms. gw is
# cut by channels and by panels, and there are bands of several images.
MATMUL = [
    *(
        _case(f"panel{o}", (2, 9, 6, 7), (o, 3, 3), "p1q1", "+bias+relu")
        for o in (3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 97, 130)
    ),
    *(
        _case(f"pixels{w}k{s}", (3, 17, 5, w), (19, 3, s), f"p1q{s // 2}")
        for w in (1, 2, 3, 5, 6, 7, 8, 9, 12, 13, 17)
        for s in (1, 3, 4)
        if w + 2 * (s // 2) >= s
    ),
    *(
        _case(f"matmul_{tail}", (3, 20, 12, 13), (24, r, s), tail, epilogue)
        for (r, s), tail, epilogue in [
            ((3, 3), "p1q1u2v2d1e1", "+bias"),
            ((3, 3), "p2q2u1v1d2e2", "+relu"),
            ((3, 4), "p4q3u2v3d2e2", "+bias+relu"),
            ((2, 2), "p0q0u2v2d1e1", ""),
            ((1, 1), "p0q0u2v2d1e1", ""),
            ((1, 1), "p2q1u3v2d1e1", "+bias"),
            ((3, 3), "p9q8u1v1d1e1", ""),
            ((7, 7), "p3q3u2v2d1e1", ""),
            ((3, 3), "p1q1u4v4d1e1g4", "+bias"),
            ((5, 3), "p4q6u3v1d2e3g2", "+relu"),
        ]
    ),
    _case("terms_1x1", (2, 1300, 3, 5), (40, 1, 1), "", "+bias+relu"),
    _case("terms_3x3", (2, 150, 4, 5), (35, 3, 3), "p1q1"),
    _case("terms_of_many_taps", (1, 3, 30, 31), (20, 23, 25), "p11q12"),
    _case("pixels_4096_bytes_apart", (2, 1024, 3, 4), (33, 1, 1)),
    _case("gw_slices", (1, 300, 5, 6), (300, 1, 1)),
    _case("gw_slices_of_groups", (2, 400, 5, 6), (300, 3, 3), "p1q1u1v1d1e1g2"),
    _case("gw_few_channels_of_many", (2, 144, 7, 9), (144, 3, 3), "p1q1u2v2d1e1g18"),
    _case("images", (40, 18, 3, 4), (20, 3, 3), "p1q1", "+bias"),
    _case("row_bands", (1, 17, 90, 70), (18, 3, 3), "p1q1", "+bias"),
    _case("row_bands_stride2", (1, 17, 91, 140), (18, 4, 3), "p1q1u2v2"),
    # Bands of columns, for the workspace or for the threads, and bands of the rows of each tap.
    *(
        _case(f"column_bands_{c}to{k}_{tail}", (1, c, 3, 2600), (k, 2, 4), tail, "+bias+relu")
        for c, k in [(130, 3), (3, 130)]
        for tail in ("p1q2", "p0q1u1v2", "p1q3u2v3d1e2", "p0q700u1v1d1e300")
    ),
    # Rows that exceed the buffers and have fewer columns than the smallest band.
    _case("narrow_rows_of_many_channels", (1, 2056, 8, 64), (1, 7, 1), "p3q0"),
    _case("column_bands_for_threads", (1, 17, 1, 700), (18, 1, 3), "p0q1", "+bias"),
    _case("column_bands_of_groups", (2, 34, 1, 300), (36, 1, 5), "p0q1u1v1d1e1g2"),
    _case("rows_of_taps", (1, 17, 30, 70), (18, 3, 3), "p7q2u1v1d7e2", "+bias+relu"),
    _case("rows_of_taps_stride2", (1, 17, 40, 140), (18, 3, 2), "p9q1u2v1d11e1", "+bias"),
    _case("rows_of_taps_outside", (1, 130, 9, 60), (20, 3, 3), "p15q1u1v1d13e1"),
]
# Depthwise layers. Channels fill whole vectors of every width, or do not. Rows and columns are
# around the tile sizes. Images are narrower than a tile or than the kernel, and padding exceeds the
# kernel, in every geometry.
DEPTHWISE = [
    *(
        _case(f"depthwise{h}x{w}k{r}x{s}", (2, 32, h, w), (32, r, s), f"p{r // 2}q{s // 2}g32")
        for h, w in [(1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (7, 7), (8, 11), (9, 12), (13, 19)]
        for r, s in [(3, 3), (5, 2), (7, 7)]
    ),
    *(
        _case(f"depthwise_{tail}", (3, 16, 12, 13), (16, r, s), f"{tail}g16", epilogue)
        for (r, s), tail, epilogue in [
            ((3, 3), "p0q0u1v1d1e1", "+bias"),
            ((3, 3), "p1q1u2v2d1e1", "+relu"),
            ((5, 5), "p2q2u2v2d1e1", "+bias+relu"),
            ((3, 4), "p1q0u3v2d1e1", "+bias+relu"),
            ((2, 3), "p0q1u1v2d1e1", ""),
            ((3, 2), "p1q1u2v1d1e1", ""),
            ((3, 3), "p2q2u1v1d2e2", ""),
            ((3, 4), "p4q3u2v3d2e2", ""),
            ((3, 3), "p2q2u2v2d2e2", ""),
            ((2, 2), "p0q0u4v5d1e1", ""),
            ((1, 1), "p0q0u1v1d1e1", "+relu"),
            ((1, 1), "p2q3u2v2d1e1", ""),
            ((3, 3), "p9q7u1v1d1e1", ""),
            ((11, 13), "p0q0u1v1d1e1", ""),
            ((9, 11), "p8q10u1v1d1e1", ""),
        ]
    ),
    *(
        _case(f"depthwise_of_{c}_{tail}", (2, c, 9, 13), (c, r, r), f"{tail}g{c}", "+bias+relu")
        for c in (2, 7, 9, 17, 31, 58)
        for r, tail in [(3, "p1q1u1v1d1e1"), (3, "p1q1u2v2d1e1"), (5, "p2q2u1v1d1e1")]
    ),
    # Channels in place, one below, at and above whole vectors, in one slice and in several.
    *(
        _case(f"depthwise_{n}x{c}_{tail}", (n, c, 5, 7), (c, r, r), f"{tail}g{c}", "+bias+relu")
        for n, c in [(4, 5), (1, 15), (4, 24), (1, 33), (2, 40), (5, 72)]
        for r, tail in [(3, "p1q1u1v1d1e1"), (3, "p1q1u2v2d1e1"), (5, "p2q2u2v2d1e1")]
    ),
    # Channels that are not whole vectors, with sums of one block and of several.
    *(
        _case(f"depthwise_{r}x23_of_21", (2, 21, 25, 27), (21, r, 23), "p12q11g21", "+bias+relu")
        for r in (22, 24)
    ),
    # Rows and columns of gx and of y that no tap reaches, between others.
    _case("depthwise_gap_in_gx", (2, 54, 5, 12), (54, 2, 3), "p0q2u1v1d3e1g54"),
    _case("depthwise_gap_in_gx_row", (2, 16, 12, 5), (16, 3, 2), "p2q0u1v1d1e3g16"),
    _case("depthwise_gap_in_y", (2, 16, 2, 9), (16, 2, 3), "p4q1u1v1d4e1g16", "+bias+relu"),
    _case("depthwise_gap_in_y_row", (2, 16, 9, 1), (16, 3, 3), "p1q4u1v1d1e3g16"),
    _case("depthwise_bands", (2, 64, 150, 40), (64, 3, 3), "p1q1u1v1d1e1g64", "+bias"),
    _case("depthwise_bands_stride2", (2, 64, 151, 41), (64, 4, 3), "p1q1u2v2d1e1g64"),
    _case("depthwise_chunks", (70, 16, 5, 6), (16, 3, 3), "p1q1u1v1d1e1g16"),
    _case("depthwise_from_memory", (1, 64, 190, 190), (64, 3, 3), "p1q1u1v1d1e1g64", "+bias"),
    _case("depthwise_large", (1, 16, 33, 40), (16, 31, 29), "p15q14u1v1d1e1g16"),
]  # fmt: skip
# Groups of few channels, with one or several groups in a vector or several vectors in a group, at
# every width. There are as many channels in as out, fewer, or more.
GROUPED = [
    *(
        _case(f"groups{g}of{c}to{k}", (2, g * c, 6, 7), (g * k, 3, 3), f"p1q1u1v1d1e1g{g}", "+bias")
        for g, c, k in [
            (8, 2, 2), (8, 4, 4), (4, 8, 8), (4, 16, 16), (2, 4, 32), (3, 3, 16), (2, 13, 48),
            (16, 1, 2), (16, 1, 4), (16, 2, 1), (16, 3, 4), (8, 2, 8), (4, 16, 2),
        ]
    ),
    *(
        _case(f"groups_{tail}", (3, 32, 12, 13), (32, r, s), f"{tail}g8", epilogue)
        for (r, s), tail, epilogue in [
            ((3, 3), "p0q0u1v1d1e1", "+bias"),
            ((3, 3), "p1q1u2v2d1e1", "+relu"),
            ((5, 2), "p2q2u1v2d1e1", "+bias+relu"),
            ((1, 1), "p0q0u1v1d1e1", ""),
            ((3, 4), "p4q3u2v3d2e2", ""),
            ((3, 3), "p9q7u1v1d1e1", ""),
            ((2, 2), "p0q0u4v5d1e1", ""),
            ((9, 7), "p3q3u1v1d2e1", ""),
        ]
    ),
    *(
        _case(f"groups{h}x{w}", (2, 32, h, w), (32, 3, 3), "p1q1u1v1d1e1g8")
        for h, w in [(1, 1), (3, 5), (4, 6), (5, 7), (7, 12), (8, 13), (9, 19)]
    ),
    *(
        _case(f"{g}_groups_of{c}to{k}", (2, g * c, 7, 9), (g * k, 3, 3), f"p1q1g{g}", "+bias")
        for g, c, k in [(3, 4, 4), (5, 2, 2), (7, 2, 4), (9, 1, 2), (3, 8, 8)]
    ),
    _case("groups_bands", (2, 32, 90, 70), (32, 3, 3), "p1q1u1v1d1e1g4"),
    _case("groups_chunks", (70, 16, 5, 6), (16, 3, 3), "p1q1u1v1d1e1g4"),
]  # fmt: skip
# 3x3 kernels. Outputs are around the tiles of 2x2 and 4x4, with any padding. There are bands of
# rows and of images, panels and parts of them, and taps that each task transforms for itself, some
# terms at a time.
WINOGRAD = [
    *(
        _case(f"tiles{h}x{w}", (3, 5, h, w), (6, 3, 3), "p1q1", "+bias")
        for h, w in [(1, 1), (1, 4), (2, 5), (3, 8), (4, 4), (5, 2), (6, 7), (8, 9), (13, 12)]
    ),
    *(
        _case(f"tiles_{tail}", (2, 17, 9, 10), (18, 3, 3), tail, "+relu")
        for tail in ("p0q0", "p0q2", "p2q3", "p4q1", "p7q9")
    ),
    *(
        _case(f"tiles_{c}_to_{k}", (2, c, 6, 7), (k, 3, 3), "p1q1", "+bias+relu")
        for c, k in [(1, 65), (8, 130), (16, 48), (31, 33), (65, 3)]
    ),
    _case("tiles_groups", (2, 36, 7, 6), (60, 3, 3), "p1q1u1v1d1e1g3", "+bias"),
    _case("tile_row_bands", (1, 20, 70, 75), (20, 3, 3), "p1q1"),
    _case("tile_image_bands", (41, 20, 5, 6), (20, 3, 3), "p1q1"),
    _case("tile_taps", (3, 200, 6, 9), (170, 3, 3), "p1q1", "+bias"),
    _case("tile_taps_of_groups", (5, 260, 9, 8), (270, 3, 3), "p0q1u1v1d1e1g2"),
]
# The points of each transform of fft, with the length of an image and of a kernel that every pass
# cuts into tiles of so many points, with a stride of 1 or 2. Cases have one size along columns and
# another along rows. Vectors hold channels in half of the cases, and images in the others.
_FFT_TILES = {16: (26, 1), 24: (65, 1), 32: (57, 3), 36: (63, 5), 40: (63, 7), 48: (86, 5),
              64: (110, 7), 72: (124, 11), 80: (142, 9), 96: (170, 9), 128: (230, 11)}  # fmt: skip
_FFT_SIZES = tuple(enumerate(zip(_FFT_TILES, reversed(_FFT_TILES), strict=True)))
FFT_SIZES = [
    # A kernel as large as the image, with which no smaller period is enough for a whole image.
    *(
        _case(f"fft_whole_{a}x{b}", (n, c, a - 2, b - 2), (2, a - 2, b - 2), f"p2q2g{c}", "+bias")
        for i, (a, b) in _FFT_SIZES
        for n, c in [((2, 1), (1, 2))[i % 2]]
    ),
    *(
        _case(f"fft_tiles_{a}x{b}", (n, c, h, w), (c, r, s), f"p{r // 2}q{s // 2}{steps}g{c}")
        for i, (a, b) in _FFT_SIZES
        for n, c, steps in [((1, 2, "u1v2d1e1"), (2, 1, "u2v1d1e1"))[i % 2]]
        for (h, r), (w, s) in [(_FFT_TILES[a], _FFT_TILES[b])]
    ),
]
# Vectors hold channels or images, all or some of their lanes. Kernels reach beyond the image on one
# side, on both or on none.
FFT = [
    *FFT_SIZES,
    *(
        _case(f"fft_of_{n}x{c}to{k}", (n, c, 11, 14), (k, 5, 6), "p2q3", "+bias+relu")
        for n, c, k in [(1, 1, 1), (15, 3, 1), (16, 1, 2), (17, 2, 3), (33, 1, 1)]
    ),
    *(
        _case(f"fft_depthwise_{c}_of_{n}", (n, c, 12, 13), (c, 7, 7), f"p3q3g{c}", "+bias+relu")
        for n, c in [(2, 15), (1, 16), (3, 17), (20, 2), (5, 33)]
    ),
    *(
        _case(f"fft_{tail}", (2, 16, 15, 18), (16, r, s), f"{tail}g16", "+bias")
        for (r, s), tail in [
            ((15, 18), "p0q0u1v1d1e1"),
            ((4, 3), "p0q0u1v1d1e1"),
            ((7, 5), "p6q4u1v1d1e1"),
            ((5, 7), "p9q11u1v1d1e1"),
            ((7, 6), "p3q2u2v3d1e1"),
            ((3, 4), "p2q3u1v2d3e2"),
            ((1, 9), "p0q4u1v1d1e1"),
            ((9, 1), "p4q0u1v1d1e1"),
            ((1, 1), "p0q0u2v2d1e1"),
            ((5, 5), "p2q2u7v9d1e1"),
        ]
    ),
    _case("fft_groups", (17, 6, 13, 12), (4, 5, 5), "p2q1u1v2d1e1g2", "+bias"),
    _case("fft_tiles", (1, 3, 290, 7), (3, 21, 3), "p10q1g3", "+bias+relu"),
    _case("fft_tiles_of_columns", (16, 1, 6, 310), (2, 3, 31), "p1q15u1v3d1e2"),
    _case("fft_tiles_of_both", (2, 2, 170, 181), (2, 33, 35), "p20q0u2v1d1e1g2"),
    # Tiles that read padding only, and tiles of gx between two elements of gy.
    _case("fft_tiles_in_padding", (3, 2, 5, 33), (2, 1, 1), "p0q8u1v4d1e1"),
    _case("fft_tiles_between_steps", (3, 2, 5, 133), (2, 1, 1), "u1v40"),
]
# Batches that bfloat16 and float16 kernels convert in several parts, of equal and unequal sizes.
HALF_CHUNKS = [
    _case("half_chunks_of_1", (3, 8, 200, 200), (8, 3, 3), "p1q1", "+bias"),
    _case("half_chunks_of_4_and_3", (7, 4, 160, 161), (4, 3, 3), "p1q1", "+relu"),
]
# Tiles of the CUDA implicit GEMMs. Pixels, channels and terms are one below, at and one above the
# tile sizes. All tile sizes (on the simulator's device) and several splits occur, and channels that
# are copied one and four at a time.
CUDA_TILES = [
    *(
        _case(f"cuda_{c}_to_{k}", (1, c, 9, 15), (k, 1, 1), "", "+bias")
        for c, k in [(15, 31), (16, 32), (17, 33), (48, 65)]
    ),
    *(
        _case(f"cuda_3x3_{c}_to_{k}", (2, c, 6, 7), (k, 3, 3), "p1q1", "+relu")
        for c, k in [(4, 64), (20, 63), (36, 129)]
    ),
    _case("cuda_7x7", (1, 3, 17, 18), (40, 7, 7), "p3q3u2v2", "+bias+relu"),
    _case("cuda_stride3", (3, 8, 11, 9), (12, 2, 5), "p2q3u3v2d2e1", "+bias"),
    _case("cuda_groups", (2, 24, 8, 9), (36, 3, 3), "p1q1u2v1d1e2g3"),
    _case("cuda_both_wide", (5, 70, 9, 12), (68, 3, 2), "p1q0"),
    _case("cuda_1x1_stride2", (1, 130, 5, 5), (132, 1, 1), "u2v2"),
    _case("cuda_splits", (1, 66, 23, 23), (70, 1, 1), ""),
    _case("cuda_many_splits", (1, 2, 65, 65), (3, 1, 1), "", "+bias"),
    *(
        _case(f"cuda_{n}_pixels", (1, n - 352, 1, n), (n - 256, 1, 1), "", "+bias+relu")
        for n in (383, 384, 385)
    ),
]
# Windows of patches, with rows around the vectors. In the last two, parts of a row of the weights
# begin and end inside of a vector, and the row ends with a vector.
PATCHES = [
    _case(f"patches{r}x{s}x{c}", (3, c, r * h, s * w), (o, r, s), f"u{r}v{s}", "+bias+relu")
    for (r, s), c, (h, w), o in [
        ((1, 2), 3, (5, 7), 4),
        ((2, 1), 1, (3, 40), 9),
        ((2, 2), 17, (3, 4), 5),
        ((3, 8), 2, (1, 9), 17),
        ((8, 7), 3, (4, 1), 3),
        ((4, 16), 5, (2, 3), 33),
        ((9, 17), 2, (3, 3), 2),
        ((33, 31), 3, (2, 2), 3),
        ((4, 4), 4, (2, 2), 16),
        ((4, 4), 5, (2, 2), 16),
    ]
]
# Products of matrices with a short side. Terms, output channels and rows are one below, at and one
# above the vectors, tiles, panels and blocks. Rows are images, pixels or patches.
SKINNY = [
    *(
        _case(f"skinny_terms{c}", (3, c, 1, 1), (5, 1, 1), "", "+bias")
        for c in (3, 4, 5, 7, 8, 9, 15, 16, 17, 63, 64, 65, 255, 257, 511, 513, 1023, 1024, 1025)
    ),
    *(
        _case(f"skinny_outputs{o}", (7, 3, 3, 6), (o, 3, 6), "", "+bias+relu")
        for o in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33, 65)
    ),
    *(
        _case(f"skinny_images{n}", (n, 2, 4, 5), (3, 4, 5), "u3v2", "+relu")
        for n in (1, 2, 4, 5, 6, 7, 8, 9, 95, 96, 97, 200)
    ),
    *(
        _case(f"skinny_pixels{c}to{o}", (2, c, 11, 13), (o, 1, 1), "", "+bias+relu")
        for c, o in [(2, 2), (3, 20), (20, 3), (17, 18), (5, 65), (65, 5), (2, 130), (130, 2)]
    ),
    *PATCHES,
    _case("skinny_one_row", (1, 1030, 2, 2), (3, 2, 2)),
    _case("skinny_slices", (2, 70, 8, 9), (21, 8, 9)),
    _case("skinny_gw_chunks", (40, 5, 9, 10), (3, 1, 1)),
    _case("skinny_tall", (3, 6, 40, 41), (150, 1, 1), "", "+bias"),
    _case("skinny_dilated_line", (4, 3, 1, 7), (2, 1, 7), "u5v3d9e1"),
]
# Windows, chunks of taps and blocks of the CUDA direct kernels. Results, taps and channels are one
# below, at and one above each size. There are several blocks and workers, and steps that leave
# residues and classes.
CUDA_WINDOWS = [
    *(
        _case(f"windows_{h}x{w}", (1, 1, h, w), (1, 3, 3), "p1q1", "+bias")
        for h, w in [(3, 7), (4, 8), (5, 9), (8, 65)]
    ),
    *(
        _case(f"taps_{r}x{s}", (2, 2, 13, 21), (2, r, s), "p3q3g2", "+relu")
        for r, s in [(4, 7), (1, 8), (5, 9), (3, 17)]
    ),
    *(
        _case(f"depthwise_{c}", (3, c, 9, 10), (c, 3, 3), f"p1q1g{c}", "+bias+relu")
        for c in (7, 8, 9, 17)
    ),
    _case("depthwise_7x7", (2, 9, 14, 15), (9, 7, 7), "p3q3g9"),
    _case("depthwise_31x31", (1, 2, 20, 21), (2, 31, 31), "p15q15g2"),
    _case("depthwise_stride2", (2, 5, 11, 12), (5, 5, 3), "p2q1u2v2g5", "+bias"),
    _case("depthwise_dilated", (2, 3, 17, 16), (3, 3, 3), "p2q2d2e2g3"),
    _case("stride_and_dilation", (2, 2, 23, 22), (4, 3, 4), "p3q2u2v3d3e2g2"),
    _case("multiplier", (2, 3, 9, 11), (6, 3, 3), "p1q1g3", "+bias"),
    _case("stem", (2, 3, 13, 14), (6, 7, 7), "p3q3u2v2", "+bias+relu"),
    _case("single", (5, 1, 28, 28), (1, 14, 14), "p2q2", "+bias+relu"),
    _case("large", (1, 1, 70, 150), (1, 5, 5), "p2q2"),
    _case("stride_beyond_kernel", (1, 2, 13, 14), (2, 2, 1), "u3v4g2"),
]
EMPTY_BATCH = _case("empty_batch", (0, 2, 7, 9), (3, 3, 2), "p1q1", "+bias")
FASHION_MNIST = [
    _case(f"fmnist/{label}", (32, 1, n, n), (1, k, k), tail, "+bias+relu")
    for label, n, k, tail in [
        ("padding2.conv1", 28, 14, "p1q1"),
        ("padding2.conv2", 17, 10, "p1q1"),
        ("padding3.conv1", 28, 14, "p2q2"),
        ("padding3.conv2", 19, 10, "p2q2"),
        ("padding3.conv3", 14, 9, "p2q2"),
        ("stride.conv2", 19, 8, "p2q2"),
        ("stride.conv3", 16, 5, "p2q2u2v2"),
    ]
]

NON_EMPTY = BATCHES + TILES + COLUMNS + KERNELS + GEOMETRIES + CHANNELS + BLOCKING + FASHION_MNIST
# Enough cases for behaviour that does not depend on the blocking.
FEW = GEOMETRIES + CHANNELS


def label(case: str) -> str:
    """Returns a case's test id."""
    return case.partition("#")[2]


def problem_id(text: str) -> str:
    """Returns the test id of a case in a pass, dtype and layout."""
    body, _, name = text.partition("#")
    _, dtype, layout, tail = body.split("_")
    return f"{name}-{tail.partition('+')[0]}-{dtype}-{layout}"
