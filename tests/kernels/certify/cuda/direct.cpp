// The CUDA kernels of the direct algorithm modulo p, in the simulator (tests/cuda/simulator).
#include "../kernels.h"
#include "../mod.h"

namespace convkern {

// The functions that the kernels need for a number beyond arithmetic.
inline Mod multiply_add(Mod a, Mod b, Mod c) { return fma(a, b, c); }
template <class>
Mod from_double(Mod sum) {
  return sum;
}
inline bool operator<(Mod, Mod) { std::abort(); }  // for ReLU; integers modulo p have no sign

}  // namespace convkern

#include "cuda/direct/direct.cu"

namespace convkern::cuda {

template <>
struct SumOf<Mod> {
  using type = Mod;
};

namespace {
template <>
constexpr DType kDType<Mod> = DType::f64;
}  // namespace

static const bool added = [] {
  add_kernels(algorithm<Mod>(), KernelDType::f64, cpu::mod_kernels());
  return true;
}();

}  // namespace convkern::cuda
