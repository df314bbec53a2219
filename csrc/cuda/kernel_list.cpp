// The CUDA kernels in order of preference: the first that supports a problem runs it.
#include "cuda/kernel_list.h"

#include <vector>

namespace convkern::cuda {

KernelList kernel_list() {
  static const std::vector<Kernel> list = [] {
    std::vector<Kernel> rows;
    for (const Kernel& kernel : implicit_gemm_mma_kernels) rows.push_back(kernel);
    for (const Kernel& kernel : direct_kernels) rows.push_back(kernel);
    for (const Kernel& kernel : implicit_gemm_kernels) rows.push_back(kernel);
    for (const Kernel& kernel : reference_kernels) rows.push_back(kernel);
    return rows;
  }();
  return {list.data(), list.size()};
}

}  // namespace convkern::cuda
