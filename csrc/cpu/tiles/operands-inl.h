// What the register tiles say about their operands.
#pragma once

#include "cpu/simd/vec.h"

namespace convkern::cpu {
namespace {

// The sums of a tile start with zero, with a bias, or with what the outputs are in memory.
enum class Init { zero, bias, accumulate };

// Vectors, or single numbers that all lanes read, at (plane, row, column) of `at`. The strides are
// in floats.
template <class Float>
struct View {
  Float* at;
  int64_t plane, row;
};

}  // namespace
}  // namespace convkern::cpu
