// Moves rows of image tensors between memory and the lane buffers of a block of images. A lane
// buffer is ordered (channel, row, column, lane), and each lane belongs to one image.
#pragma once

#include "cpu/tiles/operands-inl.h"
#include "cpu/tiles/transpose-inl.h"

namespace convkern::cpu {
namespace {

// The sizes of one image of a tensor that is dense in its layout.
struct ImageShape {
  Layout layout;
  int64_t channels, height, width;
  int64_t size() const { return channels * height * width; }  // floats of one image
};

// A box of a tensor: some channels of some pixels of some images.
struct Region {
  Range images, rows, columns, channels;
};

// Calls transfer(offset, n, vectors) for runs that together cover some rows, columns and channels.
// A run is n floats that are adjacent in an image, from `offset` floats into it. `vectors` steps
// through its vectors in the buffer, which begins with rows.begin, columns.begin and
// channels.begin. Neighbouring columns of the buffer are `column` floats apart.
template <class Transfer>
CONVKERN_INLINE void for_each_run(const ImageShape& shape, Range rows, Range columns,
                                  Range channels, const View<Real>& buffer, int64_t column,
                                  const Transfer& transfer) {
  const int64_t C = shape.channels, W = shape.width, width = columns.size();
  const bool whole_rows = width == W;
  if (shape.layout == Layout::nchw || C == 1) {
    const int64_t together = whole_rows ? rows.size() : 1;  // rows that are adjacent
    for (int64_t c = channels.begin; c < channels.end; ++c) {
      for (int64_t row = rows.begin; row < rows.end; row += together) {
        Real* at =
            buffer.at + (c - channels.begin) * buffer.plane + (row - rows.begin) * buffer.row;
        const int64_t n = together * width, gap = buffer.row - width * column;
        transfer((c * shape.height + row) * W + columns.begin, n,
                 VectorCursor(at, column, gap == 0 ? n : width, gap));
      }
    }
    return;
  }
  // A run is a row of pixels if all channels are moved, and otherwise one pixel.
  const bool whole = channels.size() == C;
  const int64_t pixels = whole ? width : 1;
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    for (int64_t i = 0; i < width; i += pixels) {
      Real* at = buffer.at + (row - rows.begin) * buffer.row + i * column;
      transfer(
          (row * W + columns.begin + i) * C + channels.begin, pixels * channels.size(),
          VectorCursor(at, buffer.plane, channels.size(), column - channels.size() * buffer.plane));
    }
  }
}

inline void load_columns(const Real* first_image, ImageBlock images, const ImageShape& shape,
                         Range rows, Range columns, Range channels, const View<Real>& to,
                         int64_t column) {
  for_each_run(shape, rows, columns, channels, to, column,
               [&](int64_t offset, int64_t n, VectorCursor lanes) __attribute__((always_inline)) {
                 images_to_lanes(first_image + offset, images, n, lanes);
               });
}

inline void store_columns(Real* first_image, ImageBlock images, const ImageShape& shape, Range rows,
                          Range columns, Range channels, const View<Real>& from, int64_t column) {
  for_each_run(shape, rows, columns, channels, from, column,
               [&](int64_t offset, int64_t n, VectorCursor lanes) __attribute__((always_inline)) {
                 lanes_to_images(first_image + offset, images, n, lanes);
               });
}

// These move whole rows.
inline void load_rows(const Real* first_image, ImageBlock images, const ImageShape& shape,
                      Range rows, Range channels, const View<Real>& to) {
  load_columns(first_image, images, shape, rows, {0, shape.width}, channels, to, kLanes);
}

inline void store_rows(Real* first_image, ImageBlock images, const ImageShape& shape, Range rows,
                       Range channels, const View<Real>& from) {
  store_columns(first_image, images, shape, rows, {0, shape.width}, channels, from, kLanes);
}

}  // namespace
}  // namespace convkern::cpu
