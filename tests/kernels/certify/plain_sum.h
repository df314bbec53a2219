// The plain sum for each element of a result, modulo p. One loop over all products serves the three
// passes. It shares nothing with the kernels except the definition.
#pragma once

#include <vector>

#include "core/kernel.h"
#include "mod.h"

namespace convkern {

// Calls product(x, w, y) for all products of a convolution, with the offsets of the three elements.
template <class Product>
void for_each_product(const Problem& p, const Product& product) {
  const int64_t OH = p.OH(), OW = p.OW();
  const bool nchw = p.layout == Layout::nchw;
  auto place = [nchw](int64_t n, int64_t c, int64_t h, int64_t w, int64_t C, int64_t H, int64_t W) {
    return nchw ? ((n * C + c) * H + h) * W + w : ((n * H + h) * W + w) * C + c;
  };
  const int64_t x_step = (nchw ? 1 : p.C) * p.stride_w, y_step = nchw ? 1 : p.O;
  for (int64_t tap = 0; tap < p.O * p.Cg * p.R * p.S; ++tap) {
    const int64_t s = tap % p.S, r = tap / p.S % p.R, o = tap / (p.S * p.R * p.Cg);
    const int64_t c = o / p.Og() * p.Cg + tap / (p.S * p.R) % p.Cg;
    for (int64_t n = 0; n < p.N; ++n) {
      for (int64_t i = 0; i < OH; ++i) {
        const int64_t h = i * p.stride_h + r * p.dilation_h - p.pad_h;
        if (h < 0 || h >= p.H) continue;
        int64_t v = s * p.dilation_w - p.pad_w;
        int64_t x = place(n, c, h, v, p.C, p.H, p.W), y = place(n, o, i, 0, p.O, OH, OW);
        for (int64_t j = 0; j < OW; ++j, v += p.stride_w, x += x_step, y += y_step) {
          if (v >= 0 && v < p.W) product(x, tap, y);
        }
      }
    }
  }
}

// Returns the result of the problem's pass, which has `size` elements.
inline std::vector<Mod> plain_sum(const Problem& p, const Operands& ops, int64_t size) {
  using Sum = unsigned __int128;
  std::vector<Sum> sums(size);
  const auto *x = static_cast<const Mod*>(ops.x), *w = static_cast<const Mod*>(ops.w),
             *gy = static_cast<const Mod*>(ops.gy), *b = static_cast<const Mod*>(ops.b);
  auto add = [&sums](int64_t at, Mod a, Mod b) {
    Sum& sum = sums[at];
    sum += static_cast<Sum>(a.value) * b.value;  // less than 2^122
    if (sum >> 124 != 0) sum = Mod::folded(sum);
  };
  for_each_product(p, [&](int64_t at_x, int64_t at_w, int64_t at_y) {
    switch (p.pass) {
      case Pass::forward:
        return add(at_y, x[at_x], w[at_w]);
      case Pass::grad_input:
        return add(at_x, gy[at_y], w[at_w]);
      case Pass::grad_weight:
        return add(at_w, gy[at_y], x[at_x]);
    }
  });
  const int64_t plane = p.layout == Layout::nchw ? p.OH() * p.OW() : 1;
  std::vector<Mod> results(size);
  for (int64_t i = 0; i < size; ++i) {
    results[i] = Mod::reduced(sums[i], 0);
    if (p.bias) results[i] += b[i / plane % p.O];
  }
  return results;
}

}  // namespace convkern
