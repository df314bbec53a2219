#include "core/geometry_rules.h"

#include <algorithm>
#include <limits>

namespace convkern {
namespace {

// The largest sum of sizes is an extent with its padding on both sides, so three summands. It stays
// in int64_t's range if each is at most a quarter of that range.
constexpr int64_t kLargestSize = std::numeric_limits<int64_t>::max() / 4;

// Returns whether a * b * c * d elements times 32 bytes fit int64_t. 32 bytes are four elements of
// the widest dtype. Negative factors count as fitting, because broken_rule() reports them.
bool product_fits(__int128 a, __int128 b, __int128 c, __int128 d) {
  constexpr __int128 kLimit = std::numeric_limits<int64_t>::max() / 32;
  __int128 product = 1;
  if (std::min({a, b, c, d}) < 0) return true;
  for (const __int128 factor : {a, b, c, d}) {
    if (factor > kLimit) return product == 0;
    product *= factor;
    if (product > kLimit) return a == 0 || b == 0 || c == 0 || d == 0;
  }
  return true;
}

struct Extent {
  int64_t value;
  const char* name;
};

}  // namespace

Geometry<int64_t> with_idle_steps_bounded(Geometry<int64_t> g) {
  constexpr int64_t kLargeStep = 1 << 16;  // smaller steps stay as the user wrote them
  auto bound = [](int64_t size, int64_t before, int64_t after, int64_t taps, int64_t& stride,
                  int64_t& dilation) {
    for (const int64_t summand : {size, before, after}) {
      if (summand < 0 || summand > kLargestSize) return;
    }
    const int64_t padded = size + before + after;
    if (stride > kLargeStep && stride > padded) stride = std::max<int64_t>(1, padded);
    if (dilation > kLargeStep && taps == 1) dilation = 1;
  };
  bound(g.H, g.pad_h, g.pad_h_end, g.R, g.stride_h, g.dilation_h);
  bound(g.W, g.pad_w, g.pad_w_end, g.S, g.stride_w, g.dilation_w);
  const bool padded = g.pad_h != 0 || g.pad_h_end != 0 || g.pad_w != 0 || g.pad_w_end != 0;
  if (!padded) g.padding_mode = PaddingMode::zeros;
  return g;
}

std::string overflowing_size(const Geometry<int64_t>& g) {
  const Extent extents[] = {
      {g.H, "input.size(2)"},    {g.W, "input.size(3)"},        {g.pad_h, "padding[0]"},
      {g.pad_w, "padding[1]"},   {g.pad_h_end, "padding[0]"},   {g.pad_w_end, "padding[1]"},
      {g.stride_h, "stride[0]"}, {g.stride_w, "stride[1]"},     {g.R, "weight.size(2)"},
      {g.S, "weight.size(3)"},   {g.dilation_h, "dilation[0]"}, {g.dilation_w, "dilation[1]"}};
  for (const auto& [value, name] : extents) {
    if (value > kLargestSize) {
      return std::string(name) + "=" + std::to_string(value) +
             " is too large: sizes must fit int64";
    }
  }
  auto too_large = [](const char* what) {
    return std::string(what) + " is too large: its number of bytes must fit int64";
  };
  // Stop at negative numbers: they make no size, and broken_rule() reports them.
  for (const int64_t least_1 : {g.stride_h, g.stride_w, g.dilation_h, g.dilation_w, g.groups}) {
    if (least_1 < 1) return {};
  }
  for (const int64_t least_0 :
       {g.N, g.C, g.H, g.W, g.O, g.Cg, g.R, g.S, g.pad_h, g.pad_w, g.pad_h_end, g.pad_w_end}) {
    if (least_0 < 0) return {};
  }
  if (!product_fits(g.dilation_h, g.R, 1, 1) || !product_fits(g.dilation_w, g.S, 1, 1)) {
    return too_large("the dilated kernel");
  }
  if (!product_fits(g.Cg, g.groups, 1, 1)) return too_large("weight.size(1) * groups");
  if (!product_fits(g.N, g.C, g.H, g.W)) return too_large("input");
  if (g.padding_mode != PaddingMode::zeros && !product_fits(g.N, g.C, g.padded_h(), g.padded_w())) {
    return too_large("the padded input");
  }
  if (!product_fits(g.O, g.Cg, g.R, g.S)) return too_large("weight");
  if (!product_fits(g.N, g.O, g.OH(), g.OW())) return too_large("output");
  return {};
}

}  // namespace convkern
