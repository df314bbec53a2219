// The list of the CPU's kernels, and the tables of compiled algorithms that it is made from.
#pragma once

#include <vector>

#include "core/kernel.h"

namespace convkern::cpu {

KernelList kernel_list();

// The algorithms that one source file has compiled for one dtype and instruction set.
struct CompiledAlgorithms {
  // The algorithms in order of preference. An entry is null if that algorithm is not for the dtype.
  const Algorithm* const* first;
  size_t count;
  Target target;

  template <size_t size>
  constexpr CompiledAlgorithms(const Algorithm* const (&all)[size], KernelDType dtype, Isa isa,
                               int lanes)
      : first(all), count(size), target{dtype, Device::cpu, isa, lanes} {}

  void add_to(std::vector<Kernel>& kernels) const {
    for (size_t i = 0; i < count; ++i) {
      if (first[i] != nullptr) add_kernels(*first[i], target, kernels);
    }
  }
};

extern const CompiledAlgorithms reference, f32_baseline, f64_baseline, half_baseline;
#if defined(__x86_64__) && !defined(CONVKERN_PORTABLE)
extern const CompiledAlgorithms f32_avx2, f64_avx2, half_avx2;
extern const CompiledAlgorithms f32_avx512, f64_avx512, half_avx512, bf16_avx512bf16;
#endif

}  // namespace convkern::cpu
