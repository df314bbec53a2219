// The reference kernels for any dtype, layout, stride, padding, dilation and groups. Every element
// is one plain sum (core/reference.h), and the elements are computed in parallel. These kernels
// exist to be right, not fast.
#include "core/reference.h"

#include "cpu/kernel_list.h"

namespace convkern::cpu {
namespace {

template <class T, void (Reference<T>::*element)(int64_t) const>
void run_as(const Problem& p, const Operands& ops, const Executor& executor) {
  const Reference<T> reference(p, ops);
  constexpr int64_t kGrain = 256;  // elements that a thread takes at once
  executor.run(reference.size(), kGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t index = begin; index < end; ++index) (reference.*element)(index);
  });
}

template <class T>
void run_as(const Problem& p, const Operands& ops, const Executor& executor) {
  switch (p.pass) {
    case Pass::forward:
      return run_as<T, &Reference<T>::forward>(p, ops, executor);
    case Pass::grad_input:
      return run_as<T, &Reference<T>::grad_input>(p, ops, executor);
    case Pass::grad_weight:
      return run_as<T, &Reference<T>::grad_weight>(p, ops, executor);
  }
}

struct ReferencePlan final : Plan {
  const Problem p;

  explicit ReferencePlan(const Problem& problem) : p(problem) {}
  void run(const Operands& ops, void*, const Executor& executor) const override {
    with_element(p.dtype, [&](auto element) { run_as<decltype(element)>(p, ops, executor); });
  }
};

Planned plan(const Problem& p) { return std::make_unique<const ReferencePlan>(p); }

constexpr Algorithm kAlgorithm = {"reference", plan, plan, plan};
constexpr const Algorithm* kAlgorithms[] = {&kAlgorithm};

}  // namespace

const CompiledAlgorithms reference = {kAlgorithms, KernelDType::any, Isa::baseline,
                                      /*lanes=*/1};

}  // namespace convkern::cpu
