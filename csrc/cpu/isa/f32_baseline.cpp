// The float32 kernels, and bfloat16 and float16 through them, compiled for any processor.
#define CONVKERN_VEC "cpu/simd/vec_f32_baseline.h"
#include "cpu/simd/prelude.h"

#include "cpu/algos/half/kernels-inl.h"
#include "cpu/algos/kernels-inl.h"
#include "cpu/peak-inl.h"

namespace convkern::cpu {
const CompiledAlgorithms f32_baseline = {Algorithms::kAll, KernelDType::f32, Isa::baseline, kLanes};
const CompiledAlgorithms half_baseline = {HalfAlgorithms::kAll, KernelDType::half, Isa::baseline,
                                          kLanes};
const PeakLoop peak_baseline = kPeakLoop;
}  // namespace convkern::cpu
