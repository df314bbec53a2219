// Runs CUDA kernels as host C++: one operating system thread, a fiber for each CUDA thread.
//
// What it finds: wrong results, in several schedules; barriers that not all threads reach, or that
// they reach at different places; shuffles of which lanes are missing; copies that were never
// waited for; what was read from shared memory before it was written (NaN); and, built with a
// sanitizer, accesses out of bounds (ASan) and without a barrier between (TSan).
// What it does not: races between blocks, which run one after the other; bank conflicts, but for
// those of ldmatrix; the memory model, clusters, wgmma and TMA.
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
constexpr int kLaneBytes = 64;            // that a lane gives to an exchange, at most
constexpr int kMostCopies = 65536;        // asynchronous, of a thread at a time
constexpr size_t kMostShared = 99 << 10;  // bytes of a block (compute capability 8.6, the least)

// The order in which threads and blocks run: 0 ascending, 1 descending, others shuffled by it.
void set_schedule(unsigned schedule);

// Of the device that is simulated: so few that problems of some blocks choose the large tiles.
constexpr int kMultiprocessors = 3;

// Runs `body` once in each thread of each block. Throws std::runtime_error for what a kernel must
// not do.
void launch(dim3 grid, dim3 block, size_t shared_bytes, convkern::FunctionRef<void()> body);

// For the running thread.
const uint3& thread_index();
const uint3& block_index();
const dim3& grid_size();
int lane();
void* shared_memory();

// Ends the launch with an error.
[[noreturn]] void fail(const char* what);

// Waits until all threads of the block are at the barrier of this place.
void block_barrier(const char* file, int line);

// Waits until all lanes of the mask are there; what each gave is then at the returned address,
// kLaneBytes a lane, until the thread next waits. An exchange does not order memory.
const char* exchange(unsigned mask, const void* given, size_t bytes);
void warp_barrier(unsigned mask);

// Asynchronous copies to shared memory of `bytes`, of which those beyond `size` are zeros. They
// happen as late as they may, when they are waited for, and until then the target holds NaN.
void copy_async(void* to, const void* from, int bytes, int size);
void commit_copies();
void wait_for_copies(int groups_left);

}  // namespace simulator
