// What the forward pass does with its sums: y = activation(sum + residual).
//
// Bounds, such as those of ReLU, are applied in registers before a sum is stored. A residual, and
// activations that are more than bounds, are applied to outputs that have just been stored and are
// still in the cache.
#pragma once

#include "cpu/tiles/activations-inl.h"

namespace convkern::cpu {
namespace {

class Epilogue {
 public:
  Epilogue() = default;  // leaves the sums as they are
  Epilogue(const Problem& p, const Operands& ops)
      : Epilogue(p.activation, static_cast<const Real*>(ops.residual),
                 static_cast<const Real*>(ops.out)) {}
  // `residual` is null, or has the same shape as `out`.
  Epilogue(const Activation& activation, const Real* residual, const Real* out)
      : activation_(activation), out_(out), residual_(residual) {
    finishes_ =
        residual_ != nullptr || (activation_.kind != ActivationKind::none && !activation_.bounds());
    in_registers_ = activation_.bounds() && !finishes_;
    if constexpr (kBounded) {
      low_ = static_cast<Real>(activation_.low());
      high_ = static_cast<Real>(activation_.high());
    }
  }

  // Returns whether sums pass through bound() before they are stored, and whether stored sums pass
  // through finish(). At most one is true.
  bool bounds() const { return in_registers_; }
  const Epilogue* if_bounds() const { return in_registers_ ? this : nullptr; }
  bool finishes() const { return finishes_; }

  CONVKERN_INLINE Vec bound(Vec sum) const {
    return bounded(sum, Vec::broadcast(&low_), Vec::broadcast(&high_));
  }

  // Finishes `rows` rows of `columns` adjacent outputs in memory. The rows are `step` apart.
  CONVKERN_NOINLINE void finish(Real* at, int64_t rows, int64_t step, int64_t columns) const {
    const Real* residual = residual_ == nullptr ? nullptr : residual_ + (at - out_);
    if constexpr (kBounded) {
      if constexpr (std::is_same_v<Real, float>) {
        if (activation_.bounds()) {
          const Vec low = Vec::broadcast(&low_), high = Vec::broadcast(&high_);
          return for_each_vector(at, residual, rows, step, columns,
                                 [=](Vec x)
                                     CONVKERN_INLINE_LAMBDA { return bounded(x, low, high); });
        }
        VectorMath<Vec>::with_function(activation_, [&](const auto& function) {
          for_each_vector(at, residual, rows, step, columns, function);
        });
      } else {
        for (int64_t row = 0; row < rows; ++row, at += step) {
          for (int64_t i = 0; i < columns; ++i) {
            const Real sum = residual == nullptr ? at[i] : at[i] + residual[row * step + i];
            at[i] = activated(activation_, sum);
          }
        }
      }
    }
  }

 private:
  // Integers modulo a prime, which stand for numbers when kernels are certified, have no order.
  static constexpr bool kBounded = std::is_floating_point_v<Real>;

  template <class Function>
  static CONVKERN_INLINE void for_each_vector(Real* at, const Real* residual, int64_t rows,
                                              int64_t step, int64_t columns,
                                              const Function& function) {
    const int64_t whole = columns / kLanes * kLanes;
    const int rest = static_cast<int>(columns - whole);
    for (int64_t row = 0; row < rows; ++row, at += step) {
      const Real* z = residual == nullptr ? nullptr : residual + row * step;
      for (int64_t i = 0; i < whole; i += kLanes) {
        Vec x = Vec::load_unaligned(at + i);
        if (z != nullptr) x = add(x, Vec::load_unaligned(z + i));
        function(x).store_unaligned(at + i);
      }
      if (rest == 0) continue;
      Vec x = Vec::load_first(at + whole, rest);
      if (z != nullptr) x = add(x, Vec::load_first(z + whole, rest));
      function(x).store_first(at + whole, rest);
    }
  }

  Activation activation_;
  bool in_registers_ = false, finishes_ = false;
  Real low_{}, high_{};
  const Real* out_ = nullptr;
  const Real* residual_ = nullptr;
};

}  // namespace
}  // namespace convkern::cpu
