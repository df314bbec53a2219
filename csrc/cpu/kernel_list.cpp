// The CPU kernels in order of preference: the first that supports a problem, and does not decline
// it, runs it.
#include "cpu/kernel_list.h"

#include <vector>

namespace convkern::cpu {

KernelList kernel_list() {
  static const std::vector<Kernel> list = [] {
    std::vector<Kernel> all;
    auto append = [&all](const auto& kernels) {
      all.insert(all.end(), std::begin(kernels), std::end(kernels));
    };
#if defined(__x86_64__) && !defined(CONVKERN_PORTABLE)
    append(f32_avx512);
    append(f64_avx512);
    append(bf16_avx512bf16);
    append(half_avx512);
    append(f32_avx2);
    append(f64_avx2);
    append(half_avx2);
#endif
    append(f32_baseline);
    append(f64_baseline);
    append(half_baseline);
    append(reference_kernels);
    return all;
  }();
  return {list.data(), list.size()};
}

}  // namespace convkern::cpu
