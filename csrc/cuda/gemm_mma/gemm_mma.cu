// implicit_gemm_mma: convolution with many channels as matrix products on tensor cores (mma.sync,
// compute capability 8.0 and later). It is for bfloat16, float16, and float32 whose operands may be
// rounded to TF32. Sums are in float32. It computes both layouts and any stride and dilation. Sizes
// and numbers of blocks must fit int.
//
// The kernels are in correlate.cuh (forward and grad_input) and grad_weight.cuh. A block computes
// one tile of results, or one split of its sum.
#include "cuda/choice.h"
#include "cuda/gemm_mma/run_correlation.h"
#include "cuda/gemm_mma/run_grad_weight.h"
#include "cuda/kernel_list.h"

namespace convkern::cuda {
namespace implicit_gemm_mma {
namespace {

template <DType kDType, class Element>
constexpr Algorithm algorithm() {
  constexpr MakePlan kCorrelation = plan_gemm<kDType, Correlations<Element>>;
  return {"implicit_gemm_mma",
          kCorrelation,
          kCorrelation,
          plan_gemm<kDType, GradWeight<Element>>,
          choice::implicit_gemm_mma_declines,
          kDType == DType::f32 ? Precision::tf32 : Precision::highest};
}

}  // namespace
}  // namespace implicit_gemm_mma

void add_implicit_gemm_mma(std::vector<Kernel>& kernels) {
  using implicit_gemm_mma::algorithm;
  add_kernels(algorithm<DType::bf16, BFloat16>(), KernelDType::bf16, kernels);
  add_kernels(algorithm<DType::f16, Half>(), KernelDType::f16, kernels);
  add_kernels(algorithm<DType::f32, float>(), KernelDType::f32, kernels);
}

}  // namespace convkern::cuda
