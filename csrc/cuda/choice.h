// Chooses between the CUDA kernels that support a problem. The first in the order of
// kernel_list.cpp that does not decline runs it. Algorithms are compared by efficiency: the
// multiply-adds of the direct sum, as a share of those that the CUDA cores could do in the same
// time. Tensor cores may exceed 1. The estimates are pure functions of the sizes. Their constants
// were fitted to the layers of benchmarks/shapes on an H100, and are right within about a factor of
// two.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/kernel.h"
#include "cuda/direct/windows.h"

namespace convkern::cuda::choice {

// Returns how many elements, including padding, the direct kernels read along an axis of a plane.
// The axis has `results` results, `result_step` elements apart, and a kernel covers `extent`
// elements.
inline double elements_read(int64_t results, int64_t result_step, int64_t extent) {
  return static_cast<double>((results - 1) * result_step + extent);
}

// Returns the efficiency of the direct kernels. It is 0.45 if copies do not matter. Forward and
// grad_input copy a plane of the input for each term, and a plane of the result. grad_weight copies
// planes of x and gy, and computes all taps of whole windows.
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
  // Each residue of gx reads gy anew. This is what all residues read together.
  const double gy_read =
      elements_read(p.H, 1, std::max<int64_t>(1, p.kernel_extent_h() - p.stride_h + 1)) *
      elements_read(p.W, 1, std::max<int64_t>(1, p.kernel_extent_w() - p.stride_w + 1));
  const double read = forward ? x_read : gy_read;
  const double written = forward ? pixels / static_cast<double>(p.Cg)
                                 : static_cast<double>(p.H * p.W) / static_cast<double>(p.Og());
  return taps * pixels / (taps * pixels / 0.45 + copy * (read + written));
}

// The efficiency of an implicit GEMM with full tiles: `correlation` in forward and grad_input, and
// `weights` in grad_weight. `chunk` is the number of terms that forward and grad_input read at a
// time.
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

// Returns why an algorithm that supports the problem leaves it to those after it in the list, or
// Reason::none if it takes the problem. implicit_gemm, which is for float32 only, never declines.
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
