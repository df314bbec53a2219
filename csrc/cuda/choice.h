// Which algorithm a problem is left to: what decides, besides the order of kernel_list.cpp, between
// the CUDA kernels that support it. Pure functions of the sizes that estimate the multiply-adds of
// use, as a part of those that the CUDA cores could do in the time. Their constants were fitted to
// the layers of benchmarks/shapes on an H100, within about a factor of two.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/kernel.h"
#include "cuda/direct/windows.h"

namespace convkern::cuda::choice {

// Elements that the direct kernels read of a plane along an axis of so many results, with padding.
inline double elements_read(int64_t results, int64_t result_step, int64_t extent) {
  return static_cast<double>((results - 1) * result_step + extent);
}

// The direct kernels: 0.45 of the products are of use where copies do not matter. They copy the
// input's planes for each term, and the result's; for grad_weight x and gy, of which all taps of
// whole windows are computed.
inline double direct_efficiency(const Problem& p) {
  // The cost of copying an element, in multiply-adds: 16-bit types are copied one by one through
  // registers.
  const double copy = size_of(p.dtype) < 4 ? 400 : 200;
  const auto taps = static_cast<double>(p.R * p.S), pixels = static_cast<double>(p.OH() * p.OW());
  const double x_read = elements_read(p.OH(), p.stride_h, p.kernel_extent_h()) *
                        elements_read(p.OW(), p.stride_w, p.kernel_extent_w());
  if (p.pass == Pass::grad_weight) {
    const int64_t rows = (p.R + kWindowRows - 1) / kWindowRows * kWindowRows;
    const int64_t columns = (p.S + kWindowColumns - 1) / kWindowColumns * kWindowColumns;
    return taps * pixels /
           (static_cast<double>(rows * columns) * pixels + copy * (x_read + pixels));
  }
  const bool forward = p.pass == Pass::forward;
  // Each residue of gx reads gy.
  const double gy_read =
      elements_read(p.H, 1, std::max<int64_t>(1, p.kernel_extent_h() - p.stride_h + 1)) *
      elements_read(p.W, 1, std::max<int64_t>(1, p.kernel_extent_w() - p.stride_w + 1));
  const double read = forward ? x_read : gy_read;
  const double written = forward ? pixels / static_cast<double>(p.Cg)
                                 : static_cast<double>(p.H * p.W) / static_cast<double>(p.Og());
  return taps * pixels / (taps * pixels / 0.45 + copy * (read + written));
}

// Implicit GEMMs: of forward and grad_input with full tiles, whose terms are in chunks; and of
// grad_weight.
struct ImplicitGemm {
  double correlation;
  int64_t chunk;
  double weights;
};
constexpr ImplicitGemm kFloatGemm{0.36, 16, 0.36}, kHalfGemm{3, 64, 2.5}, kTf32Gemm{1.5, 32, 1.2};

inline double gemm_efficiency(const Problem& p, const ImplicitGemm& gemm) {
  auto used = [](int64_t channels, int64_t of_tile) {
    return std::min(1.0, static_cast<double>(channels) / static_cast<double>(of_tile));
  };
  if (p.pass == Pass::grad_weight) return gemm.weights * used(p.Og(), 64) * used(p.Cg, 64);
  const bool forward = p.pass == Pass::forward;
  const int64_t terms = forward ? p.Cg : p.Og(), columns = forward ? p.Og() : p.Cg;
  return gemm.correlation * used(terms, gemm.chunk) * used(columns, 32);
}

inline bool direct_is_faster(const Problem& p, const ImplicitGemm& gemm) {
  return gemm_efficiency(p, gemm) < direct_efficiency(p);
}

// Why each algorithm, although it supports the problem, leaves it to those after it in the list;
// Reason::none if it does not. implicit_gemm, of float32 only, never does.
inline Reason implicit_gemm_mma_declines(const Candidate& candidate) {
  const Problem& p = candidate.problem;
  const bool leaves = direct_is_faster(p, p.dtype == DType::f32 ? kTf32Gemm : kHalfGemm);
  return leaves ? Reason::slower : Reason::none;
}
inline Reason direct_declines(const Candidate& candidate) {
  const Problem& p = candidate.problem;
  const bool leaves = p.dtype == DType::f32 && !direct_is_faster(p, kFloatGemm);
  return leaves ? Reason::slower : Reason::none;
}

}  // namespace convkern::cuda::choice
