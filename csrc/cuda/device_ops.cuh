// What kernels say to the device beyond CUDA C++: inline PTX, and accesses that must be of a
// certain width. The simulator has a definition of each of its own (tests/simulator).
#pragma once

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

// Begins to copy kBytes to shared memory, of which those beyond `size` are zeros and are not read;
// both addresses are aligned to kBytes (compute capability 8.0).
template <int kBytes>
__device__ __forceinline__ void copy_async(void* to, const void* from, int size) {
  static_assert(kBytes == 4 || kBytes == 16);
  const auto shared = static_cast<unsigned>(__cvta_generic_to_shared(to));
  if constexpr (kBytes == 16) {  // past L1, which has no use for it
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared), "l"(from),
                 "r"(size)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(shared), "l"(from),
                 "r"(size)
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

}  // namespace convkern::cuda
#endif
