// Replaces CUDA's header of this name when kernels are compiled for the simulator. It has the parts
// of the language and of the runtime that the kernels use.
#pragma once

#include <cmath>
#include <cstring>

#include "simulator.h"

#define __global__
#define __device__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)

#define threadIdx (simulator::thread_index())
#define blockIdx (simulator::block_index())
#define gridDim (simulator::grid_size())

struct alignas(16) float4 {
  float x, y, z, w;
};

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  simulator::block_barrier(file, line);
}
inline void __syncwarp(unsigned mask = 0xffffffff) { simulator::warp_barrier(mask); }

namespace simulator {

template <class T>
T from_lane(unsigned mask, T value, int source) {
  const char* values = exchange(mask, &value, sizeof(T));
  if (!(mask >> source & 1)) fail("a shuffle reads a lane that its mask leaves out");
  std::memcpy(&value, values + source * kLaneBytes, sizeof(T));
  return value;
}

}  // namespace simulator

template <class T>
T __shfl_sync(unsigned mask, T value, int source) {
  return simulator::from_lane(mask, value, source & 31);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
  return simulator::from_lane(mask, value, (simulator::lane() ^ bits) & 31);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by) {
  const int source = simulator::lane() + static_cast<int>(by);
  return simulator::from_lane(mask, value, source > 31 ? simulator::lane() : source);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const char* values = simulator::exchange(mask, &predicate, sizeof(predicate));
  unsigned ballot = 0;
  for (int lane = 0; lane < simulator::kWarp; ++lane) {
    int given;
    std::memcpy(&given, values + lane * simulator::kLaneBytes, sizeof(given));
    if (mask >> lane & 1 && given != 0) ballot |= 1u << lane;
  }
  return ballot;
}
