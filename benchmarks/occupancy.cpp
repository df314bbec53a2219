// Blocks that a multiprocessor holds at once, for lines "compute_capability registers threads
// shared_bytes" on standard input: by NVIDIA's own rules (cuda_occupancy.h), which need no GPU.
#include <cstddef>
#include <cstdio>

#include <cuda_occupancy.h>

namespace {

// CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
cudaOccDeviceProp properties(int major, int minor) {
  const bool small = major == 8 && minor != 0;  // 8.6, 8.9
  cudaOccDeviceProp p;
  p.computeMajor = major;
  p.computeMinor = minor;
  p.maxThreadsPerBlock = 1024;
  p.maxThreadsPerMultiprocessor = small ? 1536 : 2048;
  p.regsPerBlock = p.regsPerMultiprocessor = 65536;
  p.warpSize = 32;
  p.sharedMemPerBlock = 48 << 10;
  p.sharedMemPerMultiprocessor = (small ? 100 : major == 8 ? 164 : 228) << 10;
  p.sharedMemPerBlockOptin = p.sharedMemPerMultiprocessor - (1 << 10);
  p.reservedSharedMemPerBlock = 1 << 10;
  p.numSms = 1;
  return p;
}

}  // namespace

int main() {
  int capability, registers, threads, shared;
  while (std::scanf("%d %d %d %d", &capability, &registers, &threads, &shared) == 4) {
    const cudaOccDeviceProp device = properties(capability / 10, capability % 10);
    cudaOccFuncAttributes function;
    function.maxThreadsPerBlock = threads;
    function.numRegs = registers;
    function.sharedSizeBytes = 0;
    function.partitionedGCConfig = PARTITIONED_GC_OFF;
    function.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
    function.maxDynamicSharedSizeBytes = shared;
    function.numBlockBarriers = 1;
    cudaOccDeviceState state;
    state.carveoutConfig = SHAREDMEM_CARVEOUT_MAX_SHARED;
    cudaOccResult result;
    const cudaOccError error = cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &function,
                                                                       &state, threads, shared);
    const int blocks = error == CUDA_OCC_SUCCESS ? result.activeBlocksPerMultiprocessor : 0;
    std::printf("%d %d\n", blocks, 100 * blocks * threads / device.maxThreadsPerMultiprocessor);
  }
}
