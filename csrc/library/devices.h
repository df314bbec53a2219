// The kernels of each device in this process.
#pragma once

#include <string>

#include "core/kernel.h"

namespace convkern::library {

// In order of preference; empty for CUDA unless its library was loaded.
KernelList kernels_of(Device device);

// Loads the library of CUDA kernels. Throws std::invalid_argument if it cannot be.
void load_cuda(const char* path);

// The CUDA toolkit that the loaded kernels were built with, empty if there are none.
const std::string& cuda_version();

}  // namespace convkern::library
