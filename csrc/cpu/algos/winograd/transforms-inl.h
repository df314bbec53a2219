// The transforms of Winograd's minimal filtering, F(4x4, 3x3) and F(2x2, 3x3), along one axis:
// Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016. Every lane is
// transformed on its own.
//
// Take a correlation of kIn = kOut + 2 inputs d with 3 taps g. Its kOut outputs are
// y = A^T [(G g) * (B^T d)], where * multiplies spot by spot. The gradient of the taps is
// G^T [(A gy) * (B^T d)]. The functions inputs(), taps(), outputs(), grad_outputs() and grad_taps()
// multiply by B^T, G, A^T, A and G^T.
#pragma once

#include "cpu/simd/vec.h"

namespace convkern::cpu {
namespace {
namespace winograd {

template <int a, int b>
constexpr Real kRatio = Real(a) / Real(b);

struct F4x4 {
  static constexpr int kOut = 4, kIn = 6;

  static CONVKERN_INLINE void inputs(const Vec (&d)[6], Vec (&t)[6]) {
    const Vec even = fma(-4, d[2], d[4]), odd = fma(-4, d[1], d[3]);
    const Vec near = sub(d[4], d[2]), far = times(2, sub(d[3], d[1]));
    t[0] = fma(4, d[0], fma(-5, d[2], d[4]));
    t[1] = add(even, odd);
    t[2] = sub(even, odd);
    t[3] = add(near, far);
    t[4] = sub(near, far);
    t[5] = fma(4, d[1], fma(-5, d[3], d[5]));
  }
  static CONVKERN_INLINE void taps(const Vec (&g)[3], Vec (&t)[6]) {
    const Vec sum = times(kRatio<-1, 6>, add(g[0], g[2])), middle = times(kRatio<1, 6>, g[1]);
    const Vec wide = fma(kRatio<1, 24>, g[0], times(kRatio<1, 6>, g[2])),
              half = times(kRatio<1, 12>, g[1]);
    t[0] = times(kRatio<1, 4>, g[0]);
    t[1] = sub(sum, middle);
    t[2] = add(sum, middle);
    t[3] = add(wide, half);
    t[4] = sub(wide, half);
    t[5] = g[2];
  }
  static CONVKERN_INLINE void outputs(const Vec (&m)[6], Vec (&y)[4]) {
    const Vec sum1 = add(m[1], m[2]), difference1 = sub(m[1], m[2]);
    const Vec sum2 = add(m[3], m[4]), difference2 = sub(m[3], m[4]);
    y[0] = add(m[0], add(sum1, sum2));
    y[1] = fma(2, difference2, difference1);
    y[2] = fma(4, sum2, sum1);
    y[3] = add(fma(8, difference2, difference1), m[5]);
  }
  static CONVKERN_INLINE void grad_outputs(const Vec (&gy)[4], Vec (&t)[6]) {
    const Vec even = add(gy[0], gy[2]), odd = add(gy[1], gy[3]);
    const Vec even2 = fma(4, gy[2], gy[0]), odd2 = fma(8, gy[3], times(2, gy[1]));
    t[0] = gy[0];
    t[1] = add(even, odd);
    t[2] = sub(even, odd);
    t[3] = add(even2, odd2);
    t[4] = sub(even2, odd2);
    t[5] = gy[3];
  }
  static CONVKERN_INLINE void grad_taps(const Vec (&m)[6], Vec (&gg)[3]) {
    const Vec sum = times(kRatio<-1, 6>, add(m[1], m[2])), wide = add(m[3], m[4]);
    gg[0] = fma(kRatio<1, 4>, m[0], fma(kRatio<1, 24>, wide, sum));
    gg[1] = fma(kRatio<1, 6>, sub(m[2], m[1]), times(kRatio<1, 12>, sub(m[3], m[4])));
    gg[2] = add(fma(kRatio<1, 6>, wide, sum), m[5]);
  }
};

struct F2x2 {
  static constexpr int kOut = 2, kIn = 4;

  static CONVKERN_INLINE void inputs(const Vec (&d)[4], Vec (&t)[4]) {
    t[0] = sub(d[0], d[2]);
    t[1] = add(d[1], d[2]);
    t[2] = sub(d[2], d[1]);
    t[3] = sub(d[1], d[3]);
  }
  static CONVKERN_INLINE void taps(const Vec (&g)[3], Vec (&t)[4]) {
    const Vec sum = times(kRatio<1, 2>, add(g[0], g[2])), middle = times(kRatio<1, 2>, g[1]);
    t[0] = g[0];
    t[1] = add(sum, middle);
    t[2] = sub(sum, middle);
    t[3] = g[2];
  }
  static CONVKERN_INLINE void outputs(const Vec (&m)[4], Vec (&y)[2]) {
    y[0] = add(m[0], add(m[1], m[2]));
    y[1] = sub(m[1], add(m[2], m[3]));
  }
  static CONVKERN_INLINE void grad_outputs(const Vec (&gy)[2], Vec (&t)[4]) {
    t[0] = gy[0];
    t[1] = add(gy[0], gy[1]);
    t[2] = sub(gy[0], gy[1]);
    t[3] = sub(Vec::zero(), gy[1]);
  }
  static CONVKERN_INLINE void grad_taps(const Vec (&m)[4], Vec (&gg)[3]) {
    const Vec half = times(kRatio<1, 2>, add(m[1], m[2]));
    gg[0] = add(m[0], half);
    gg[1] = times(kRatio<1, 2>, sub(m[1], m[2]));
    gg[2] = add(half, m[3]);
  }
};

}  // namespace winograd
}  // namespace
}  // namespace convkern::cpu
