// implicit_gemm_mma: bfloat16 and float16 convolutions of many channels, and float32 ones whose
// operands may be rounded to TF32, as matrix products on tensor cores (mma.sync, compute capability
// 8.0 and later), summed in float32. See correlate.cuh and grad_weight.cuh.
#include "cuda/efficiency.h"
#include "cuda/implicit_gemm_mma/run_correlation.h"
#include "cuda/implicit_gemm_mma/run_grad_weight.h"
#include "cuda/kernel_list.h"

namespace convkern::cuda {
namespace implicit_gemm_mma {
namespace {

template <DType kDType>
Reason supports(const Problem& p) {
  if (p.dtype != kDType) return Reason::dtype;
  return p.empty() ? Reason::empty : counts_in_ints(p);
}

template <class Element>
Reason declines(const Problem& p) {
  return leaves_to_direct(p, sizeof(Element) == sizeof(float) ? kTf32Gemm : kHalfGemm);
}

template <DType kDType, class Element>
Kernel row(const char* name, Pass pass) {
  const bool weights = pass == Pass::grad_weight;
  return {name,
          pass,
          Isa::baseline,
          true,
          supports<kDType>,
          weights ? weight_workspace<Element> : correlation_workspace<Element>,
          weights ? grad_weight<Element> : correlation<Element>,
          declines<Element>,
          kDType == DType::f32 ? Precision::tf32 : Precision::highest};
}
constexpr auto bf16 = row<DType::bf16, BFloat16>;
constexpr auto f16 = row<DType::f16, Half>;
constexpr auto f32 = row<DType::f32, float>;

}  // namespace
}  // namespace implicit_gemm_mma

const Kernel implicit_gemm_mma_kernels[9] = {
    implicit_gemm_mma::bf16("fwd.implicit_gemm_mma.any.bf16.cuda", Pass::forward),
    implicit_gemm_mma::bf16("gx.implicit_gemm_mma.any.bf16.cuda", Pass::grad_input),
    implicit_gemm_mma::bf16("gw.implicit_gemm_mma.any.bf16.cuda", Pass::grad_weight),
    implicit_gemm_mma::f16("fwd.implicit_gemm_mma.any.f16.cuda", Pass::forward),
    implicit_gemm_mma::f16("gx.implicit_gemm_mma.any.f16.cuda", Pass::grad_input),
    implicit_gemm_mma::f16("gw.implicit_gemm_mma.any.f16.cuda", Pass::grad_weight),
    implicit_gemm_mma::f32("fwd.implicit_gemm_mma.any.f32.cuda", Pass::forward),
    implicit_gemm_mma::f32("gx.implicit_gemm_mma.any.f32.cuda", Pass::grad_input),
    implicit_gemm_mma::f32("gw.implicit_gemm_mma.any.f32.cuda", Pass::grad_weight),
};

}  // namespace convkern::cuda
