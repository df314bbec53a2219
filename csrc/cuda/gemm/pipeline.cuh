// The loop of the implicit GEMMs over parts of their terms. Each part is copied to a stage of the
// block's shared memory while the parts before it are multiplied.
#pragma once

#include "cuda/device_ops.cuh"

namespace convkern::cuda {

constexpr int kStages = 3;  // one is multiplied while the others are filled

// A stage has kBytes bytes. fill(stage) begins to copy the next part to it, and multiply(stage)
// uses it.
template <int kBytes, class Fill, class Multiply>
__device__ __forceinline__ void run_pipeline(int steps, const Fill& fill,
                                             const Multiply& multiply) {
  char* shared = dynamic_shared<char>();
  int filled = 0, multiplied = 0;  // offsets of stages in bytes
  auto advance = [](int& stage) { stage = stage == (kStages - 1) * kBytes ? 0 : stage + kBytes; };
  auto begin_copies = [&](int step) {
    if (step < steps) fill(shared + filled);
    commit_copies();
    advance(filled);
  };
  for (int step = 0; step < kStages - 1; ++step) begin_copies(step);
  for (int step = 0; step < steps; ++step) {
    wait_for_copies<kStages - 2>();
    // After this barrier all threads have waited for this step's copies. They also have read the
    // previous step, whose memory is filled next.
    __syncthreads();
    begin_copies(step + kStages - 1);
    multiply(shared + multiplied);
    advance(multiplied);
  }
}

}  // namespace convkern::cuda
