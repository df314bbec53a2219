#include "library/devices.h"

#include <dlfcn.h>

#include <stdexcept>

#include "cpu/kernel_list.h"
#include "cuda/library.h"

namespace convkern::library {
namespace {

struct Cuda {
  KernelList kernels{nullptr, 0, nullptr};
  std::string version;
};

Cuda& cuda() {
  static Cuda instance;
  return instance;
}

}  // namespace

KernelList kernels_of(Device device) {
  return device == Device::cpu ? cpu::kernel_list() : cuda().kernels;
}

void load_cuda(const char* path) {
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw std::invalid_argument(dlerror());
  const auto* found = static_cast<const cuda::Library*>(dlsym(library, cuda::kLibrarySymbol));
  if (found == nullptr) throw std::invalid_argument(dlerror());
  cuda().kernels = found->kernels();
  cuda().version = found->toolkit;
}

const std::string& cuda_version() { return cuda().version; }

}  // namespace convkern::library
