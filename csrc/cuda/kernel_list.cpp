// The CUDA kernels in order of preference. The first kernel that supports a problem runs it.
#include "cuda/kernel_list.h"

namespace convkern::cuda {

KernelList kernel_list() {
  static const std::vector<Kernel> list = [] {
    std::vector<Kernel> kernels;
    for (const auto add : {add_implicit_gemm_mma, add_direct, add_implicit_gemm, add_reference}) {
      add(kernels);
    }
    return kernels;
  }();
  return {list.data(), list.size(), &padding_functions};
}

}  // namespace convkern::cuda
