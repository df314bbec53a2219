// Which algorithm a problem is left to: estimates of how much each would do, not measurements. Pure
// functions of the sizes, in multiply-adds that are of use, as a part of those that the CUDA cores
// could do in the time.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/problem.h"
#include "core/reason.h"

namespace convkern::cuda {

// Of copying, in multiply-adds: the instructions for an element, and 32 bytes from the L2 cache at
// 40 bytes a cycle, in which a multiprocessor does 128 multiply-adds.
constexpr double kCopyCost = 16, kSectorCost = 100;
constexpr int kSectorElements = 8;

// Results of a thread of the direct kernels: the sums, a window and the taps for it take about 70
// registers.
constexpr int kWindowRows = 4, kWindowColumns = 8;

// The direct kernels: of a window about 0.7 are not beyond the edges of the image. They copy an
// element of the input for each term, and one of the result; for grad_weight x and gy, of which all
// taps of whole windows are computed.
inline double direct_efficiency(const Problem& p) {
  const double copy = kCopyCost + kSectorCost / kSectorElements;
  const auto taps = static_cast<double>(p.R * p.S);
  if (p.pass == Pass::grad_weight) {
    const int64_t rows = (p.R + kWindowRows - 1) / kWindowRows * kWindowRows;
    const int64_t columns = (p.S + kWindowColumns - 1) / kWindowColumns * kWindowColumns;
    return taps / (static_cast<double>(rows * columns) + 2 * copy);
  }
  const auto terms = static_cast<double>(p.pass == Pass::forward ? p.Cg : p.Og());
  return taps / (taps / 0.7 + copy * (1 + 1 / terms));
}

// Implicit GEMMs with full tiles; of these, terms are in whole chunks.
struct ImplicitGemm {
  double efficiency;
  int64_t chunk;
};
constexpr ImplicitGemm kFloatGemm{0.9, 16};
// Tensor cores have 15 and 7.4 times the peak (H100: 989 and 495 to 67 TFLOP/s), of which half is
// usual.
constexpr ImplicitGemm kHalfGemm{8, 8}, kTf32Gemm{4, 4};

inline double gemm_efficiency(const Problem& p, const ImplicitGemm& gemm) {
  auto used = [](int64_t channels, int64_t of_tile) {
    return std::min(1.0, static_cast<double>(channels) / static_cast<double>(of_tile));
  };
  if (p.pass == Pass::grad_weight) return gemm.efficiency * used(p.Og(), 64) * used(p.Cg, 64);
  const bool forward = p.pass == Pass::forward;
  const int64_t terms = forward ? p.Cg : p.Og(), columns = forward ? p.Og() : p.Cg;
  return gemm.efficiency * used(terms, gemm.chunk) * used(columns, 32);
}

inline Reason leaves_to_direct(const Problem& p, const ImplicitGemm& gemm) {
  return gemm_efficiency(p, gemm) < direct_efficiency(p) ? Reason::empty_lanes : Reason::none;
}

// float32 only: implicit GEMMs of half precision come before, and there are none of float64.
inline Reason leaves_to_implicit_gemm(const Problem& p) {
  const bool leaves = p.dtype == DType::f32 && leaves_to_direct(p, kFloatGemm) == Reason::none;
  return leaves ? Reason::empty_lanes : Reason::none;
}

}  // namespace convkern::cuda
