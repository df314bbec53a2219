// What csrc/cuda/device_ops.cuh says in PTX, for the simulator.
#pragma once

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

template <class Element>
float to_float(Element value) {
  return static_cast<float>(to_double(value));
}
template <class Element>
Element from_float(float value) {
  return from_double<Element>(value);
}

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

}  // namespace convkern::cuda
