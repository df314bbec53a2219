// The sizes of the output tiles that the algorithms keep in registers while they sum products.
#pragma once

namespace convkern::cpu {

struct RegisterTiles {
  int rows, columns;   // outputs in a tile of the correlation microkernel
  int panel_vectors;   // largest number of vectors in a row of a GEMM tile
  int panel_rows[4];   // rows of a GEMM tile whose rows have 1, 2, ... vectors
  int group_columns;   // columns in a tile of grouped convolutions, 4 or more
  int depthwise_taps;  // most neighbouring taps of a row that such a tile of a depthwise one holds
};

// Tiles for 16 registers, where a vector takes `size` of them. With one register for each vector, a
// tile of the correlation uses 8 accumulators, 4 inputs, 1 tap and 1 product. A tile of the GEMM
// uses 8 accumulators, one register for each vector of a row, 1 factor of a row and 1 product. With
// two registers for each vector, the correlation uses 4, 2, 1 and 1 vectors, and the GEMM has half
// as many rows.
constexpr RegisterTiles baseline_tiles(int size) {
  return {2, 4 / size, 2, {6 / size, 4 / size}, 4, 3};
}

// Tiles for 16 registers. The correlation uses 10 accumulators, 5 inputs and 1 tap. The GEMM uses
// 12 accumulators, one register for each vector of a row, and 1 factor of a row. Grouped
// convolutions use 8 outputs, 6 taps, 1 input and its permutation.
constexpr RegisterTiles kAvx2Tiles = {2, 5, 2, {6, 6}, 4, 3};

// Tiles for 32 registers. The correlation uses 24 accumulators, 6 inputs and 1 tap. The GEMM uses
// 24 accumulators, one register for each vector of a row, and 1 factor of a row. Grouped
// convolutions use 14 outputs, 6 taps, 1 input and its permutation, and depthwise ones 14 outputs,
// 10 taps and 1 input; 7 columns because common widths are multiples of 7.
constexpr RegisterTiles kAvx512Tiles = {4, 6, 4, {8, 8, 8, 6}, 7, 5};

}  // namespace convkern::cpu
