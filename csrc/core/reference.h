// The plain sum for each element of y, gx and gw. The reference kernels of every device evaluate
// it, and every other kernel is compared with it. Sums are accumulated in double and rounded once.
#pragma once

#include "core/kernel.h"
#include "core/padded_axis.h"
#include "core/scalar_types.h"

namespace convkern {

// Computes the offset of element (n, c, h, w) in a dense tensor, in elements.
struct DenseOffset {
  Layout layout;
  int64_t channels, height, width;
  CONVKERN_HOST_DEVICE int64_t operator()(int64_t n, int64_t c, int64_t h, int64_t w) const {
    return layout == Layout::nchw ? ((n * channels + c) * height + h) * width + w
                                  : ((n * height + h) * width + w) * channels + c;
  }
};

template <class T>
struct Reference {
  const Problem p;
  const T *x, *w, *b, *gy, *residual;
  T* out;
  const int64_t OH, OW, Og;
  const PaddedAxis rows, columns;
  const DenseOffset x_at, y_at;

  Reference(const Problem& problem, const Operands& ops)
      : p(problem),
        x(static_cast<const T*>(ops.x)),
        w(static_cast<const T*>(ops.w)),
        b(static_cast<const T*>(ops.b)),
        gy(static_cast<const T*>(ops.gy)),
        residual(static_cast<const T*>(ops.residual)),
        out(static_cast<T*>(ops.out)),
        OH(p.OH()),
        OW(p.OW()),
        Og(p.Og()),
        rows(padded_rows(p)),
        columns(padded_columns(p)),
        x_at{p.layout, p.C, p.H, p.W},
        y_at{p.layout, p.O, OH, OW} {}

  // size() is the number of elements in the result. element() computes the one with the given index
  // in (n, c, h, w) order. Both depend on the problem's pass.
  int64_t size() const {
    switch (p.pass) {
      case Pass::forward:
        return p.N * p.O * OH * OW;
      case Pass::grad_input:
        return p.N * p.C * p.H * p.W;
      default:
        return p.O * p.Cg * p.R * p.S;
    }
  }

  CONVKERN_HOST_DEVICE void element(int64_t index) const {
    switch (p.pass) {
      case Pass::forward:
        return forward(index);
      case Pass::grad_input:
        return grad_input(index);
      case Pass::grad_weight:
        return grad_weight(index);
    }
  }
  CONVKERN_HOST_DEVICE void forward(int64_t index) const {
    const int64_t j = index % OW, i = index / OW % OH;
    const int64_t o = index / (OW * OH) % p.O, n = index / (OW * OH * p.O);
    double sum = b == nullptr ? 0.0 : to_double(b[o]);
    for (int64_t c = 0; c < p.Cg; ++c) {
      for (int64_t r = 0; r < p.R; ++r) {
        const int64_t h = rows.source(i * p.stride_h + r * p.dilation_h);
        if (h < 0) continue;
        for (int64_t s = 0; s < p.S; ++s) {
          const int64_t v = columns.source(j * p.stride_w + s * p.dilation_w);
          if (v < 0) continue;
          sum += to_double(x[x_at(n, o / Og * p.Cg + c, h, v)]) * to_double(w[w_at(o, c, r, s)]);
        }
      }
    }
    const int64_t at = y_at(n, o, i, j);
    if (residual != nullptr) sum += to_double(residual[at]);
    out[at] = from_double<T>(activated(p.activation, sum));
  }

  CONVKERN_HOST_DEVICE void grad_input(int64_t index) const {
    const int64_t v = index % p.W, h = index / p.W % p.H;
    const int64_t c = index / (p.W * p.H) % p.C, n = index / (p.W * p.H * p.C);
    double sum = 0;
    const auto add_row = [&](int64_t row) {
      const auto add = [&](int64_t column) { sum += place_gradient(n, c, row, column); };
      add(p.pad_w + v);
      columns.for_each_repeat(v, add);
    };
    add_row(p.pad_h + h);
    rows.for_each_repeat(h, add_row);
    out[x_at(n, c, h, v)] = from_double<T>(sum);
  }

  CONVKERN_HOST_DEVICE void grad_weight(int64_t index) const {
    const int64_t s = index % p.S, r = index / p.S % p.R;
    const int64_t cg = index / (p.S * p.R) % p.Cg, o = index / (p.S * p.R * p.Cg);
    const int64_t c = o / Og * p.Cg + cg;
    double sum = 0;
    for (int64_t n = 0; n < p.N; ++n) {
      for (int64_t i = 0; i < OH; ++i) {
        const int64_t h = rows.source(i * p.stride_h + r * p.dilation_h);
        if (h < 0) continue;
        for (int64_t j = 0; j < OW; ++j) {
          const int64_t v = columns.source(j * p.stride_w + s * p.dilation_w);
          if (v < 0) continue;
          sum += to_double(gy[y_at(n, o, i, j)]) * to_double(x[x_at(n, c, h, v)]);
        }
      }
    }
    out[index] = from_double<T>(sum);
  }

 private:
  // Returns the gradient of a place of the padded image.
  CONVKERN_HOST_DEVICE double place_gradient(int64_t n, int64_t c, int64_t row,
                                             int64_t column) const {
    const int64_t first = c / p.Cg * Og;  // first output channel of the group
    double sum = 0;
    for (int64_t r = 0; r < p.R; ++r) {
      const int64_t i = output_index(row - r * p.dilation_h, p.stride_h, OH);
      if (i < 0) continue;
      for (int64_t s = 0; s < p.S; ++s) {
        const int64_t j = output_index(column - s * p.dilation_w, p.stride_w, OW);
        if (j < 0) continue;
        for (int64_t o = first; o < first + Og; ++o) {
          sum += to_double(gy[y_at(n, o, i, j)]) * to_double(w[w_at(o, c % p.Cg, r, s)]);
        }
      }
    }
    return sum;
  }
  CONVKERN_HOST_DEVICE int64_t w_at(int64_t o, int64_t c, int64_t r, int64_t s) const {
    return ((o * p.Cg + c) * p.R + r) * p.S + s;
  }
  // Returns the i in [0, size) with i * stride = scaled, or -1 if there is none.
  CONVKERN_HOST_DEVICE static int64_t output_index(int64_t scaled, int64_t stride, int64_t size) {
    if (scaled < 0 || scaled % stride != 0) return -1;
    return scaled / stride < size ? scaled / stride : -1;
  }
};

// Calls run(T{}) for the type T of a dtype's elements.
template <class Run>
void with_element(DType dtype, const Run& run) {
  switch (dtype) {
    case DType::f32:
      return run(float{});
    case DType::f64:
      return run(double{});
    case DType::bf16:
      return run(BFloat16{});
    case DType::f16:
      return run(Half{});
  }
}

}  // namespace convkern
