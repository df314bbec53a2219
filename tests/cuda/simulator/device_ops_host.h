// The simulator's versions of the operations that csrc/cuda/device_ops.cuh writes in PTX.
#pragma once

#include <vector>

#include "core/scalar_types.h"
#include "cuda_runtime.h"

namespace convkern::cuda {

template <class T>
T* dynamic_shared() {
  return static_cast<T*>(simulator::shared_memory());
}

inline void check_aligned(const void* p, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(p) % bytes != 0) simulator::fail("a misaligned access");
}

inline float4 load4(const float* p) {
  check_aligned(p, sizeof(float4));
  return {p[0], p[1], p[2], p[3]};
}

template <class S>
void load_quad(const S* p, S* to) {
  check_aligned(p, 16);
  for (int i = 0; i < 4; ++i) to[i] = p[i];
}

inline float multiply_add(float a, float b, float c) { return std::fma(a, b, c); }
inline double multiply_add(double a, double b, double c) { return std::fma(a, b, c); }

template <int kBytes>
void copy_async(void* to, const void* from, int size) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  check_aligned(to, kBytes);
  check_aligned(from, kBytes);
  simulator::copy_async(to, from, kBytes, size);
}
inline void commit_copies() { simulator::commit_copies(); }
template <int kGroupsLeft>
void wait_for_copies() {
  simulator::wait_for_copies(kGroupsLeft);
}

template <class Element>
void load_two(const Element* p, float (&to)[2]) {
  check_aligned(p, 2 * sizeof(Element));
  for (int i = 0; i < 2; ++i) to[i] = static_cast<float>(to_double(p[i]));
}

inline void store4(float* p, const float (&values)[4]) {
  check_aligned(p, sizeof(float4));
  std::memcpy(p, values, sizeof(values));
}

inline void store16(void* to, const uint32_t (&words)[4]) {
  check_aligned(to, sizeof(words));
  std::memcpy(to, words, sizeof(words));
}

template <class Element>
float to_float(Element value) {
  return static_cast<float>(to_double(value));
}
template <class Element>
Element from_float(float value) {
  return from_double<Element>(value);
}

// The values that all lanes of a warp have given, in the order of lanes.
template <class Given>
struct OfLanes {
  Given lanes[simulator::kWarp];

  explicit OfLanes(const Given& mine) {
    const char* all = simulator::exchange(0xffffffff, &mine, sizeof(mine));
    for (int lane = 0; lane < simulator::kWarp; ++lane) {
      std::memcpy(&lanes[lane], all + lane * simulator::kLaneBytes, sizeof(mine));
    }
  }
};

// The rows of the four matrices that ldmatrix loads one after the other. Each matrix must use all
// banks, which are 128 bytes.
inline OfLanes<const void*> matrix_rows(const void* row) {
  check_aligned(row, 16);
  const OfLanes<const void*> rows(row);
  for (int matrix = 0; matrix < simulator::kWarp; matrix += 8) {
    unsigned banks = 0;
    for (int i = 0; i < 8; ++i) {
      banks |= 1u << (reinterpret_cast<uintptr_t>(rows.lanes[matrix + i]) / 16 % 8);
    }
    if (banks != 0xff) simulator::fail("rows of a matrix are in the same banks");
  }
  return rows;
}

// The lane that gets the bytes reads them from shared memory, so that sanitizers see its accesses.
inline void load_matrices(uint32_t (&to)[4], const void* row) {
  const OfLanes<const void*> rows = matrix_rows(row);
  const int lane = simulator::lane();
  for (int i = 0; i < 4; ++i) {
    to[i] = static_cast<const uint32_t*>(rows.lanes[8 * i + lane / 4])[lane % 4];
  }
}
inline void load_matrices_transposed(uint32_t (&to)[4], const void* row) {
  const OfLanes<const void*> rows = matrix_rows(row);
  const int lane = simulator::lane();
  for (int i = 0; i < 4; ++i) {
    to[i] = 0;
    for (int k = 0; k < 2; ++k) {
      const void* from = rows.lanes[8 * i + lane % 4 * 2 + k];
      to[i] |= static_cast<uint32_t>(static_cast<const uint16_t*>(from)[lane / 4]) << (16 * k);
    }
  }
}

inline uint32_t round_to_tf32(uint32_t bits) {
  const bool finite = (bits & 0x7f800000) != 0x7f800000;
  return finite ? (bits + 0x1000) & 0xffffe000 : bits;
}

// The terms that a register of mma holds.
inline float term_of(uint32_t word, int, float) {
  const uint32_t bits = word & 0xffffe000;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline float term_of(uint32_t word, int i, BFloat16) {
  return to_float(BFloat16{static_cast<uint16_t>(word >> (16 * i))});
}
inline float term_of(uint32_t word, int i, Half) {
  static const std::vector<float> values = [] {  // to_double() would take most of the tests' time
    std::vector<float> all(1 << 16);
    for (size_t bits = 0; bits < all.size(); ++bits) {
      all[bits] = to_float(Half{static_cast<uint16_t>(bits)});
    }
    return all;
  }();
  return values[word >> (16 * i) & 0xffff];
}

// Products are exact, and sums are rounded to float.
template <class Element>
void mma(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  struct Given {
    uint32_t a[4], b[2];
  };
  const OfLanes<Given> given({{a[0], a[1], a[2], a[3]}, {b[0], b[1]}});
  constexpr int kWordTerms = 4 / sizeof(Element), kHalf = 4 * kWordTerms;
  const int lane = simulator::lane();
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    for (int term = 0; term < 2 * kHalf; ++term) {
      const int half = term / kHalf, word = term % kHalf / kWordTerms, slot = term % kWordTerms;
      const uint32_t of_row = given.lanes[row % 8 * 4 + word].a[row / 8 + 2 * half];
      const uint32_t of_column = given.lanes[column * 4 + word].b[half];
      sums[i] += term_of(of_row, slot, Element{}) * term_of(of_column, slot, Element{});
    }
  }
}

}  // namespace convkern::cuda
