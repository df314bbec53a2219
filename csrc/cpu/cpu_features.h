// Tells which instruction sets the processor and the operating system allow.
#pragma once

#include <string>
#include <vector>

#include "core/kernel.h"

namespace convkern::cpu {

// Returns the highest instruction set that can be used. The processor must have all its features,
// and the operating system must save its registers (XGETBV). This is detected once.
Isa available_isa();

// Returns the names of those detected features that matter here, for reports: avx2, fma, avx512f,
// ...
const std::vector<std::string>& feature_names();

}  // namespace convkern::cpu
