// What the processor and the operating system allow.
#pragma once

#include <string>
#include <vector>

#include "core/kernel.h"

namespace convkern::cpu {

// The highest instruction set whose every feature the processor has and whose registers the
// operating system saves (XGETBV). Detected once.
Isa available_isa();

// Names of the detected features that matter here, for reports: avx2, fma, avx512f, ...
const std::vector<std::string>& feature_names();

}  // namespace convkern::cpu
