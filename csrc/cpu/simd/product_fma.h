// In the implicit GEMMs compiled with this file, a product is that of two numbers in each lane.
// Results are stored without rounding.
#pragma once

#include "cpu/simd/vec.h"

namespace convkern::cpu {
namespace {

CONVKERN_INLINE Vec add_product(Vec a, Vec b, Vec sum) { return fma(a, b, sum); }

using Result = Real;  // the type in memory of y and gx

}  // namespace
}  // namespace convkern::cpu
