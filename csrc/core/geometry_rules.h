// The rules that the sizes of a convolution obey, and the messages that name a broken one.
#pragma once

#include <cstdint>
#include <sstream>
#include <string>

#include "core/geometry.h"

namespace convkern {

template <class... Parts>
std::string to_text(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

// Returns the first rule that `g` breaks, as a sentence that names argument, value and rule.
// Returns an empty string when all rules hold. The rules are checked in the order of
// torch.nn.functional.conv2d. Where torch has a message, the words are the same, because users
// search for them and tests match them.
template <class Int>
std::string broken_rule(const Geometry<Int>& g) {
  auto pair = [](const auto& h, const auto& w) { return to_text("(", h, ", ", w, ")"); };
  auto by = [](const Int& h, const Int& w) { return to_text("(", h, " x ", w, ")"); };
  auto sizes = [](const Int& a, const Int& b, const Int& c, const Int& d) {
    return to_text("[", a, ", ", b, ", ", c, ", ", d, "]");
  };
  auto input = [&] { return sizes(g.N, g.C, g.H, g.W); };
  auto weight = [&] { return sizes(g.O, g.Cg, g.R, g.S); };
  if (g.pad_h < 0 || g.pad_w < 0 || g.pad_h_end < 0 || g.pad_w_end < 0) {
    const bool symmetric = g.pad_h == g.pad_h_end && g.pad_w == g.pad_w_end;
    return "negative padding is not supported, got padding=" +
           (symmetric ? pair(g.pad_h, g.pad_w)
                      : pair(pair(g.pad_h, g.pad_h_end), pair(g.pad_w, g.pad_w_end)));
  }
  if (g.stride_h < 1 || g.stride_w < 1) {
    return "non-positive stride is not supported, got stride=" + pair(g.stride_h, g.stride_w);
  }
  if (g.dilation_h < 1 || g.dilation_w < 1) {
    return "dilation should be greater than zero, got dilation=" + pair(g.dilation_h, g.dilation_w);
  }
  if (g.groups < 1) return to_text("non-positive groups is not supported, got groups=", g.groups);
  if (g.H < 0 || g.W < 0 || g.R < 0 || g.S < 0) {
    return "sizes must not be negative, got input of size " + input() + " and weight of size " +
           weight();
  }
  if (g.O < g.groups || g.O % g.groups != 0) {
    return to_text("Given groups=", g.groups, ", expected weight to be ",
                   g.O < g.groups ? "at least " : "divisible by ", g.groups,
                   " at dimension 0, but got weight of size ", weight(), " instead");
  }
  if (g.C != g.Cg * g.groups) {
    return to_text("Given groups=", g.groups, ", weight of size ", weight(), ", expected input",
                   input(), " to have ", g.Cg * g.groups, " channels, but got ", g.C,
                   " channels instead");
  }
  if (g.padding_mode == PaddingMode::reflect) {
    auto reflects = [&](const Int& size, const Int& before, const Int& after, int dimension) {
      if (before < size && after < size) return std::string();
      return "Padding size should be less than the corresponding input dimension, but got: "
             "padding " +
             pair(before, after) + to_text(" at dimension ", dimension, " of input ", input());
    };
    std::string rule = reflects(g.W, g.pad_w, g.pad_w_end, 3);
    if (rule.empty()) rule = reflects(g.H, g.pad_h, g.pad_h_end, 2);
    if (!rule.empty()) return rule;
  }
  if (g.padding_mode == PaddingMode::circular &&
      (g.pad_h > g.H || g.pad_h_end > g.H || g.pad_w > g.W || g.pad_w_end > g.W)) {
    return "Padding value causes wrapping around more than once.";
  }
  if (g.padded_h() < g.kernel_extent_h() || g.padded_w() < g.kernel_extent_w()) {
    return "Calculated padded input size per channel: " + by(g.padded_h(), g.padded_w()) +
           ". Kernel size: " + by(g.kernel_extent_h(), g.kernel_extent_w()) +
           ". Kernel size can't be greater than actual input size";
  }
  // N is checked last, because it may not be known yet.
  if ((g.H < 1 || g.W < 1) && g.C != 0 && g.N != 0) {
    return "Only zero batch or zero channel inputs are supported, but got input shape: " + input();
  }
  if ((g.R < 1 || g.S < 1) && g.C != 0 && g.N != 0) {
    return to_text("kernel size should be greater than zero, but got kernel_height: ", g.R,
                   " kernel_width: ", g.S, " of weight of size ", weight());
  }
  return "";
}

// Returns `g` with those steps made smaller that change no result, so that sums of sizes do not
// overflow. Such a step is a stride that exceeds the padded input, where only the first output
// exists. The other is a dilation of a kernel with one tap, which it never uses. An image without
// padding has no mode of padding either.
Geometry<int64_t> with_idle_steps_bounded(Geometry<int64_t> g);

// Returns a sentence that names the product or sum of sizes that does not fit int64_t, or an empty
// string when all fit. Call this before broken_rule(), before computing any size and before
// allocating memory.
std::string overflowing_size(const Geometry<int64_t>& g);

}  // namespace convkern
