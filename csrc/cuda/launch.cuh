// Launches kernels on the executor's stream or in the simulator.
#pragma once

#include <cstdint>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>

#include "core/executor.h"
#include "cuda/device_ops.cuh"

namespace convkern::cuda {

struct LaunchShape {
  dim3 grid;
  int threads;           // in a block
  int shared_bytes = 0;  // dynamic, of a block
};

constexpr int kSharedWithoutAsking = 48 << 10;  // bytes of dynamic shared memory

#if defined(CONVKERN_SIMULATOR)

inline int multiprocessors() { return simulator::kMultiprocessors; }

template <class... Parameters>
void launch(void (*kernel)(Parameters...), const LaunchShape& shape, const Executor&,
            const Parameters&... arguments) {
  simulator::launch(shape.grid, dim3(shape.threads), shape.shared_bytes,
                    [&] { kernel(arguments...); });
}

#else

inline void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());  // resets the error, which torch's next check would report
  throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
}

// Returns the number of multiprocessors of the current device.
inline int multiprocessors() {
  int device = 0, count = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

// Lets the kernel use as much shared memory as a block of the current device may have. The limit is
// set once and to the maximum. A lower limit would break launches that other threads are about to
// make.
inline void allow_shared(const void* kernel) {
  static std::mutex mutex;
  static std::set<std::pair<const void*, int> > allowed;
  int device = 0, bytes = 0;
  check(cudaGetDevice(&device));
  const std::lock_guard<std::mutex> lock(mutex);
  if (allowed.count({kernel, device}) > 0) return;
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  allowed.insert({kernel, device});
}

template <class... Parameters>
void launch(void (*kernel)(Parameters...), const LaunchShape& shape, const Executor& executor,
            const Parameters&... arguments) {
  if (shape.shared_bytes > kSharedWithoutAsking) {
    allow_shared(reinterpret_cast<const void*>(kernel));
  }
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = dim3(shape.threads);
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = static_cast<cudaStream_t>(executor.stream());
  check(cudaLaunchKernelEx(&config, kernel, arguments...));
}

#endif

}  // namespace convkern::cuda
