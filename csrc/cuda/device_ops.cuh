// Device operations beyond CUDA C++: inline PTX, and memory accesses that must have a certain
// width. The simulator defines each of them anew (tests/cuda/simulator).
#pragma once

#include <cstdint>

#include "core/scalar_types.h"

#if defined(CONVKERN_SIMULATOR)
#include "device_ops_host.h"
#else
#include <cuda_runtime.h>

namespace convkern::cuda {

// Returns the block's dynamic shared memory, which is aligned to 16 bytes.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ float4 shared[];
  return reinterpret_cast<T*>(shared);
}

// Loads or stores four floats in one access. The address is aligned to 16 bytes.
__device__ __forceinline__ float4 load4(const float* p) {
  return *reinterpret_cast<const float4*>(p);
}

__device__ __forceinline__ void store4(float* p, const float (&values)[4]) {
  *reinterpret_cast<float4*>(p) = make_float4(values[0], values[1], values[2], values[3]);
}

// Loads four elements in accesses of 16 bytes. The address is aligned to 16 bytes.
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

// Returns a * b + c with one rounding.
__device__ __forceinline__ float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
__device__ __forceinline__ double multiply_add(double a, double b, double c) {
  return fma(a, b, c);
}

// Begins to copy kBytes to shared memory. Bytes beyond `size` become zeros and are not read. Both
// addresses are aligned to kBytes. This needs compute capability 8.0.
template <int kBytes>
__device__ __forceinline__ void copy_async(void* to, const void* from, int size) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  const auto shared = static_cast<unsigned>(__cvta_generic_to_shared(to));
  if constexpr (kBytes == 16) {  // bypasses L1, where it would not be reused
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared), "l"(from),
                 "r"(size)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;\n" ::"r"(shared), "l"(from),
                 "n"(kBytes), "r"(size)
                 : "memory");
  }
}
// Closes a group with the copies that the thread began since the previous group.
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;\n" ::: "memory");
}
// Waits until only the thread's last kGroupsLeft groups may still be under way.
template <int kGroupsLeft>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kGroupsLeft) : "memory");
}

// Stores 16 bytes in one access. The address is aligned to 16 bytes.
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

// Loads two elements in one access. The address is aligned to the size of both.
__device__ __forceinline__ void load_two(const float* p, float (&to)[2]) {
  const float2 two = *reinterpret_cast<const float2*>(p);
  to[0] = two.x, to[1] = two.y;
}
template <class Half16>
__device__ __forceinline__ void load_two(const Half16* p, float (&to)[2]) {
  const uint32_t two = *reinterpret_cast<const uint32_t*>(p);
  to[0] = to_float(Half16{static_cast<uint16_t>(two)});
  to[1] = to_float(Half16{static_cast<uint16_t>(two >> 16)});
}

// Rounds to nearest even.
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

// Loads four matrices, each of 8 rows of 16 bytes, from shared memory. Lane 8 * i + r gives the
// address of row r of matrix i. Lane l gets the bytes 4 * (l % 4) to 4 * (l % 4) + 3 of row l / 4
// of each matrix.
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
               : "memory");
}
// Loads four matrices of 16-bit elements and transposes them. Lane l gets element l / 4 of the rows
// 2 * (l % 4) and 2 * (l % 4) + 1.
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
               : "memory");
}

// Returns the bits of a float rounded to the nearest TF32 number, which has 10 bits after the
// point. Ties round away from zero.
__device__ __forceinline__ uint32_t round_to_tf32(uint32_t bits) {
  uint32_t result;
  asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(result) : "f"(__uint_as_float(bits)));
  return result;
}

// Adds a matrix product to a warp's sums in float32: sums (16 x 8) += a (16 x terms) * b (terms x
// 8). There are 16 terms of 16 bits, or 8 floats, of which TF32 ignores the lower bits. In lane l,
// sums[i] is in row l / 4 + i / 2 * 8 and column l % 4 * 2 + i % 2. a[i] holds the terms of row l /
// 4 + i % 2 * 8 that fill word l % 4 + i / 2 * 4. b[i] holds the terms of column l / 4 that fill
// word l % 4 + i * 4.
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
