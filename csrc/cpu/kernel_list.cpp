// The CPU kernels in order of preference. The first that supports a problem and does not decline it
// runs it.
#include "cpu/kernel_list.h"

#include "cpu/pad_images.h"

namespace convkern::cpu {
namespace {

const CompiledAlgorithms* const kCompiled[] = {
#if defined(__x86_64__) && !defined(CONVKERN_PORTABLE)
    &f32_avx512,   &f64_avx512,   &bf16_avx512bf16, &half_avx512,  //
    &f32_avx2,     &f64_avx2,     &half_avx2,                      //
#endif
    &f32_baseline, &f64_baseline, &half_baseline,   &reference,
};

}  // namespace

KernelList kernel_list() {
  static const std::vector<Kernel> list = [] {
    std::vector<Kernel> kernels;
    for (const CompiledAlgorithms* compiled : kCompiled) compiled->add_to(kernels);
    return kernels;
  }();
  return {list.data(), list.size(), &padding_functions};
}

}  // namespace convkern::cpu
