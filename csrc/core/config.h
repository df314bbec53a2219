// Process-wide settings, initialised from the environment when the library is loaded:
//   CONVKERN_KERNEL   comma-separated kernel names, each forced for its device and pass
//   CONVKERN_ISA      baseline | avx2 | avx512 | avx512bf16: the highest instruction set to use
//   CONVKERN_PRECISION  highest | high: see set_float32_precision()
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

// The most that a number of threads can do with float32, in FLOP/s and bytes/s.
struct Roof {
  int threads = 0;
  double flops = 0, bandwidth = 0;
};

// A setting that contexts override. The context entered last holds, and contexts may be left in any
// order, as those of threads, generators and asynchronous tasks are.
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
  // Takes back what the context set, and returns whether it had set anything.
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
  std::atomic<T> current_;  // read by every op
  const T initial_;
  std::vector<std::pair<int64_t, T>> entered_;
};

// Read by every op and written from Python, hence atomics.
struct Config {
  Overridable<Isa> isa_cap{Isa::avx512bf16};
  std::atomic<Verbosity> verbosity{Verbosity::silent};
  std::atomic<bool> strict{false};
  std::atomic<Precision> precision{Precision::highest};
  std::atomic<bool> batch_invariant{false};
  Roof roof;  // set once, before the first op

  // The kernel that contexts force for a device and pass; null: none.
  Overridable<const Kernel*>& forced_for(Device device, Pass pass) {
    return forced_[static_cast<size_t>(device)][static_cast<size_t>(pass)];
  }
  // A number for a context that is about to override settings: above 0, and never the same again.
  int64_t new_context() { return ++contexts_; }
  // Takes back what the context has overridden. Throws std::invalid_argument if that is nothing.
  void leave(int64_t context);

 private:
  using Forced = Overridable<const Kernel*>;
  Forced forced_[2][3];
  std::atomic<int64_t> contexts_{0};
};

Config& config();

// The value of an environment variable, empty when it is not set.
std::string environment(const char* name);

}  // namespace convkern
