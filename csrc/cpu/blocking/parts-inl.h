// Near-equal parts of a range, and sizes rounded up to whole vectors and cache lines.
#pragma once

#include "cpu/simd/vec.h"

namespace convkern::cpu {
namespace {

// Returns the i-th of `parts` near-equal parts of [0, n).
inline Range near_equal_part(int64_t n, int64_t parts, int64_t i) {
  return {n * i / parts, n * (i + 1) / parts};
}

// Cuts n into the fewest near-equal blocks of at most `most` each, and returns the size of the
// largest.
inline int64_t near_equal_block(int64_t n, int64_t most) {
  return ceil_div(n, std::max<int64_t>(1, ceil_div(n, most)));
}

// Returns the floats of the whole vectors that hold `floats` floats.
inline int64_t whole_vectors(int64_t floats) { return ceil_div(floats, kLanes) * kLanes; }

// Returns the bytes of `floats` floats, rounded up to 64-byte cache lines so that the buffer after
// them is aligned too.
inline int64_t whole_lines(int64_t floats) {
  return ceil_div(floats * static_cast<int64_t>(sizeof(Real)), 64) * 64;
}

inline void set_zero(Real* at, int64_t floats) { std::memset(at, 0, floats * sizeof(Real)); }

}  // namespace
}  // namespace convkern::cpu
