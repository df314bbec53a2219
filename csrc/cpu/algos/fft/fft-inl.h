// fft: convolutions by Fourier transforms, for large kernels in depthwise layers and in layers with
// few channels. The transforms of an image take the same time for every size of the kernel.
//
// Vectors hold the same pixel of kLanes channels (depthwise) or of kLanes images. A plane is
// transformed with padding zeros, multiplied by the spectrum of the taps, or in grad_weight of gy,
// and transformed back. cpu/fft_size.h has the sizes, transforms-inl.h the transforms.
//
// Rounding errors are smaller than those of the direct sum, but relative to the largest values of a
// plane. Planes with a loud pixel, or with results that are not finite, are computed by the direct
// sum (redo-inl.h), so the kernels run under precision "high".
#pragma once

#include "cpu/algos/fft/correlate-inl.h"
#include "cpu/algos/fft/grad_weight-inl.h"

namespace convkern::cpu {
namespace {
namespace fft {

// Makes a plan of class PassPlan, or says why fft does not compute the problem.
template <class PassPlan>
Planned plan_if_it_fits(const Problem& p) {
  const bool is_planned = p.dtype == kDType && beyond_plans(p) == Reason::none;
  if (is_planned && !FftSize(p).fits()) return Reason::kernel_size;
  return plan_with_direct<PassPlan>(p);
}

constexpr Algorithm algorithm = {"fft",
                                 plan_if_it_fits<Correlate<true>>,
                                 plan_if_it_fits<Correlate<false>>,
                                 plan_if_it_fits<GradWeight>,
                                 choice::fft_declines,
                                 Precision::high};

}  // namespace fft
}  // namespace
}  // namespace convkern::cpu
