// What kernels say to the device beyond CUDA C++: inline PTX, and accesses that must be of a
// certain width. The simulator has a definition of each of its own (tests/simulator).
#pragma once

#include <cstdint>

#include "core/scalar_types.h"

#if defined(CONVKERN_SIMULATOR)
#include "device_ops_host.h"
#else
#include <cuda_runtime.h>

namespace convkern::cuda {

// The block's dynamic shared memory, 16-byte aligned.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ float4 shared[];
  return reinterpret_cast<T*>(shared);
}

// Four floats, 16-byte aligned, in one access.
__device__ __forceinline__ float4 load4(const float* p) {
  return *reinterpret_cast<const float4*>(p);
}

// Four elements, 16-byte aligned, in accesses of 16 bytes.
__device__ __forceinline__ void load_quad(const float* p, float* to) {
  const float4 four = load4(p);
  to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
}
__device__ __forceinline__ void load_quad(const double* p, double* to) {
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const double2 two = *reinterpret_cast<const double2*>(p + i);
    to[i] = two.x, to[i + 1] = two.y;
  }
}

// One rounding.
__device__ __forceinline__ float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
__device__ __forceinline__ double multiply_add(double a, double b, double c) {
  return fma(a, b, c);
}

// Begins to copy kBytes to shared memory, of which those beyond `size` are zeros and are not read;
// both addresses are aligned to kBytes (compute capability 8.0).
template <int kBytes>
__device__ __forceinline__ void copy_async(void* to, const void* from, int size) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  const auto shared = static_cast<unsigned>(__cvta_generic_to_shared(to));
  if constexpr (kBytes == 16) {  // past L1, which has no use for it
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared), "l"(from),
                 "r"(size)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;\n" ::"r"(shared), "l"(from),
                 "n"(kBytes), "r"(size)
                 : "memory");
  }
}
// Closes the group of the copies that the thread began since the last.
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;\n" ::: "memory");
}
// Waits until at most the last kGroupsLeft groups of the thread are under way.
template <int kGroupsLeft>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kGroupsLeft) : "memory");
}

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(BFloat16 value) {
  return __uint_as_float(static_cast<uint32_t>(value.bits) << 16);
}
__device__ __forceinline__ float to_float(Half value) {
  float result;
  asm("cvt.f32.f16 %0, %1;\n" : "=f"(result) : "h"(value.bits));
  return result;
}

// Rounded to nearest even.
template <class Element>
__device__ Element from_float(float value);
template <>
__device__ __forceinline__ float from_float(float value) {
  return value;
}
template <>
__device__ __forceinline__ BFloat16 from_float(float value) {
  BFloat16 result;
  asm("cvt.rn.bf16.f32 %0, %1;\n" : "=h"(result.bits) : "f"(value));
  return result;
}
template <>
__device__ __forceinline__ Half from_float(float value) {
  Half result;
  asm("cvt.rn.f16.f32 %0, %1;\n" : "=h"(result.bits) : "f"(value));
  return result;
}

}  // namespace convkern::cuda
#endif
