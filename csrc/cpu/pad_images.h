// Padding with values of the image on the CPU.
#pragma once

#include "core/padding.h"

namespace convkern::cpu {

extern const PaddingFunctions padding_functions;

}  // namespace convkern::cpu
