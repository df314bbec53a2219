// Chooses the tiles and splits of the implicit GEMMs, from the sizes alone.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/problem.h"

namespace convkern::cuda {

// The offsets of fewer elements than this fit int32. This leaves room for the pixels and the
// partial sums that a tile has beyond the last.
constexpr double kInt32Elements = int64_t{1} << 30;

// Returns whether the offsets of all elements fit, including those around the images that taps
// reach.
inline bool fits_int32(const Problem& p) {
  auto elements = [](int64_t planes, int64_t rows, int64_t columns) {
    return static_cast<double>(planes) * static_cast<double>(rows) * static_cast<double>(columns);
  };
  return std::max({elements(p.N * p.C, p.padded_h(), p.padded_w()),
                   elements(p.N * p.O, p.OH() + p.kernel_extent_h() - 1,
                            p.OW() + p.kernel_extent_w() - 1),
                   elements(p.O * p.Cg, p.R, p.S)}) < kInt32Elements;
}

// A block computes kRows x kColumns results. Wider tiles read less memory for each product.
enum class TileSize { t128x128, t128x64, t128x32, t64x64 };

inline int tile_rows(TileSize tile) { return tile == TileSize::t64x64 ? 64 : 128; }
inline int tile_columns(TileSize tile) {
  return tile == TileSize::t128x128 ? 128 : tile == TileSize::t128x32 ? 32 : 64;
}

inline int64_t tiles_of(int64_t size, int64_t tile) { return (size + tile - 1) / tile; }

// Returns the tile for forward and grad_input. It is the narrowest that holds all columns, or else
// the widest. The widest is halved where the device would have fewer blocks than multiprocessors.
inline TileSize correlation_tile(int64_t pixels, int64_t columns, int64_t groups,
                                 int multiprocessors) {
  if (columns <= 32) return TileSize::t128x32;
  if (columns <= 64) return TileSize::t128x64;
  const int64_t blocks = tiles_of(pixels, 128) * tiles_of(columns, 128) * groups;
  return blocks < multiprocessors ? TileSize::t128x64 : TileSize::t128x128;
}

// Returns the columns of packed weights: whole tiles, for every tile that correlation_tile() may
// choose.
inline int64_t packed_columns(int64_t columns) {
  const int64_t widest = columns <= 32 ? 32 : columns <= 64 ? 64 : 128;
  return tiles_of(columns, widest) * widest;
}

constexpr int64_t kCorrelationBlocks = 264;  // 2 for each multiprocessor of an H100 (132)
constexpr int64_t kFewestSplits = 3;         // fewer splits gain less than their addition costs
constexpr int64_t kSplitBytes = 64 << 20;    // of all partial sums, unless one split needs more

// Returns into how many splits the terms of forward and grad_input are cut. They are cut where
// tiles of results alone would leave multiprocessors idle. Each split has at least `least` steps.
// The number does not depend on the device, so results do not either.
inline int64_t correlation_splits(int64_t pixels, int64_t columns, int64_t groups, int64_t steps,
                                  int64_t least, int64_t bytes) {
  const int64_t blocks =
      tiles_of(pixels, 128) * tiles_of(columns, columns <= 32 ? 32 : 64) * groups;
  const int64_t most = std::min({kCorrelationBlocks / blocks, steps / least, kSplitBytes / bytes});
  return most < kFewestSplits ? 1 : most;
}

inline TileSize weight_tile(int64_t rows, int64_t columns) {
  return rows <= 64 || columns <= 64 ? TileSize::t64x64 : TileSize::t128x128;
}

constexpr int64_t kSplitBlocks = 528;       // 4 for each multiprocessor of an H100 (132)
constexpr int64_t kLeastSplitPixels = 256;  // fewer pixels take longer to add than to multiply
constexpr int64_t kMostSplits = 1024;

// Returns the number of splits for grad_weight, at most `most`. Each split takes `blocks` blocks
// and `bytes` bytes. The number does not depend on the device, so results do not either.
inline int64_t splits_of(int64_t most, int64_t blocks, int64_t bytes) {
  const int64_t wanted = tiles_of(kSplitBlocks, blocks);
  return std::clamp<int64_t>(std::min({wanted, most, kSplitBytes / bytes}), 1, kMostSplits);
}

// Returns the number of parts that the pixels are split into.
inline int64_t weight_splits(int64_t pixels, int64_t blocks, int64_t bytes) {
  return splits_of(pixels / kLeastSplitPixels, blocks, bytes);
}

}  // namespace convkern::cuda
