// Plans and runs forward and grad_input on tensor cores. The workspace holds the packed input, if
// it is packed (pixels.h), then the packed weights of one part of the pass, and then the partial
// sums of the splits. The kernel is in correlate.cuh.
#pragma once

#include <cstdint>

#include "cuda/gemm_mma/correlate.cuh"
#include "cuda/gemm_mma/pixels.h"

namespace convkern::cuda::implicit_gemm_mma {

template <class Element>
Pixels<Element> correlated_pixels(const Problem& p) {
  return p.pass == Pass::forward ? pixels_of_x<Element>(p) : pixels_of_gy<Element>(p);
}

// Returns the steps of a sum over so many taps. A step is kRowChunks chunks of terms.
template <class Element>
int64_t steps_of(const Problem& p, int64_t taps) {
  return tiles_of(taps * chunks_of<Element>(terms_of(p)), kRowChunks);
}
constexpr int64_t kLeastSplitSteps = 8;  // fewest steps of a split: 256 terms, or 128 of float32

template <class Element>
TermSplits term_splits(const Problem& p) {
  return TermSplits(p, static_cast<double>(chunks_of<Element>(terms_of(p))) / kRowChunks,
                    kLeastSplitSteps);
}

// Returns whether w already has the layout of packed weights.
template <class Element>
bool is_packed(const Problem& p, const void* w) {
  return sizeof(Element) == 2 && p.pass == Pass::forward && p.R * p.S == 1 &&
         p.Cg % kDepth<Element> == 0 && begins_chunk(w);
}

// Returns the elements that so many taps take when packed.
template <class Element>
int64_t packed_taps(const Problem& p, int64_t taps) {
  return p.groups * columns_of(p) * steps_of<Element>(p, taps) * kDepth<Element>;
}

template <class T, bool kAligned, class Index>
void launch_correlation(const Correlation<typename T::Element, Index>& c, int64_t splits,
                        const Executor& executor) {
  Correlation<typename T::Element, Index> tiled = c;
  const unsigned blocks = count_tiles<T>(splits, tiled);
  launch(correlate<T, Index, kAligned>, {dim3(blocks), T::kThreads, kStages * T::kStageBytes},
         executor, tiled);
}

template <class Element, class Index>
Correlation<Element, Index> correlation_of(const Problem& p, const Operands& ops, const Part& part,
                                           const TermSplits& splits, const Element* in,
                                           const Element* packed, float* partial) {
  const int chunks = small(chunks_of<Element>(terms_of(p)));
  Correlation<Element, Index> c{};
  fill_sizes(p, part, c);
  c.in_strides = correlated_pixels<Element>(p).template strides<Index>();
  c.in = in;
  c.packed = is_packed<Element>(p, ops.w) ? static_cast<const Element*>(ops.w) : packed;
  c.bias = p.pass == Pass::forward ? static_cast<const Element*>(ops.b) : nullptr;
  c.epilogue = Epilogue<Element>(p, ops);
  c.out = static_cast<Element*>(ops.out);
  c.partial = partial;
  c.chunks = chunks;
  c.stride = {kRowChunks, c.taps_w, chunks};
  c.steps = small(steps_of<Element>(p, part.tap_count()));
  split_terms(splits, c.steps, c);
  c.writes_chunks = p.layout == Layout::nhwc && begins_chunk(ops.out) &&
                    begins_chunk(c.epilogue.residual) && c.columns % 8 == 0;
  return c;
}

template <class Element>
void run_part(const Problem& p, const Operands& ops, const Part& part, const TermSplits& splits,
              const Element* in, Element* packed, float* partial, const Executor& executor) {
  const int terms = small(terms_of(p)), columns = small(columns_of(p));
  const int64_t steps = steps_of<Element>(p, part.tap_count());
  if (steps > 0 && !is_packed<Element>(p, ops.w)) {
    const int chunks = small(chunks_of<Element>(terms));
    const int64_t size = p.groups * columns * chunks;
    launch(pack_taps<Element>, element_shape(size), executor, static_cast<const Element*>(ops.w),
           part.taps, terms, chunks, columns, small(steps * kRowChunks), size, packed);
  }
  // Inputs that are not aligned are views and rare. To compile fewer kernels, one tile and one type
  // of index serve all of them.
  if (!begins_chunk(in)) {
    return launch_correlation<Tile<Element, 128, 64, 64>, false>(
        correlation_of<Element, int64_t>(p, ops, part, splits, in, packed, partial), splits.count,
        executor);
  }
  const bool small_taps = packed_taps<Element>(p, p.R * p.S) < kInt32Elements;
  with_index(small_taps && correlated_pixels<Element>(p).fits_int32(), [&](auto index) {
    const auto c =
        correlation_of<Element, decltype(index)>(p, ops, part, splits, in, packed, partial);
    switch (correlation_tile(c.pixels, columns, p.groups * splits.count, multiprocessors())) {
      case TileSize::t128x128:
        return launch_correlation<Tile<Element, 128, 128, 64>, true>(c, splits.count, executor);
      case TileSize::t128x64:
        return launch_correlation<Tile<Element, 128, 64, 64>, true>(c, splits.count, executor);
      default:
        return launch_correlation<Tile<Element, 128, 32, 32>, true>(c, splits.count, executor);
    }
  });
}

// The plan of forward or grad_input.
template <class Element>
struct Correlations final : Plan {
  const Problem p;
  const Pixels<Element> pixels;
  const TermSplits splits;

  explicit Correlations(const Problem& problem)
      : p(problem), pixels(correlated_pixels<Element>(p)), splits(term_splits<Element>(p)) {}
  int64_t workspace(int) const override {
    return pixels.packed_bytes() +
           packed_taps<Element>(p, p.R * p.S) * static_cast<int64_t>(sizeof(Element)) +
           splits.bytes();
  }
  void run(const Operands& ops, void* workspace, const Executor& executor) const override {
    const void* in = p.pass == Pass::forward ? ops.x : ops.gy;
    const Element* read = pixels.get(in, workspace, executor);
    auto* packed = static_cast<Element*>(workspace) + pixels.packed_bytes() / sizeof(Element);
    auto* partial = reinterpret_cast<float*>(packed + packed_taps<Element>(p, p.R * p.S));
    // The parts run one after the other, so that they can share the memory of packed weights.
    for_each_part(p, ops, [&](const Part& part) {
      run_part(p, ops, part, splits, read, packed, partial, executor);
    });
    if (splits.count > 1) launch_add_terms<Element>(p, ops, splits, partial, executor);
  }
};

}  // namespace convkern::cuda::implicit_gemm_mma
