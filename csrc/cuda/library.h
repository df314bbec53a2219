// What the shared library of the CUDA kernels shows to libconvkern, which is built with it.
#pragma once

#include "core/kernel.h"

namespace convkern::cuda {

struct Library {
  KernelList (*kernels)();
  const char* toolkit;  // the version of CUDA, such as "13.0"
};

// The name of the one symbol of the library, a const Library. It changes with what a Kernel is.
constexpr const char* kLibrarySymbol = "convkern_cuda_library_2";

}  // namespace convkern::cuda
