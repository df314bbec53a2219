// Finishes the outputs of a task (tiles/epilogue-inl.h), which it has just stored in the tensor.
#pragma once

#include "cpu/blocking/images-inl.h"
#include "cpu/tiles/epilogue-inl.h"

namespace convkern::cpu {
namespace {

inline void finish_region(const Epilogue& epilogue, Real* tensor, const ImageShape& shape,
                          const Region& region) {
  if (!epilogue.finishes()) return;
  const int64_t C = shape.channels, W = shape.width, rows = region.rows.size();
  const int64_t width = region.columns.size(), channels = region.channels.size();
  for (int64_t i = region.images.begin; i < region.images.end; ++i) {
    Real* image = tensor + i * shape.size();
    if (shape.layout == Layout::nchw) {
      for (int64_t c = region.channels.begin; c < region.channels.end; ++c) {
        Real* at = image + (c * shape.height + region.rows.begin) * W + region.columns.begin;
        if (width == W) {
          epilogue.finish(at, 1, 0, rows * W);
        } else {
          epilogue.finish(at, rows, W, width);
        }
      }
      continue;
    }
    Real* at = image + (region.rows.begin * W + region.columns.begin) * C + region.channels.begin;
    if (channels == C) {
      epilogue.finish(at, rows, W * C, width * C);
    } else {
      for (int64_t row = 0; row < rows; ++row)
        epilogue.finish(at + row * W * C, width, C, channels);
    }
  }
}

}  // namespace
}  // namespace convkern::cpu
