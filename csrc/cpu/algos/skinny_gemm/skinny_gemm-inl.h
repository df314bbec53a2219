// skinny_gemm: matrix products one side of which is short: few output channels, few images, or few
// input channels of a 1x1 kernel. Operands are read where they lie, except for the windows of
// patches and for weights whose order differs from that of x. A GEMM that packs panels
// (implicit_gemm) would take longer to pack than to multiply, and leaves lanes empty where the
// channels do not fill a vector. Such layers are a classifier or a discriminator's last layer (a
// kernel as large as the image), the projections of a 1x1 kernel to or from RGB, and patch
// embeddings with few channels.
#pragma once

#include "cpu/algos/skinny_gemm/correlate-inl.h"
#include "cpu/algos/skinny_gemm/grad_weight-inl.h"

namespace convkern::cpu {
namespace {
namespace skinny_gemm {

template <Pass kPass>
Planned plan(const Problem& p) {
  if (p.dtype != kDType) return Reason::dtype;
  const Reason beyond = beyond_plans(p);
  if (beyond != Reason::none) return beyond;
  // The channels of a pixel in NCHW are far apart.
  const bool adjacent = p.layout == Layout::nhwc || p.R * p.S > 1 || p.H * p.W == 1;
  if (p.groups > 1 || !p.windows_tile_image() || !adjacent) return Reason::not_a_product;
  if constexpr (kPass == Pass::grad_weight) return plan_pass<GradWeight>(p);
  const bool shrinks = (kPass == Pass::forward) != Matrices(p).turned;
  return shrinks ? plan_pass<Correlate<Shrink>>(p) : plan_pass<Correlate<Spread>>(p);
}

constexpr Algorithm algorithm = {"skinny_gemm", plan<Pass::forward>, plan<Pass::grad_input>,
                                 plan<Pass::grad_weight>, choice::skinny_gemm_declines};

}  // namespace skinny_gemm
}  // namespace
}  // namespace convkern::cpu
