// implicit_gemm: float32 convolutions of many channels as matrix products on the CUDA cores, each
// product rounded to float32 (no TF32). See correlate.cuh and grad_weight.cuh.
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "core/axis.h"
#include "cuda/implicit_gemm/correlate.cuh"
#include "cuda/implicit_gemm/grad_weight.cuh"
#include "cuda/implicit_gemm/heuristics.h"
#include "cuda/implicit_gemm/pack.cuh"
#include "cuda/kernel_list.h"
#include "cuda/launch.cuh"

namespace convkern::cuda {
namespace {

// Whether the channels of each pixel and group begin at multiples of 16 bytes. Views of tensors may
// begin anywhere.
bool is_aligned(const void* tensor, int64_t channels_of_group) {
  return reinterpret_cast<uintptr_t>(tensor) % 16 == 0 && channels_of_group % 4 == 0;
}

template <class Launch>
void with_index(const Problem& p, const Launch& launch) {
  fits_int32(p) ? launch(int32_t{}) : launch(int64_t{});
}

// Calls launch(constant layout, constant channels of a copy).
template <class Launch>
void with_copies(const Problem& p, bool aligned, const Launch& launch) {
  using Nchw = std::integral_constant<Layout, Layout::nchw>;
  using Nhwc = std::integral_constant<Layout, Layout::nhwc>;
  using One = std::integral_constant<int, 1>;
  using Four = std::integral_constant<int, 4>;
  if (p.layout == Layout::nchw) return launch(Nchw{}, One{});
  aligned ? launch(Nhwc{}, Four{}) : launch(Nhwc{}, One{});
}

int small(int64_t size) { return static_cast<int>(size); }  // see supports()

// Of a correlation, in a group: channels that are summed over, and of the result.
int64_t terms_of(const Problem& p) { return p.pass == Pass::forward ? p.Cg : p.Og(); }
int64_t columns_of(const Problem& p) { return p.pass == Pass::forward ? p.Og() : p.Cg; }

struct ImageSizes {
  int64_t channels, height, width;
};

// A correlation of one pass, or of one residue of it.
struct Part {
  const float *in, *bias;
  ImageSizes in_sizes, out_sizes;
  Axis rows, columns;
  TapsOf taps;
  // Of the residue.
  int64_t out_step_h = 1, out_step_w = 1, out_first_h = 0, out_first_w = 0;

  int64_t tap_count() const { return rows.taps * columns.taps; }
};

int64_t packed_floats(const Problem& p, int64_t taps) {
  return p.groups * taps * tiles_of(terms_of(p), kDepth) * kDepth * packed_columns(columns_of(p));
}

template <class Index, class T, Layout kLayout, int kVector>
void launch_correlation(const Correlation<Index>& c, const Problem& p, const Executor& executor) {
  using A = typename PixelCopies<T, Index, kLayout, kVector>::Shared;
  using B = typename TapCopies<T>::Shared;
  Correlation<Index> tiled = c;
  tiled.column_tiles = static_cast<int>(tiles_of(c.columns, T::kColumns));
  tiled.pixel_tiles = static_cast<int>(tiles_of(c.pixels, T::kRows));
  const auto blocks = static_cast<unsigned>(tiled.pixel_tiles * tiled.column_tiles * p.groups);
  launch(correlate<T, Index, kLayout, kVector>, {dim3(blocks), T::kThreads, pipeline_bytes<A, B>()},
         executor, tiled);
}

void run_part(const Problem& p, const Part& part, float* packed, float* out,
              const Executor& executor) {
  const int terms = small(terms_of(p)), columns = small(columns_of(p));
  const int chunks = small(tiles_of(terms, kDepth)), packed_width = small(packed_columns(columns));
  const int64_t size = packed_floats(p, part.tap_count());
  if (size > 0) {
    launch(pack_taps, element_shape(size), executor, part.taps, terms, columns, chunks * kDepth,
           packed_width, size, packed);
  }
  const int64_t pixels = p.N * part.rows.out * part.columns.out;
  with_index(p, [&](auto index) {
    using Index = decltype(index);
    auto strides = [&](const ImageSizes& s) {
      return Strides<Index>(p.layout, s.channels, s.height, s.width);
    };
    Correlation<Index> c{};
    c.in = part.in;
    c.packed = packed;
    c.bias = part.bias;
    c.out = out;
    c.in_strides = strides(part.in_sizes);
    c.out_strides = strides(part.out_sizes);
    c.pixels = static_cast<Index>(pixels);
    c.height = small(part.rows.out), c.width = small(part.columns.out);
    c.in_height = small(part.rows.in), c.in_width = small(part.columns.in);
    c.taps_h = small(part.rows.taps), c.taps_w = small(part.columns.taps);
    c.step_h = small(part.rows.out_step), c.step_w = small(part.columns.out_step);
    c.tap_step_h = small(part.rows.tap_step), c.tap_step_w = small(part.columns.tap_step);
    c.offset_h = small(part.rows.offset), c.offset_w = small(part.columns.offset);
    c.out_step_h = small(part.out_step_h), c.out_step_w = small(part.out_step_w);
    c.out_first_h = small(part.out_first_h), c.out_first_w = small(part.out_first_w);
    c.terms = terms, c.columns = columns;
    c.term_chunks = chunks, c.packed_columns = packed_width;
    c.relu = p.activation == Activation::relu && p.pass == Pass::forward;
    const TileSize tile = correlation_tile(pixels, columns, p.groups, multiprocessors());
    with_copies(p, is_aligned(part.in, terms), [&](auto layout, auto vector) {
      switch (tile) {
        case TileSize::t128x128:
          return launch_correlation<Index, Tile<128, 128, 8>, layout(), vector()>(c, p, executor);
        case TileSize::t128x64:
          return launch_correlation<Index, Tile<128, 64, 8>, layout(), vector()>(c, p, executor);
        default:
          return launch_correlation<Index, Tile<128, 32, 4>, layout(), vector()>(c, p, executor);
      }
    });
  });
}

// The taps of all groups as the pass reads them, from the first to the last.
TapsOf all_taps(const Problem& p, const Operands& ops) {
  const bool columns_are_outputs = p.pass == Pass::forward;
  const int64_t taps = p.R * p.S, of_output = p.Cg * taps;
  TapsOf result{};
  result.w = static_cast<const float*>(ops.w);
  result.group = p.Og() * of_output;
  result.column = columns_are_outputs ? of_output : taps;
  result.term = columns_are_outputs ? taps : of_output;
  result.taps_h = small(p.R);
  result.taps_w = result.S = small(p.S);
  result.step_h = result.step_w = 1;
  return result;
}

void forward(const Problem& p, const Operands& ops, void* workspace, const Executor& executor) {
  Part part{};
  part.in = static_cast<const float*>(ops.x);
  part.bias = static_cast<const float*>(ops.b);
  part.in_sizes = {p.C, p.H, p.W};
  part.out_sizes = {p.O, p.OH(), p.OW()};
  part.rows = {p.OH(), p.R, p.H, p.stride_h, p.dilation_h, -p.pad_h};
  part.columns = {p.OW(), p.S, p.W, p.stride_w, p.dilation_w, -p.pad_w};
  part.taps = all_taps(p, ops);
  run_part(p, part, static_cast<float*>(workspace), static_cast<float*>(ops.out), executor);
}

// Taps from the last to the first, as a residue has them.
void choose_taps(const ResidueAxis& rows, const ResidueAxis& columns, TapsOf& taps) {
  taps.taps_h = small(rows.axis.taps);
  taps.taps_w = small(columns.axis.taps);
  taps.first_h = small(rows.last_tap);
  taps.first_w = small(columns.last_tap);
  taps.step_h = -small(rows.tap_stride);
  taps.step_w = -small(columns.tap_stride);
}

void grad_input(const Problem& p, const Operands& ops, void* workspace, const Executor& executor) {
  Part part{};
  part.in = static_cast<const float*>(ops.gy);
  part.in_sizes = {p.O, p.OH(), p.OW()};
  part.out_sizes = {p.C, p.H, p.W};
  part.taps = all_taps(p, ops);
  part.out_step_h = p.stride_h, part.out_step_w = p.stride_w;
  auto* packed = static_cast<float*>(workspace);
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
      run_part(p, part, packed, static_cast<float*>(ops.out), executor);
      packed += packed_floats(p, part.tap_count());
    }
  }
}

struct WeightTiles {
  TileSize tile;
  int64_t row_tiles, column_tiles, pixels, splits, size;

  explicit WeightTiles(const Problem& p)
      : tile(weight_tile(p.Og(), p.Cg)),
        row_tiles(tiles_of(p.Og(), tile_rows(tile))),
        column_tiles(tiles_of(p.Cg, tile_columns(tile))),
        pixels(p.N * p.OH() * p.OW()),
        size(p.O * p.Cg * p.R * p.S) {
    splits = weight_splits(pixels, blocks(p), size * static_cast<int64_t>(sizeof(float)));
  }
  int64_t blocks(const Problem& p) const {  // of a split
    return p.groups * p.R * p.S * row_tiles * column_tiles;
  }
};

template <class Index, class T, Layout kLayout, int kVector>
void launch_weight_sums(const WeightSums<Index>& c, int64_t blocks, const Executor& executor) {
  using A = typename ChannelCopies<T, Index, kLayout, kVector, T::kRows>::Shared;
  using B = typename ChannelCopies<T, Index, kLayout, kVector, T::kColumns>::Shared;
  launch(sum_weights<T, Index, kLayout, kVector>,
         {dim3(static_cast<unsigned>(blocks)), T::kThreads, pipeline_bytes<A, B>()}, executor, c);
}

void grad_weight(const Problem& p, const Operands& ops, void* workspace, const Executor& executor) {
  const WeightTiles tiles(p);
  with_index(p, [&](auto index) {
    using Index = decltype(index);
    WeightSums<Index> c{};
    c.gy = {static_cast<const float*>(ops.gy),
            {p.layout, p.O, p.OH(), p.OW()},
            small(p.OH()),
            small(p.OW()),
            1,
            1,
            0,
            0};
    c.x = {static_cast<const float*>(ops.x),
           {p.layout, p.C, p.H, p.W},
           small(p.H),
           small(p.W),
           small(p.stride_h),
           small(p.stride_w),
           small(-p.pad_h),
           small(-p.pad_w)};
    c.partial = static_cast<float*>(workspace);
    c.pixels = static_cast<Index>(tiles.pixels);
    c.split_pixels =
        static_cast<Index>(tiles_of(tiles_of(tiles.pixels, tiles.splits), kDepth) * kDepth);
    c.height = small(p.OH()), c.width = small(p.OW());
    c.taps = small(p.R * p.S), c.taps_w = small(p.S);
    c.tap_step_h = small(p.dilation_h), c.tap_step_w = small(p.dilation_w);
    c.rows = small(p.Og()), c.columns = small(p.Cg);
    c.row_tiles = small(tiles.row_tiles), c.column_tiles = small(tiles.column_tiles);
    c.groups = small(p.groups);
    const int64_t blocks = tiles.blocks(p) * tiles.splits;
    with_copies(
        p, is_aligned(ops.gy, p.Og()) && is_aligned(ops.x, p.Cg), [&](auto layout, auto vector) {
          if (tiles.tile == TileSize::t128x128) {
            launch_weight_sums<Index, Tile<128, 128, 8>, layout(), vector()>(c, blocks, executor);
          } else {
            launch_weight_sums<Index, Tile<64, 64, 8>, layout(), vector()>(c, blocks, executor);
          }
        });
  });
  launch(add_splits, element_shape(tiles.size), executor, static_cast<const float*>(workspace),
         small(tiles.splits), tiles.size, small(p.R * p.S), small(p.Og()), small(p.Cg),
         static_cast<float*>(ops.out));
}

int64_t correlation_workspace(const Problem& p, int) {
  return packed_floats(p, p.R * p.S) * static_cast<int64_t>(sizeof(float));
}

int64_t weight_workspace(const Problem& p, int) {
  const WeightTiles tiles(p);
  return tiles.splits * tiles.size * static_cast<int64_t>(sizeof(float));
}

// Sizes and numbers of blocks are ints.
Reason supports(const Problem& p) {
  if (p.dtype != DType::f32) return Reason::dtype;
  if (p.empty()) return Reason::empty;
  const int64_t pixels = p.N * std::max(p.OH() * p.OW(), p.H * p.W);
  const int64_t blocks = p.pass == Pass::grad_weight
                             ? WeightTiles(p).blocks(p) * WeightTiles(p).splits
                             : tiles_of(pixels, 128) * tiles_of(std::max(p.O, p.C), 32) * p.groups;
  const int64_t largest =
      std::max({blocks, p.H + 2 * p.pad_h, p.W + 2 * p.pad_w, p.C, p.O, p.R * p.S});
  return largest < INT32_MAX ? Reason::none : Reason::size;
}

Reason declines(const Problem& p) {
  const double useful = p.pass == Pass::grad_weight
                            ? used_of_tile(p.Og(), 64) * used_of_tile(p.Cg, 64)
                            : used_of_tile(terms_of(p), kDepth) * used_of_tile(columns_of(p), 32);
  return useful < kLeastUsed ? Reason::empty_lanes : Reason::none;
}

}  // namespace

const Kernel implicit_gemm_kernels[3] = {
    {"fwd.implicit_gemm.any.f32.cuda", Pass::forward, Isa::baseline, true, supports,
     correlation_workspace, forward, declines},
    {"gx.implicit_gemm.any.f32.cuda", Pass::grad_input, Isa::baseline, true, supports,
     correlation_workspace, grad_input, declines},
    {"gw.implicit_gemm.any.f32.cuda", Pass::grad_weight, Isa::baseline, true, supports,
     weight_workspace, grad_weight, declines},
};

}  // namespace convkern::cuda
