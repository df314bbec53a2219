// The interface of the CUDA kernels' shared library to libconvkern. Both are built together.
#pragma once

#include "core/kernel.h"

namespace convkern::cuda {

struct Library {
  KernelList (*kernels)();
  const char* toolkit;  // CUDA's version, such as "13.0"
};

// The name of the library's one symbol, a const Library. The name changes when Kernel changes.
constexpr const char* kLibrarySymbol = "convkern_cuda_library_2";

}  // namespace convkern::cuda
