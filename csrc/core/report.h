// What the library says while it works: warnings, and lines on stderr for CONVKERN_VERBOSE.
#pragma once

#include <string>
#include <vector>

#include "core/choose.h"

namespace convkern {

// What to tell the user about a problem that only the reference kernel supports, which is slow: a
// sentence the first time for each set of reasons, later nothing.
std::string fallback_warning(const Problem& problem, const Kernel& kernel,
                             const std::vector<Rejection>& rejected);

// Raises std::runtime_error instead, for the setting `strict`.
[[noreturn]] void refuse_fallback(const Problem& problem, const Kernel& kernel,
                                  const std::vector<Rejection>& rejected);

// The line of a chosen kernel, with the rejected ones if the verbosity is `plan`.
void log_choice(const Problem& problem, const Kernel& kernel,
                const std::vector<Rejection>& rejected);

// The line of a run that took so long.
void log_time(const Problem& problem, Device device, int threads, double seconds);

}  // namespace convkern
