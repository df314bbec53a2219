// The tiles of outputs that the algorithms keep in registers while they sum products.
#pragma once

namespace convkern::cpu {

struct RegisterTiles {
  int rows, columns;  // of the correlation microkernel
  int panel_vectors;  // of the GEMM microkernel: vectors in a row at most,
  int panel_rows[4];  // and rows for 1, 2, ... vectors
  int group_columns;  // of grouped convolutions, 4 or more
};

// Tiles for 16 registers, where a vector takes `size` of them. With one register a vector, a tile
// of the correlation has 8 accumulators, 4 inputs, 1 tap and 1 product; one of the GEMM has 8
// accumulators, as many columns as a row has vectors, 1 factor of a row and 1 product. With two
// registers, these are 4, 2, 1 and 1, and half as many rows.
constexpr RegisterTiles baseline_tiles(int size) {
  return {2, 4 / size, 2, {6 / size, 4 / size}, 4};
}

// Tiles for 16 registers. The correlation has 10 accumulators, 5 inputs and 1 tap; the GEMM 12
// accumulators, as many columns as a row has vectors, and 1 factor of a row; grouped convolutions 8
// outputs, 6 taps, 1 input and its permutation.
constexpr RegisterTiles kAvx2Tiles = {2, 5, 2, {6, 6}, 4};

// Tiles for 32 registers. The correlation has 24 accumulators, 6 inputs and 1 tap; the GEMM 24
// accumulators, as many columns as a row has vectors, and 1 factor of a row; grouped convolutions
// 14 outputs, 6 taps, 1 input and its permutation, since common widths are multiples of 7.
constexpr RegisterTiles kAvx512Tiles = {4, 6, 4, {8, 8, 8, 6}, 7};

}  // namespace convkern::cpu
