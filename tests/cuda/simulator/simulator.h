// Runs CUDA kernels as host C++: one operating system thread, with a fiber for each CUDA thread.
//
// It finds wrong results in several schedules. It finds barriers that not all threads reach, or
// that they reach at different places, and shuffles with missing lanes. Copies that were never
// waited for, and shared memory that is read before it is written, show as NaN. Built with a
// sanitizer, it finds accesses out of bounds (ASan) and accesses without a barrier between them
// (TSan).
//
// It does not find races between blocks, because blocks run one after the other. Nor does it
// simulate bank conflicts (except those of ldmatrix), the memory model, clusters, wgmma or TMA.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/executor.h"

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct uint3 {
  unsigned x, y, z;
};

namespace simulator {

constexpr int kWarp = 32;                 // threads
constexpr int kLaneBytes = 64;            // most bytes that a lane gives to an exchange
constexpr int kMostCopies = 65536;        // most asynchronous copies of a thread at a time
constexpr size_t kMostShared = 99 << 10;  // bytes of a block (compute capability 8.6, the least)

// Sets the order in which threads and blocks run: 0 is ascending, 1 descending, and other numbers
// are the seed of a shuffle.
void set_schedule(unsigned schedule);

// Multiprocessors of the simulated device. They are so few that problems with few blocks choose the
// large tiles.
constexpr int kMultiprocessors = 3;

// Runs `body` once in each thread of each block. Throws std::runtime_error if a kernel does what it
// must not do.
void launch(dim3 grid, dim3 block, size_t shared_bytes, convkern::FunctionRef<void()> body);

// These describe the running thread.
const uint3& thread_index();
const uint3& block_index();
const dim3& grid_size();
int lane();
void* shared_memory();

// Ends the launch with an error.
[[noreturn]] void fail(const char* what);

// Waits until all threads of the block are at the barrier of this place.
void block_barrier(const char* file, int line);

// Waits until all lanes of the mask have arrived. The returned address then holds what each lane
// gave, kLaneBytes for each lane, until the thread waits again. An exchange does not order memory.
const char* exchange(unsigned mask, const void* given, size_t bytes);
void warp_barrier(unsigned mask);

// Copies `bytes` bytes to shared memory asynchronously. Bytes beyond `size` become zeros. The
// copies happen as late as allowed, when they are waited for. Until then the target holds NaN.
void copy_async(void* to, const void* from, int bytes, int size);
void commit_copies();
void wait_for_copies(int groups_left);

}  // namespace simulator
