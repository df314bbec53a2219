// The float64 kernels compiled for any processor.
#include "cpu/isa/outside.h"

#include "cpu/simd/real_f64.h"
#include "cpu/simd/vec_baseline.h"
#include "cpu/algos/direct-inl.h"

namespace convkern::cpu {
const Kernel f64_baseline[12] = {CONVKERN_F64_KERNELS(baseline)};
}
