// The messages of the library: warnings, and lines on stderr for CONVKERN_VERBOSE.
#pragma once

#include <string>
#include <vector>

#include "core/choose.h"

namespace convkern {

// Returns the warning for a problem that only the slow reference kernel supports. It is a sentence
// the first time for each set of reasons, and empty afterwards.
std::string fallback_warning(const Problem& problem, const Kernel& kernel,
                             const std::vector<Rejection>& rejected);

// Throws std::runtime_error instead of warning, for the setting `strict`.
[[noreturn]] void refuse_fallback(const Problem& problem, const Kernel& kernel,
                                  const std::vector<Rejection>& rejected);

// Logs one line about the chosen kernel. It names the rejected kernels if the verbosity is `plan`.
void log_choice(const Problem& problem, const Kernel& kernel,
                const std::vector<Rejection>& rejected);

// Logs one line about a finished run that took `seconds`.
void log_time(const Problem& problem, Device device, int threads, double seconds);

}  // namespace convkern
