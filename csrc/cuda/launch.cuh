// Launches kernels: on the executor's stream, or in the simulator.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "core/executor.h"
#include "cuda/device_ops.cuh"

namespace convkern::cuda {

struct LaunchShape {
  dim3 grid;
  int threads;           // of a block
  int shared_bytes = 0;  // of a block, dynamic
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
  static_cast<void>(cudaGetLastError());  // torch's next check is not of this error
  throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
}

// Of the current device.
inline int multiprocessors() {
  int device = 0, count = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

template <class... Parameters>
void launch(void (*kernel)(Parameters...), const LaunchShape& shape, const Executor& executor,
            const Parameters&... arguments) {
  if (shape.shared_bytes > kSharedWithoutAsking) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               shape.shared_bytes));
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
