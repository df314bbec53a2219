// Process-wide settings. They are read from the environment when the library is loaded:
//   CONVKERN_KERNEL   comma-separated kernel names, each forced for its device and pass
//   CONVKERN_ISA      baseline | avx2 | avx512 | avx512bf16: the highest instruction set to use
//   CONVKERN_PRECISION  highest | high | medium: see set_float32_precision()
//   CONVKERN_BATCH_INVARIANT  1: see set_batch_invariant()
//   CONVKERN_VERBOSE  dispatch | plan | profile: a line to stderr for each executed op; `plan` adds
//                     the rejected kernels, `profile` the time and its share of the roof
//   CONVKERN_STRICT   1: an op that only the reference kernel supports raises instead of warning
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/kernel.h"
#include "core/process_lock.h"

namespace convkern {

enum class Verbosity : uint8_t { silent, dispatch, plan, profile };

const char* to_string(Verbosity verbosity);        // empty for silent
Verbosity parse_verbosity(std::string_view name);  // throws std::invalid_argument

// The most that `threads` threads can do with float32, in FLOP/s and bytes/s.
struct Roof {
  int threads = 0;
  double flops = 0, bandwidth = 0;
};

// A setting that contexts override. The context entered last decides. Contexts may be left in any
// order, because threads, generators and asynchronous tasks end in any order.
template <class T>
class Overridable {
 public:
  explicit Overridable(T initial = {}) : current_(initial), initial_(initial) {}
  operator T() const { return current_; }

  void enter(int64_t context, T value) {
    const ProcessLock lock(process_mutex());
    entered_.emplace_back(context, value);
    current_ = value;
  }
  // Removes the context's value. Returns whether the context had set one.
  bool leave(int64_t context) {
    const ProcessLock lock(process_mutex());
    for (size_t i = 0; i < entered_.size(); ++i) {
      if (entered_[i].first != context) continue;
      entered_.erase(entered_.begin() + static_cast<ptrdiff_t>(i));
      current_ = entered_.empty() ? initial_ : entered_.back().second;
      return true;
    }
    return false;
  }

 private:
  std::atomic<T> current_;  // atomic because every op reads it
  const T initial_;
  std::vector<std::pair<int64_t, T>> entered_;
};

// The settings are atomic because every op reads them while Python may write them.
struct Config {
  Overridable<Isa> isa_cap{Isa::avx512bf16};
  std::atomic<Verbosity> verbosity{Verbosity::silent};
  std::atomic<bool> strict{false};
  std::atomic<Precision> precision{Precision::high};
  std::atomic<bool> batch_invariant{false};
  Roof roof;  // set once, before the first op

  // The kernel that contexts force for a device and pass, or null if none does.
  Overridable<const Kernel*>& forced_for(Device device, Pass pass) {
    return forced_[static_cast<size_t>(device)][static_cast<size_t>(pass)];
  }
  // Returns a new number for a context that will override settings. It is above 0 and never
  // repeats.
  int64_t new_context() { return ++contexts_; }
  // Removes all values that the context has set. Throws std::invalid_argument if it has set none.
  void leave(int64_t context);

 private:
  using Forced = Overridable<const Kernel*>;
  Forced forced_[2][3];
  std::atomic<int64_t> contexts_{0};
};

Config& config();

// Returns the value of an environment variable, or an empty string when it is not set.
std::string environment(const char* name);

}  // namespace convkern
