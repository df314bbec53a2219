// The float64 kernels for AVX-512, modulo p.
#define CONVKERN_MOD_DTYPE f64
#define CONVKERN_MOD_LANES 8
#define CONVKERN_MOD_TILES kAvx512Tiles
#define CONVKERN_VEC "vec_mod.h"
#include "cpu/algos/kernels-inl.h"
#include "../kernels.h"

namespace convkern::cpu {
static const AddKernels added({Algorithms::kAll, KernelDType::f64, Isa::avx512, kLanes});
}
