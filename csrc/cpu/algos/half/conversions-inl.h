// Converts arrays of 16-bit numbers to float32 and back, and interleaves planes of bfloat16 into
// pairs. The functions that take an executor are parallel over the elements.
#pragma once

#include "cpu/tiles/epilogue-inl.h"

namespace convkern::cpu {
namespace {
namespace half {

constexpr int64_t kGrain = 1 << 15;  // fewer numbers are not worth waking a thread

// Calls convert(from, to) for n numbers, a vector at a time. The last vector is moved through
// buffers if there are fewer.
template <class From, class To, class Convert>
CONVKERN_INLINE void for_each_vector_of(const From* from, int64_t n, To* to,
                                        const Convert& convert) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) convert(from + i, to + i);
  if (i == n) return;
  From some[kLanes] = {};
  To converted[kLanes];
  std::memcpy(some, from + i, (n - i) * sizeof(From));
  convert(some, converted);
  std::memcpy(to + i, converted, (n - i) * sizeof(To));
}

template <class Number>
void widen_numbers(const uint16_t* from, int64_t n, float* to) {
  for_each_vector_of(from, n, to, [](const uint16_t* p, float* at) CONVKERN_INLINE_LAMBDA {
    load_vector(reinterpret_cast<const Number*>(p)).store_unaligned(at);
  });
}

template <class Number>
void narrow_numbers(const float* from, int64_t n, uint16_t* to) {
  for_each_vector_of(from, n, to, [](const float* p, uint16_t* at) CONVKERN_INLINE_LAMBDA {
    store_vector(reinterpret_cast<Number*>(at), Vec::load_unaligned(p));
  });
}

// These return the functions that convert numbers of a dtype of 16 bits.
constexpr auto widening(DType dtype) {
  return dtype == DType::bf16 ? widen_numbers<BFloat16> : widen_numbers<Half>;
}
constexpr auto narrowing(DType dtype) {
  return dtype == DType::bf16 ? narrow_numbers<BFloat16> : narrow_numbers<Half>;
}

void widen(DType dtype, const uint16_t* from, int64_t n, float* to, const Executor& executor) {
  const auto convert = widening(dtype);
  executor.run(n, kGrain, [&](int64_t begin, int64_t end, int) {
    convert(from + begin, end - begin, to + begin);
  });
}

void narrow(DType dtype, const float* from, int64_t n, uint16_t* to, const Executor& executor) {
  const auto convert = narrowing(dtype);
  executor.run(n, kGrain, [&](int64_t begin, int64_t end, int) {
    convert(from + begin, end - begin, to + begin);
  });
}

// Finishes n results of the forward pass: activation(sum + residual). The sums are rounded already
// and are in `out` where `sums` is null. `residual` may be null.
void finish(const Problem& p, float* sums, const uint16_t* residual, int64_t n, uint16_t* out,
            const Executor& executor) {
  const auto to_float = widening(p.dtype);
  const auto from_float = narrowing(p.dtype);
  executor.run(n, kGrain, [&](int64_t begin, int64_t end, int) {
    constexpr int64_t kPart = 512;  // numbers converted at a time, which stay in the L1 cache
    float wide_sums[kPart], wide_residual[kPart];
    for (int64_t i = begin, count; i < end; i += count) {
      count = std::min(kPart, end - i);
      float* at = sums == nullptr ? wide_sums : sums + i;
      if (sums == nullptr) to_float(out + i, count, at);
      if (residual != nullptr) to_float(residual + i, count, wide_residual);
      Epilogue(p.activation, residual == nullptr ? nullptr : wide_residual, at)
          .finish(at, 1, 0, count);
      from_float(at, count, out + i);
    }
  });
}

void add(const float* terms, int64_t n, float* sums, const Executor& executor) {
  executor.run(n, kGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) sums[i] += terms[i];
  });
}

// Interleaves planes of `size` numbers. Planes 2i and 2i + 1 become plane i of pairs, with the
// number of plane 2i + 1 in the higher half. If `planes` is odd, the last plane is paired with
// zeros.
inline void pair_planes(const uint16_t* from, int64_t planes, int64_t size, uint32_t* to,
                        const Executor& executor) {
  const int64_t count = ceil_div(planes, 2) * size;
  executor.run(count, kGrain, [&](int64_t begin, int64_t end, int) {
    if (size == 1 && planes % 2 == 0) {  // numbers to be paired are adjacent already
      std::memcpy(to + begin, from + 2 * begin, (end - begin) * sizeof(*to));
      return;
    }
    int64_t pair = begin / size, first = begin % size;
    for (int64_t n; begin < end; begin += n, ++pair, first = 0) {
      n = std::min(end - begin, size - first);
      const uint16_t* low = from + 2 * pair * size + first;
      const uint16_t* high = low + size;
      uint32_t* at = to + begin;
      if (2 * pair + 1 < planes) {
        for (int64_t i = 0; i < n; ++i) at[i] = low[i] | static_cast<uint32_t>(high[i]) << 16;
      } else {
        for (int64_t i = 0; i < n; ++i) at[i] = low[i];
      }
    }
  });
}

}  // namespace half
}  // namespace
}  // namespace convkern::cpu
