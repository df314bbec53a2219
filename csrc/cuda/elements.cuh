// Kernels with one thread for each element. Threads loop if there are more elements than threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/launch.cuh"

namespace convkern::cuda {

constexpr int kElementThreads = 256;  // in a block
constexpr int64_t kMostBlocks = 1 << 20;

inline LaunchShape element_shape(int64_t size) {
  const int64_t blocks = (size + kElementThreads - 1) / kElementThreads;
  return {dim3(static_cast<unsigned>(std::min(kMostBlocks, blocks))), kElementThreads};
}

template <class Number, class Body>
__device__ __forceinline__ void for_each_element_of(Number size, const Body& body) {
  const Number step = static_cast<Number>(gridDim.x) * kElementThreads;
  for (Number index = static_cast<Number>(blockIdx.x) * kElementThreads + threadIdx.x; index < size;
       index += step) {
    body(index);
  }
}

// Calls body(index) for the thread's elements of [0, size). Indices have 32 bits where they fit.
// The bodies divide them, and a division of 64-bit numbers takes several times as long.
template <class Body>
__device__ __forceinline__ void for_each_element(int64_t size, const Body& body) {
  if (size <= INT32_MAX) {
    for_each_element_of(static_cast<uint32_t>(size), body);
  } else {
    for_each_element_of(size, body);
  }
}

}  // namespace convkern::cuda
