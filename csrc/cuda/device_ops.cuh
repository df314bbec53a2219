// What kernels say to the device beyond CUDA C++: inline PTX, and accesses that must be of a
// certain width. The simulator has a definition of each of its own (tests/cuda/simulator).
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

__device__ __forceinline__ void store4(float* p, const float (&values)[4]) {
  *reinterpret_cast<float4*>(p) = make_float4(values[0], values[1], values[2], values[3]);
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

// 16 bytes, so aligned, in one access.
__device__ __forceinline__ void store16(void* to, const uint32_t (&words)[4]) {
  *static_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
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

// Loads four matrices of 8 rows of 16 bytes from shared memory, of which lane 8 * i + r gives the
// address of row r of matrix i. Lane l gets the bytes 4 * (l % 4) to 4 * (l % 4) + 3 of row l / 4
// of each.
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
               : "memory");
}
// Loads matrices of 16-bit elements, transposed: lane l gets element l / 4 of rows 2 * (l % 4) and
// 2 * (l % 4) + 1.
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
               : "memory");
}

// The bits of a float rounded to the nearest of TF32, which has 10 bits after the point; halves
// away from zero.
__device__ __forceinline__ uint32_t round_to_tf32(uint32_t bits) {
  uint32_t result;
  asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(result) : "f"(__uint_as_float(bits)));
  return result;
}

// A warp's sums (16 x 8) += a (16 x terms) * b (terms x 8) in float32, of 16 terms, or of 8 floats
// as TF32, whose further bits are ignored. Of lane l, sums[i] is in row l / 4 + i / 2 * 8 and
// column l % 4 * 2 + i % 2; a[i] holds the terms of row l / 4 + i % 2 * 8 that fill word l % 4 + i
// / 2 * 4; b[i] those of column l / 4 that fill word l % 4 + i * 4.
template <class Element>
__device__ void mma(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
template <>
__device__ __forceinline__ void mma<BFloat16>(float (&sums)[4], const uint32_t (&a)[4],
                                              const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
__device__ __forceinline__ void mma<Half>(float (&sums)[4], const uint32_t (&a)[4],
                                          const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
__device__ __forceinline__ void mma<float>(float (&sums)[4], const uint32_t (&a)[4],
                                           const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

}  // namespace convkern::cuda
#endif
