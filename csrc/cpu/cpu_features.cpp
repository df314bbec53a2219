#include "cpu/cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace convkern::cpu {
namespace {

struct Features {
  std::vector<std::string> names;
  Isa isa = Isa::baseline;
};

#if defined(__x86_64__)

// Returns the register state that the operating system saves on a context switch.
uint64_t saved_state() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

Features detect() {
  Features features;
  uint32_t a, b, c1, d, b7 = 0, c7 = 0, d7 = 0, a71 = 0;
  if (!__get_cpuid(1, &a, &b, &c1, &d)) return features;
  if (!(c1 & bit_OSXSAVE)) return features;
  if (__get_cpuid_count(7, 0, &a, &b7, &c7, &d7) && a >= 1) {
    uint32_t b71, c71, d71;
    __get_cpuid_count(7, 1, &a71, &b71, &c71, &d71);
  }
  constexpr uint64_t kYmm = 0x6;          // XMM and YMM
  constexpr uint64_t kZmm = kYmm | 0xe0;  // also opmask, high halves of ZMM0-15, and ZMM16-31
  const uint64_t state = saved_state();
  const bool ymm = (state & kYmm) == kYmm;
  const bool zmm = (state & kZmm) == kZmm;

  auto have = [&](bool present, const char* name) {
    if (present) features.names.emplace_back(name);
    return present;
  };
  const bool fma = have(ymm && (c1 & bit_FMA), "fma");
  const bool f16c = have(ymm && (c1 & bit_F16C), "f16c");
  const bool avx2 = have(ymm && (b7 & bit_AVX2), "avx2");
  const bool f = have(zmm && (b7 & bit_AVX512F), "avx512f");
  const bool dq = have(zmm && (b7 & bit_AVX512DQ), "avx512dq");
  const bool bw = have(zmm && (b7 & bit_AVX512BW), "avx512bw");
  const bool vl = have(zmm && (b7 & bit_AVX512VL), "avx512vl");
  const bool bf16 = have(zmm && (a71 & (1u << 5)), "avx512bf16");
  if (avx2 && fma && f16c) features.isa = Isa::avx2;
  if (features.isa == Isa::avx2 && f && dq && bw && vl) features.isa = Isa::avx512;
  if (features.isa == Isa::avx512 && bf16) features.isa = Isa::avx512bf16;
  return features;
}

#else

Features detect() { return {}; }

#endif

const Features& detected() {
  static const Features features = detect();
  return features;
}

}  // namespace

Isa available_isa() { return detected().isa; }
const std::vector<std::string>& feature_names() { return detected().names; }

}  // namespace convkern::cpu
