// Kernels of one thread an element, which strides over what the grid does not hold.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/launch.cuh"

namespace convkern::cuda {

constexpr int kElementThreads = 256;  // of a block
constexpr int64_t kMostBlocks = 1 << 20;

inline LaunchShape element_shape(int64_t size) {
  const int64_t blocks = (size + kElementThreads - 1) / kElementThreads;
  return {dim3(static_cast<unsigned>(std::min(kMostBlocks, blocks))), kElementThreads};
}

// Calls body(index) for the thread's elements of [0, size).
template <class Body>
__device__ __forceinline__ void for_each_element(int64_t size, const Body& body) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kElementThreads;
  for (int64_t index = static_cast<int64_t>(blockIdx.x) * kElementThreads + threadIdx.x;
       index < size; index += step) {
    body(index);
  }
}

}  // namespace convkern::cuda
