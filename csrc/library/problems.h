// Problems of the C interface, and of the core.
#pragma once

#include "convkern.h"
#include "core/problem.h"

namespace convkern::library {

Problem from_c(const convkern_problem& problem);
convkern_problem to_c(const Problem& problem);

}  // namespace convkern::library
