// Makes the vectors and algorithms that are included after this file compute in float64.
#pragma once

#include "cpu/simd/prelude.h"

#define CONVKERN_REAL

namespace convkern::cpu {
namespace {

using Real = double;
using Quarter = DoubleQuarter;
constexpr DType kDType = DType::f64;

}  // namespace
}  // namespace convkern::cpu
