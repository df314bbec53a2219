// Makes the vectors and algorithms that are included after this file compute in float32.
#pragma once

#include "cpu/simd/prelude.h"

#define CONVKERN_REAL

namespace convkern::cpu {
namespace {

using Real = float;
using Quarter = FloatQuarter;
constexpr DType kDType = DType::f32;
constexpr uint32_t kBFloat16NaN = 0x7fc00000;  // as a float32: all NaN are rounded to this one

}  // namespace
}  // namespace convkern::cpu
