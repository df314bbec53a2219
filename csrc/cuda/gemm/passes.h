// Describes the passes of a convolution to the implicit GEMMs of every arithmetic. Forward is one
// correlation, and grad_input is one for each residue of the gx index modulo the stride
// (core/axis.h); these are called parts. grad_weight is a sum over pixels, which is cut into
// splits. Functions here choose tiles and splits and fill in the arguments of the kernels.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include "core/axis.h"
#include "core/kernel.h"
#include "cuda/gemm/geometry.cuh"
#include "cuda/gemm/tile_choice.h"
#include "cuda/gemm/term_splits.h"
#include "cuda/gemm/weight_sums.cuh"
#include "cuda/launch.cuh"

namespace convkern::cuda {

// Returns whether the channels of each pixel and group of a channels_last tensor begin at multiples
// of 16 bytes. `bytes_of_group` is the size of a group's channels. Views may begin anywhere.
inline bool is_aligned(const void* tensor, int64_t bytes_of_group) {
  return reinterpret_cast<uintptr_t>(tensor) % 16 == 0 && bytes_of_group % 16 == 0;
}

// Calls launch(index), where the type of `index` is the type for offsets: int32_t if all offsets
// fit it, and otherwise int64_t.
template <class Launch>
void with_index(bool fits_int32, const Launch& launch) {
  fits_int32 ? launch(int32_t{}) : launch(int64_t{});
}

// Returns a size that fits int; see counts_in_ints().
inline int small(int64_t size) { return static_cast<int>(size); }

// Terms are the channels of a group that a correlation sums over. Columns are the channels of a
// group of its result.
inline int64_t terms_of(const Problem& p) { return p.pass == Pass::forward ? p.Cg : p.Og(); }
inline int64_t columns_of(const Problem& p) { return p.pass == Pass::forward ? p.Og() : p.Cg; }

struct ImageSizes {
  int64_t channels, height, width;
};

// Returns all taps in the order of w, with the strides of the pass's groups, columns and terms.
inline TapsOf all_taps(const Problem& p) {
  const bool columns_are_outputs = p.pass == Pass::forward;
  const int64_t taps = p.R * p.S, of_output = p.Cg * taps;
  TapsOf result{};
  result.group = p.Og() * of_output;
  result.column = columns_are_outputs ? of_output : taps;
  result.term = columns_are_outputs ? taps : of_output;
  result.taps_h = small(p.R);
  result.taps_w = result.S = small(p.S);
  result.step_h = result.step_w = 1;
  return result;
}

// Restricts `taps` to those of one residue, which are read from the last to the first.
inline void choose_taps(const ResidueAxis& rows, const ResidueAxis& columns, TapsOf& taps) {
  taps.taps_h = small(rows.axis.taps);
  taps.taps_w = small(columns.axis.taps);
  taps.first_h = small(rows.last_tap);
  taps.first_w = small(columns.last_tap);
  taps.step_h = -small(rows.tap_stride);
  taps.step_w = -small(columns.tap_stride);
}

// One correlation: all of forward, or one residue of grad_input.
struct Part {
  const void* in;
  ImageSizes in_sizes, out_sizes;
  Axis rows, columns;
  TapsOf taps;
  // The results of a residue are every out_step-th pixel of gx, from out_first on.
  int64_t out_step_h = 1, out_step_w = 1, out_first_h = 0, out_first_w = 0;

  int64_t tap_count() const { return rows.taps * columns.taps; }
};

// Calls run(part) for each part of forward or grad_input.
template <class Run>
void for_each_part(const Problem& p, const Operands& ops, const Run& run) {
  Part part{};
  part.taps = all_taps(p);
  if (p.pass == Pass::forward) {
    part.in = ops.x;
    part.in_sizes = {p.C, p.H, p.W};
    part.out_sizes = {p.O, p.OH(), p.OW()};
    part.rows = {p.OH(), p.R, p.H, p.stride_h, p.dilation_h, -p.pad_h};
    part.columns = {p.OW(), p.S, p.W, p.stride_w, p.dilation_w, -p.pad_w};
    return run(part);
  }
  part.in = ops.gy;
  part.in_sizes = {p.O, p.OH(), p.OW()};
  part.out_sizes = {p.C, p.H, p.W};
  part.out_step_h = p.stride_h, part.out_step_w = p.stride_w;
  for (int64_t h = 0; h < std::min(p.stride_h, p.H); ++h) {
    const ResidueAxis rows =
        grad_input_axis(p.H, p.OH(), p.R, p.stride_h, p.pad_h, p.dilation_h, h);
    for (int64_t w = 0; w < std::min(p.stride_w, p.W); ++w) {
      const ResidueAxis columns =
          grad_input_axis(p.W, p.OW(), p.S, p.stride_w, p.pad_w, p.dilation_w, w);
      part.rows = rows.axis;
      part.columns = columns.axis;
      choose_taps(rows, columns, part.taps);
      part.out_first_h = h, part.out_first_w = w;
      run(part);
    }
  }
}

// Sets all members of `c` but those of the splits and the numbers of tiles.
template <class Index>
void fill_sizes(const Problem& p, const Part& part, CorrelationSizes<Index>& c) {
  auto strides = [&](const ImageSizes& s) {
    return Strides<Index>(p.layout, s.channels, s.height, s.width);
  };
  c.in_strides = strides(part.in_sizes);
  c.out_strides = strides(part.out_sizes);
  c.pixels = static_cast<Index>(p.N * part.rows.out * part.columns.out);
  c.height = small(part.rows.out), c.width = small(part.columns.out);
  c.in_height = small(part.rows.in), c.in_width = small(part.columns.in);
  c.taps_h = small(part.rows.taps), c.taps_w = small(part.columns.taps);
  c.step_h = small(part.rows.out_step), c.step_w = small(part.columns.out_step);
  c.tap_step_h = small(part.rows.tap_step), c.tap_step_w = small(part.columns.tap_step);
  c.offset_h = small(part.rows.offset), c.offset_w = small(part.columns.offset);
  c.out_step_h = small(part.out_step_h), c.out_step_w = small(part.out_step_w);
  c.out_first_h = small(part.out_first_h), c.out_first_w = small(part.out_first_w);
  c.terms = small(terms_of(p)), c.columns = small(columns_of(p));
  // Without taps, the width must not be 0, because kernels divide by it.
  if (part.tap_count() == 0) c.taps_h = 0, c.taps_w = 1;
  c.groups = small(p.groups);
}

// Divides the `steps` steps of a part's sums between the splits.
template <class Index>
void split_terms(const TermSplits& splits, int64_t steps, CorrelationSizes<Index>& c) {
  c.split_steps = small(tiles_of(steps, splits.count));
  c.split_size = static_cast<Index>(splits.count > 1 ? splits.size : 0);
}

// Sets the numbers of tiles, and returns the number of blocks.
template <class T, class Index>
unsigned count_tiles(int64_t splits, CorrelationSizes<Index>& c) {
  c.pixel_tiles = small(tiles_of(c.pixels, T::kRows));
  c.column_tiles = small(tiles_of(c.columns, T::kColumns));
  return static_cast<unsigned>(c.pixel_tiles * c.column_tiles * c.groups * splits);
}

// The tiles and splits of grad_weight. A tile has some output channels (rows) and some input
// channels (columns) of one group and one tap. `size` is the number of elements of gw.
struct WeightTiles {
  TileSize tile;
  int64_t row_tiles, column_tiles, pixels, splits, size;

  explicit WeightTiles(const Problem& p)
      : tile(weight_tile(p.Og(), p.Cg)),
        row_tiles(tiles_of(p.Og(), tile_rows(tile))),
        column_tiles(tiles_of(p.Cg, tile_columns(tile))),
        pixels(p.N * p.OH() * p.OW()),
        size(p.O * p.Cg * p.R * p.S) {
    splits = weight_splits(pixels, blocks_of_split(p), bytes_of_split());
  }
  int64_t blocks_of_split(const Problem& p) const {
    return p.groups * p.R * p.S * row_tiles * column_tiles;
  }
  int64_t blocks(const Problem& p) const { return blocks_of_split(p) * splits; }
  int64_t bytes_of_split() const { return size * static_cast<int64_t>(sizeof(float)); }
  int64_t bytes() const { return splits * bytes_of_split(); }  // the size of all partial sums
};

// Returns the arguments of the kernel of grad_weight, for tensors in the problem's layout. A split
// is a multiple of `depth` pixels, the number that a block reads at a time.
template <class Element, class Index>
WeightSums<Element, Index> weight_sums(const Problem& p, const Operands& ops,
                                       const WeightTiles& tiles, int depth, float* partial) {
  WeightSums<Element, Index> c{};
  c.gy = {static_cast<const Element*>(ops.gy),
          {p.layout, p.O, p.OH(), p.OW()},
          small(p.OH()),
          small(p.OW()),
          1,
          1,
          0,
          0};
  c.x = {static_cast<const Element*>(ops.x),
         {p.layout, p.C, p.H, p.W},
         small(p.H),
         small(p.W),
         small(p.stride_h),
         small(p.stride_w),
         small(-p.pad_h),
         small(-p.pad_w)};
  c.partial = partial;
  c.pixels = static_cast<Index>(tiles.pixels);
  c.split_pixels =
      static_cast<Index>(tiles_of(tiles_of(tiles.pixels, tiles.splits), depth) * depth);
  c.height = small(p.OH()), c.width = small(p.OW());
  c.stride = {depth, c.height, c.width};
  c.taps = small(p.R * p.S), c.taps_w = small(p.S);
  c.tap_step_h = small(p.dilation_h), c.tap_step_w = small(p.dilation_w);
  c.rows = small(p.Og()), c.columns = small(p.Cg);
  c.row_tiles = small(tiles.row_tiles), c.column_tiles = small(tiles.column_tiles);
  c.groups = small(p.groups);
  return c;
}

template <class Element>
void add_weight_splits(const Problem& p, const WeightTiles& tiles, const float* partial, void* gw,
                       const Executor& executor) {
  launch_add_splits<Element>(partial, tiles.splits, tiles.size, p.R * p.S, p.Og(), p.Cg, gw,
                             executor);
}

// Returns Reason::none if the sizes of the problem and its numbers of blocks fit int.
inline Reason counts_in_ints(const Problem& p) {
  const int64_t pixels = p.N * std::max(p.OH() * p.OW(), p.H * p.W);
  const int64_t blocks = p.pass == Pass::grad_weight
                             ? WeightTiles(p).blocks(p)
                             : tiles_of(pixels, 128) * tiles_of(columns_of(p), 32) * p.groups;
  const int64_t largest = std::max({blocks, p.padded_h(), p.padded_w(), p.C, p.O, p.R * p.S});
  return largest < INT32_MAX ? Reason::none : Reason::size;
}

// Makes a plan of class PassPlan, or says why an implicit GEMM does not compute the problem.
template <DType kDType, class PassPlan>
Planned plan_gemm(const Problem& p) {
  if (p.dtype != kDType) return Reason::dtype;
  Reason reason = beyond_plans(p);
  if (reason == Reason::none) reason = counts_in_ints(p);
  if (reason != Reason::none) return reason;
  return std::make_unique<const PassPlan>(p);
}

}  // namespace convkern::cuda
