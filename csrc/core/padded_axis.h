// Which cells of an image the places around it hold, along one axis.
#pragma once

#include <cstdint>

#include "core/geometry.h"

namespace convkern {

// One axis of an image with cells before and after it. Its places are counted from the first of
// these.
struct PaddedAxis {
  PaddingMode mode;
  int64_t size, before, after;

  CONVKERN_HOST_DEVICE int64_t padded() const { return before + size + after; }

  // Returns the cell of the image that place `i` of the padded axis holds, or -1 if that is zero.
  CONVKERN_HOST_DEVICE int64_t source(int64_t i) const {
    const int64_t cell = i - before;
    if (cell >= 0 && cell < size) return cell;
    switch (mode) {
      case PaddingMode::reflect:
        return cell < 0 ? -cell : 2 * (size - 1) - cell;
      case PaddingMode::replicate:
        return cell < 0 ? 0 : size - 1;
      case PaddingMode::circular:
        return cell < 0 ? cell + size : cell - size;
      default:
        return -1;
    }
  }

  // Calls visit(i) for the places around the image that hold the cell too.
  template <class Visit>
  CONVKERN_HOST_DEVICE void for_each_repeat(int64_t cell, const Visit& visit) const {
    if (mode == PaddingMode::zeros) return;
    for (int64_t i = 0; i < before; ++i) {
      if (source(i) == cell) visit(i);
    }
    for (int64_t i = before + size; i < padded(); ++i) {
      if (source(i) == cell) visit(i);
    }
  }
};

inline PaddedAxis padded_rows(const Geometry<int64_t>& g) {
  return {g.padding_mode, g.H, g.pad_h, g.pad_h_end};
}
inline PaddedAxis padded_columns(const Geometry<int64_t>& g) {
  return {g.padding_mode, g.W, g.pad_w, g.pad_w_end};
}

}  // namespace convkern
