// Splits the terms of forward and grad_input between blocks where there are few results. A second
// kernel adds the partial sums in a fixed order, so that the result does not depend on timing.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "core/kernel.h"
#include "core/scalar_types.h"
#include "cuda/elements.cuh"
#include "cuda/epilogue.cuh"
#include "cuda/gemm/tile_choice.h"
#include "cuda/launch.cuh"

namespace convkern::cuda {

struct TermSplits {
  int64_t count, size;  // size: elements of the result, and of each split

  // A tap takes `steps_of_tap` steps. The part of the pass with the most pixels and taps decides
  // the number of splits, each of which has at least `least` steps of it.
  TermSplits(const Problem& p, double steps_of_tap, int64_t least) {
    int64_t pixels = p.OH() * p.OW(), taps = p.R * p.S, columns = p.Og();
    size = p.N * p.O * pixels;
    if (p.pass == Pass::grad_input) {
      auto of_residue = [](int64_t all, int64_t stride) { return tiles_of(all, stride); };
      pixels = of_residue(p.H, p.stride_h) * of_residue(p.W, p.stride_w);
      taps = of_residue(p.R, p.stride_h / std::gcd(p.stride_h, p.dilation_h)) *
             of_residue(p.S, p.stride_w / std::gcd(p.stride_w, p.dilation_w));
      columns = p.Cg;
      size = p.N * p.C * p.H * p.W;
    }
    const auto steps = static_cast<int64_t>(static_cast<double>(taps) * steps_of_tap);
    count = correlation_splits(p.N * pixels, columns, p.groups, steps, least, sum_bytes());
  }
  int64_t sum_bytes() const { return size * static_cast<int64_t>(sizeof(float)); }
  int64_t bytes() const { return count > 1 ? count * sum_bytes() : 0; }  // of all partial sums
};

// Computes out = the epilogue of the sum of the splits + bias. The splits are added in order and in
// double. `bias` may be null. Channels are `channel_stride` elements apart.
template <class Element>
__global__ void __launch_bounds__(kElementThreads)
    add_terms(const float* partial, int splits, int64_t size, const Element* bias,
              int64_t channel_stride, int channels, const Epilogue<Element> epilogue,
              Element* out) {
  for_each_element(size, [&](auto i) {
    double sum = 0;
    for (int64_t split = 0; split < splits; ++split) sum += partial[split * size + i];
    const auto stride = static_cast<decltype(i)>(channel_stride);
    if (bias != nullptr) sum += to_float(bias[i / stride % channels]);
    out[i] = from_float<Element>(epilogue.finished(static_cast<float>(sum), i));
  });
}

// Adds the splits of forward or grad_input and stores the result in ops.out.
template <class Element>
void launch_add_terms(const Problem& p, const Operands& ops, const TermSplits& splits,
                      const float* partial, const Executor& executor) {
  const bool forward = p.pass == Pass::forward, nchw = p.layout == Layout::nchw;
  const int64_t pixels = forward ? p.OH() * p.OW() : p.H * p.W;
  launch(add_terms<Element>, element_shape(splits.size), executor, partial,
         static_cast<int>(splits.count), splits.size,
         forward ? static_cast<const Element*>(ops.b) : nullptr, nchw ? pixels : int64_t{1},
         static_cast<int>(forward ? p.O : p.C), Epilogue<Element>(p, ops),
         static_cast<Element*>(ops.out));
}

}  // namespace convkern::cuda
