// Process-wide settings, initialised from the environment when the library is loaded:
//   CONVKERN_KERNEL   comma-separated kernel names, each forced for its device and pass
//   CONVKERN_ISA      baseline | avx2 | avx512 | avx512bf16: the highest instruction set to use
//   CONVKERN_PRECISION  highest | high: see set_float32_precision()
//   CONVKERN_WEIGHT_CACHE  1: see set_weight_cache()
//   CONVKERN_VERBOSE  dispatch | plan | profile: a line to stderr for each executed op; `plan` adds
//                     the rejected kernels, `profile` the time and its share of the roof
//   CONVKERN_STRICT   1: an op that only the reference kernel supports raises instead of warning
#pragma once

#include <atomic>
#include <string>

#include "core/kernel.h"

namespace convkern {

enum class Verbosity : uint8_t { silent, dispatch, plan, profile };

Verbosity parse_verbosity(std::string_view name);  // throws std::invalid_argument

// What a number of threads can do at most with float32: FLOP/s and bytes/s.
struct Roof {
  int threads = 0;
  double flops = 0, bandwidth = 0;
};

// Read by every op and written by the Python context managers, hence atomics.
struct Config {
  std::atomic<Isa> isa_cap{Isa::avx512bf16};
  std::atomic<Verbosity> verbosity{Verbosity::silent};
  std::atomic<bool> strict{false};
  std::atomic<Precision> precision{Precision::highest};
  std::atomic<bool> weight_cache{false};
  Roof roof;                                  // set once, before the first op
  std::atomic<const Kernel*> forced[2][3]{};  // by device and pass

  std::atomic<const Kernel*>& forced_for(Device device, Pass pass) {
    return forced[static_cast<size_t>(device)][static_cast<size_t>(pass)];
  }
};

Config& config();

// The value of an environment variable, empty when it is not set.
std::string environment(const char* name);

}  // namespace convkern
