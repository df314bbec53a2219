// How the register tiles describe their operands.
#pragma once

#include "cpu/simd/vec.h"

namespace convkern::cpu {
namespace {

// A tile's sums start with zero, with a bias, or with the outputs that are already in memory.
enum class Init { zero, bias, accumulate };

// An operand in memory: the number or vector at (plane, row, column). A single number is used for
// all lanes. Strides are in floats.
template <class Float>
struct View {
  Float* at;
  int64_t plane, row;
};

}  // namespace
}  // namespace convkern::cpu
