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

// Calls transfer(offset, n, vectors) for runs that together cover the rows and channels. A run is n
// floats that are adjacent in an image, from `offset` floats into it. `vectors` steps through its
// vectors in the buffer, which begins with row rows.begin and channel channels.begin.
template <class Transfer>
CONVKERN_INLINE void for_each_run(const ImageShape& shape, Range rows, Range channels,
                                  const View<Real>& buffer, const Transfer& transfer) {
  const int64_t C = shape.channels, W = shape.width;
  if (shape.layout == Layout::nchw || C == 1) {
    for (int64_t c = channels.begin; c < channels.end; ++c) {
      Real* at = buffer.at + (c - channels.begin) * buffer.plane;
      transfer((c * shape.height + rows.begin) * W, rows.size() * W,
               VectorCursor(at, kLanes, W, buffer.row - W * kLanes));
    }
    return;
  }
  // A run is a row of pixels if all channels are moved, and otherwise one pixel.
  const bool whole = channels.size() == C;
  const int64_t pixels = whole ? W : 1;
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    for (int64_t column = 0; column < W; column += pixels) {
      Real* at = buffer.at + (row - rows.begin) * buffer.row + column * kLanes;
      transfer(
          (row * W + column) * C + channels.begin, pixels * channels.size(),
          VectorCursor(at, buffer.plane, channels.size(), kLanes - channels.size() * buffer.plane));
    }
  }
}

inline void load_rows(const Real* first_image, ImageBlock images, const ImageShape& shape,
                      Range rows, Range channels, const View<Real>& to) {
  for_each_run(shape, rows, channels, to,
               [&](int64_t offset, int64_t n, VectorCursor lanes) __attribute__((always_inline)) {
                 images_to_lanes(first_image + offset, images, n, lanes);
               });
}

inline void store_rows(Real* first_image, ImageBlock images, const ImageShape& shape, Range rows,
                       Range channels, const View<Real>& from) {
  for_each_run(shape, rows, channels, from,
               [&](int64_t offset, int64_t n, VectorCursor lanes) __attribute__((always_inline)) {
                 lanes_to_images(first_image + offset, images, n, lanes);
               });
}

}  // namespace
}  // namespace convkern::cpu
