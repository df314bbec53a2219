// implicit_gemm: float32 convolution with many channels, as matrix products on the CUDA cores.
// Operands are not rounded to TF32. It computes both layouts and any stride and dilation. Sizes and
// numbers of blocks must fit int.
//
// The kernels are in correlate.cuh (forward and grad_input) and grad_weight.cuh. A block computes
// one tile of results, or one split of its sum. This file makes the plans and launches the kernels.
#include <cstdint>
#include <type_traits>

#include "cuda/gemm_float/correlate.cuh"
#include "cuda/gemm_float/grad_weight.cuh"
#include "cuda/gemm_float/pack.cuh"
#include "cuda/gemm/passes.h"
#include "cuda/kernel_list.h"

namespace convkern::cuda {
namespace {

// Calls launch(layout, channels) with constants: the layout, and how many channels one copy to
// shared memory has. It has four if channels are adjacent and aligned, and otherwise one.
template <class Launch>
void with_copies(const Problem& p, bool aligned, const Launch& launch) {
  using Nchw = std::integral_constant<Layout, Layout::nchw>;
  using Nhwc = std::integral_constant<Layout, Layout::nhwc>;
  using One = std::integral_constant<int, 1>;
  using Four = std::integral_constant<int, 4>;
  if (p.layout == Layout::nchw) return launch(Nchw{}, One{});
  aligned ? launch(Nhwc{}, Four{}) : launch(Nhwc{}, One{});
}

constexpr int64_t kLeastSplitSteps = 4;  // the fewest steps of a split, which sum 64 terms

TermSplits term_splits(const Problem& p) {
  return TermSplits(p, static_cast<double>(tiles_of(terms_of(p), kDepth)), kLeastSplitSteps);
}

// Returns whether w already has the layout of packed weights.
bool is_packed(const Problem& p, const void* w) {
  return p.pass == Pass::grad_input && p.R * p.S == 1 && p.Og() % kDepth == 0 &&
         p.Cg == packed_columns(p.Cg) && reinterpret_cast<uintptr_t>(w) % 16 == 0;
}

// Returns whether four pixels of NCHW, or four channels of channels_last, are 16 aligned bytes of
// `out`.
bool writes_fours(const Problem& p, const Part& part, const void* out) {
  const bool planes = p.layout == Layout::nchw;
  const bool dense = part.out_step_h == 1 && part.out_step_w == 1;
  const int64_t adjacent = planes ? part.rows.out * part.columns.out : columns_of(p);
  return (dense || !planes) && is_aligned(out, adjacent * sizeof(float));
}

int64_t packed_floats(const Problem& p, int64_t taps) {
  return p.groups * taps * tiles_of(terms_of(p), kDepth) * kDepth * packed_columns(columns_of(p));
}

template <class Index, class T, Layout kLayout, int kVector>
void launch_correlation(const Correlation<Index>& c, int64_t splits, const Executor& executor) {
  using A = typename PixelCopies<T, Index, kLayout, kVector>::Shared;
  using B = typename TapCopies<T>::Shared;
  Correlation<Index> tiled = c;
  const unsigned blocks = count_tiles<T>(splits, tiled);
  launch(correlate<T, Index, kLayout, kVector>,
         {dim3(blocks), T::kThreads, kStages * kStageBytes<A, B>}, executor, tiled);
}

void run_part(const Problem& p, const Operands& ops, const Part& part, const TermSplits& splits,
              float* packed, float* partial, const Executor& executor) {
  const int terms = small(terms_of(p)), columns = small(columns_of(p));
  const int chunks = small(tiles_of(terms, kDepth)), packed_width = small(packed_columns(columns));
  const int64_t size = packed_floats(p, part.tap_count());
  const bool in_place = is_packed(p, ops.w);
  if (size > 0 && !in_place) {
    launch(pack_taps, element_shape(size / part.tap_count()), executor,
           static_cast<const float*>(ops.w), part.taps, terms, columns, chunks * kDepth,
           packed_width, size / part.tap_count(), packed);
  }
  with_index(fits_int32(p), [&](auto index) {
    using Index = decltype(index);
    Correlation<Index> c{};
    fill_sizes(p, part, c);
    c.in = static_cast<const float*>(part.in);
    c.packed = in_place ? static_cast<const float*>(ops.w) : packed;
    c.bias = p.pass == Pass::forward ? static_cast<const float*>(ops.b) : nullptr;
    c.out = static_cast<float*>(ops.out);
    c.term_chunks = chunks, c.packed_columns = packed_width;
    split_terms(splits, part.tap_count() * chunks, c);
    c.epilogue = Epilogue<float>(p, ops);
    // add_terms() adds the bias to the sum of the splits and applies the epilogue to it.
    if (splits.count > 1) c.out = partial, c.bias = nullptr, c.epilogue = {};
    c.writes_fours = writes_fours(p, part, c.out) && is_aligned(c.epilogue.residual, 0);
    const TileSize tile =
        correlation_tile(c.pixels, columns, p.groups * splits.count, multiprocessors());
    with_copies(p, is_aligned(part.in, terms * sizeof(float)), [&](auto layout, auto vector) {
      switch (tile) {
        case TileSize::t128x128:
          return launch_correlation<Index, Tile<128, 128, 8>, layout(), vector()>(c, splits.count,
                                                                                  executor);
        case TileSize::t128x64:
          return launch_correlation<Index, Tile<128, 64, 8>, layout(), vector()>(c, splits.count,
                                                                                 executor);
        default:
          return launch_correlation<Index, Tile<128, 32, 4>, layout(), vector()>(c, splits.count,
                                                                                 executor);
      }
    });
  });
}

struct Correlations final : Plan {
  const Problem p;
  const TermSplits splits;

  explicit Correlations(const Problem& problem) : p(problem), splits(term_splits(p)) {}
  int64_t workspace(int) const override {
    return packed_floats(p, p.R * p.S) * static_cast<int64_t>(sizeof(float)) + splits.bytes();
  }
  void run(const Operands& ops, void* workspace, const Executor& executor) const override;
};

void Correlations::run(const Operands& ops, void* workspace, const Executor& executor) const {
  auto* packed = static_cast<float*>(workspace);
  float* partial = packed + packed_floats(p, p.R * p.S);
  for_each_part(p, ops, [&](const Part& part) {
    run_part(p, ops, part, splits, packed, partial, executor);
    packed += packed_floats(p, part.tap_count());
  });
  if (splits.count > 1) launch_add_terms<float>(p, ops, splits, partial, executor);
}

template <class Index, class T, Layout kLayout, int kVector>
void launch_weight_sums(const WeightSums<float, Index>& c, int64_t blocks,
                        const Executor& executor) {
  using A = typename ChannelCopies<T, Index, kLayout, kVector, T::kRows>::Shared;
  using B = typename ChannelCopies<T, Index, kLayout, kVector, T::kColumns>::Shared;
  launch(sum_weights<T, Index, kLayout, kVector>,
         {dim3(static_cast<unsigned>(blocks)), T::kThreads, kStages * kStageBytes<A, B>}, executor,
         c);
}

struct GradWeight final : Plan {
  const Problem p;
  const WeightTiles tiles;

  explicit GradWeight(const Problem& problem) : p(problem), tiles(p) {}
  int64_t workspace(int) const override { return tiles.bytes(); }
  void run(const Operands& ops, void* workspace, const Executor& executor) const override;
};

void GradWeight::run(const Operands& ops, void* workspace, const Executor& executor) const {
  const int64_t blocks = tiles.blocks(p);
  auto* partial = static_cast<float*>(workspace);
  const bool aligned =
      is_aligned(ops.gy, p.Og() * sizeof(float)) && is_aligned(ops.x, p.Cg * sizeof(float));
  with_index(fits_int32(p), [&](auto index) {
    using Index = decltype(index);
    const auto c = weight_sums<float, Index>(p, ops, tiles, kDepth, partial);
    with_copies(p, aligned, [&](auto layout, auto vector) {
      if (tiles.tile == TileSize::t128x128) {
        launch_weight_sums<Index, Tile<128, 128, 8>, layout(), vector()>(c, blocks, executor);
      } else {
        launch_weight_sums<Index, Tile<64, 64, 8>, layout(), vector()>(c, blocks, executor);
      }
    });
  });
  add_weight_splits<float>(p, tiles, partial, ops.out, executor);
}

}  // namespace

void add_implicit_gemm(std::vector<Kernel>& kernels) {
  constexpr MakePlan kCorrelation = plan_gemm<DType::f32, Correlations>;
  constexpr MakePlan kWeights = plan_gemm<DType::f32, GradWeight>;
  add_kernels({"implicit_gemm", kCorrelation, kCorrelation, kWeights}, KernelDType::f32, kernels);
}

}  // namespace convkern::cuda
