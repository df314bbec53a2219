// The vectors and algorithms that follow are float64.
#pragma once

#include "core/problem.h"
#include "cpu/simd/quarter.h"

namespace convkern::cpu {
namespace {

using Real = double;
using Quarter = DoubleQuarter;
constexpr DType kDType = DType::f64;

}  // namespace
}  // namespace convkern::cpu
