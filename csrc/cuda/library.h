// The interface between libconvkern and the shared library of the CUDA kernels. Both are built
// together. libconvkern loads the library and looks up the one symbol that it exports.
#pragma once

#include "core/kernel.h"

namespace convkern::cuda {

struct Library {
  KernelList (*kernels)();
  const char* toolkit;  // CUDA's version, such as "13.0"
};

// The name of that symbol, which is a const Library. The name must change when Kernel or KernelList
// changes.
constexpr const char* kLibrarySymbol = "convkern_cuda_library_3";

}  // namespace convkern::cuda
