// Measures the most that this machine can do: float32 multiply-adds and memory bandwidth.
#pragma once

#include "core/kernel.h"

namespace convkern::cpu {

// The loop of multiply-adds for one instruction set.
struct PeakLoop {
  float (*run)(int64_t rounds, float factor, float term);
  int64_t flops;  // operations in one round
};

extern const PeakLoop peak_baseline;
#if defined(__x86_64__) && !defined(CONVKERN_PORTABLE)
extern const PeakLoop peak_avx2;
extern const PeakLoop peak_avx512;
#endif

struct Peak {
  double flops, bandwidth;  // float32 FLOP/s and bytes/s
};

// Measures with the executor's threads and the vectors of `isa`, which the processor must have. The
// measurement takes about a third of a second and 384 MiB. Throws std::bad_alloc.
Peak measure_peak(Isa isa, const Executor& executor);

}  // namespace convkern::cpu
