// The float64 kernels compiled for any processor.
#define CONVKERN_VEC "cpu/simd/vec_f64_baseline.h"
#include "cpu/simd/prelude.h"

#include "cpu/algos/kernels-inl.h"

namespace convkern::cpu {
const CompiledAlgorithms f64_baseline = {Algorithms::kAll, KernelDType::f64, Isa::baseline, kLanes};
}  // namespace convkern::cpu
