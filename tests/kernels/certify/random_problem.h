// Random problems with every parameter and with sizes at and beside the edges of lanes and blocks.
// They have few products, so that many problems can be run.
#pragma once

#include <algorithm>
#include <array>
#include <initializer_list>
#include <iterator>

#include "core/axis.h"
#include "core/problem.h"
#include "random.h"

namespace convkern {

class ProblemSource {
 public:
  explicit ProblemSource(Random& random) : random_(random) {}

  Problem next() {
    Problem p;
    p.pass = pick({Pass::forward, Pass::grad_input, Pass::grad_weight});
    p.dtype = pick({DType::f32, DType::f32, DType::f64});  // float32 has more kernels
    p.layout = pick({Layout::nchw, Layout::nhwc});
    p.bias = p.pass == Pass::forward && one_in(2);
    p.N = one_in(2) ? 1 + random_.below(3) : size(17);
    if (one_in(24)) {
      choose_long_image(p);
    } else if (one_in(8)) {
      choose_tiles(p);
    } else {
      p.H = size(33);
      p.W = size(33);
      choose_channels(p);
      choose_window(p);
    }
    while (cost(p) > most_) shrink(p);
    return p;
  }

 private:
  bool one_in(int64_t n) { return random_.below(n) == 0; }
  template <class T>
  T pick(std::initializer_list<T> of) {
    return of.begin()[random_.below(static_cast<int64_t>(of.size()))];
  }
  // Returns a size of at least 1 and at most `most`.
  int64_t size(int64_t most) {
    const int64_t edge = pick<int64_t>({2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 48, 64, 128});
    return std::min(most, edge - 1 + random_.below(3));
  }
  void choose_channels(Problem& p) {
    int64_t Og = 1;
    switch (random_.below(4)) {
      case 0:  // depthwise, perhaps with several outputs for a channel
        p.groups = size(40);
        p.Cg = 1;
        Og = one_in(3) ? 1 + random_.below(4) : 1;
        break;
      case 1:  // groups small enough for vectors of whole groups
        p.groups = size(20);
        p.Cg = pick<int64_t>({1, 2, 3, 4, 8, 16});
        Og = pick<int64_t>({1, 2, 4, 8, 16});
        break;
      default:
        p.groups = one_in(4) ? 1 + random_.below(4) : 1;
        p.Cg = size(one_in(8) ? 260 : 66);
        Og = size(one_in(8) ? 260 : 66);
    }
    p.C = p.Cg * p.groups;
    p.O = Og * p.groups;
  }
  void choose_window(Problem& p) {
    most_ = static_cast<double>(1 << (one_in(100) ? 20 : 11 + random_.below(7)));
    if (one_in(4)) {  // problems that Winograd's algorithms compute
      p.R = p.S = 3;
      for (int64_t* zeros : sides(p)) *zeros = random_.below(4);
    } else {
      const int64_t taps = pick<int64_t>({1, 3, 4, 7, 14}), stride = pick<int64_t>({1, 1, 2, 5}),
                    dilation = pick<int64_t>({1, 1, 3}), pad = pick<int64_t>({0, 3, 9});
      for (int64_t* extent : {&p.R, &p.S}) *extent = 1 + random_.below(taps);
      for (int64_t* step : {&p.stride_h, &p.stride_w}) *step = 1 + random_.below(stride);
      for (int64_t* step : {&p.dilation_h, &p.dilation_w}) *step = 1 + random_.below(dilation);
      for (int64_t* zeros : sides(p)) *zeros = random_.below(pad + 1);
    }
    fit(p);
  }
  // Transforms of all sizes compute such images and kernels, which are long in one direction and
  // have few channels.
  void choose_long_image(Problem& p) {
    most_ = 1 << 17;
    p.groups = one_in(2) ? size(20) : 1;
    p.Cg = one_in(2) ? 1 : 1 + random_.below(3);
    p.C = p.groups * p.Cg;
    p.O = p.groups * (one_in(2) ? 1 : 1 + random_.below(3));
    const bool is_high = one_in(2);
    for (const bool rows : {true, false}) {
      const bool is_long = rows == is_high;
      int64_t& taps = rows ? p.R : p.S;
      taps = 1 + random_.below(is_long ? pick<int64_t>({3, 12, 128}) : 4);
      (rows ? p.H : p.W) = 1 + random_.below(is_long ? pick<int64_t>({64, 128, 300}) : 12);
      (rows ? p.stride_h : p.stride_w) = 1 + random_.below(pick<int64_t>({1, 1, 3}));
      (rows ? p.dilation_h : p.dilation_w) = 1 + random_.below(pick<int64_t>({1, 1, 3}));
      (rows ? p.pad_h : p.pad_w) = random_.below(pick<int64_t>({1, 4, taps}));
      (rows ? p.pad_h_end : p.pad_w_end) = random_.below(pick<int64_t>({1, 4, taps}));
    }
    fit(p);
  }
  // Windows that cover the image without overlap, in one group.
  void choose_tiles(Problem& p) {
    most_ = 1 << 17;
    p.R = 1 + random_.below(pick<int64_t>({1, 4, 12}));
    p.S = 1 + random_.below(pick<int64_t>({1, 4, 20}));
    p.H = p.R * (1 + random_.below(pick<int64_t>({1, 2, 5})));
    p.W = p.S * (1 + random_.below(pick<int64_t>({1, 2, 5})));
    p.stride_h = p.R;
    p.stride_w = p.S;
    p.C = size(66);
    p.O = size(66);
    p.Cg = p.C;
    while (cost(p) > most_ && p.N + p.C + p.O > 3) {
      int64_t& size = *pick({&p.N, &p.C, &p.O});
      size = ceil_div(size, 2);
      p.Cg = p.C;
    }
  }
  // Enlarges the images where the kernel is larger than they are.
  static void fit(Problem& p) {
    p.H = std::max(p.H, p.kernel_extent_h() - p.pad_h - p.pad_h_end);
    p.W = std::max(p.W, p.kernel_extent_w() - p.pad_w - p.pad_w_end);
  }
  // Returns the paddings of the four sides.
  static std::array<int64_t*, 4> sides(Problem& p) {
    return {&p.pad_h, &p.pad_w, &p.pad_h_end, &p.pad_w_end};
  }
  // Counts products, and elements too, because images may have more of them.
  static double cost(const Problem& p) {
    return p.flops() / 2 + static_cast<double>(p.min_bytes() / size_of(p.dtype));
  }
  // Halves a size or a padding. A 3x3 kernel stays 3x3.
  void shrink(Problem& p) {
    const bool is_3x3 = p.R == 3 && p.S == 3;
    int64_t Og = p.Og();
    int64_t* const sizes[] = {&p.N,     &p.H,     &p.W,         &p.groups,    &p.Cg, &Og,
                              &p.pad_h, &p.pad_w, &p.pad_h_end, &p.pad_w_end, &p.R,  &p.S};
    int64_t& size = *sizes[random_.below(std::size(sizes) - (is_3x3 ? 2 : 0))];
    size = (size + 1) / 2;
    p.C = p.groups * p.Cg;
    p.O = p.groups * Og;
    fit(p);
  }

  Random& random_;
  double most_ = 0;  // largest cost()
};

}  // namespace convkern
