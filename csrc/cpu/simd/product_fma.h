// A product of the implicit GEMMs is that of two numbers a lane; results are stored as they are.
#pragma once

#include "cpu/simd/vec.h"

namespace convkern::cpu {
namespace {

CONVKERN_INLINE Vec add_product(Vec a, Vec b, Vec sum) { return fma(a, b, sum); }

using Result = Real;  // of forward and grad_input, in memory

}  // namespace
}  // namespace convkern::cpu
