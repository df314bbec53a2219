// Pixels whose channels are innermost. They lie either in a channels_last tensor or in a buffer to
// which they were copied.
#pragma once

#include "cpu/blocking/images-inl.h"
#include "cpu/blocking/parts-inl.h"

namespace convkern::cpu {
namespace {

// Images of pixels from the address `at` on. `pixel`, `row` and `image` are the strides from one to
// the next, in floats.
template <class Float>
struct Pixels {
  Float* at;
  int64_t pixel, row, image;
  Pixels<const Float> read_only() const { return {at, pixel, row, image}; }
};

// Calls move(offset, pixels, n) for runs of n pixels that together cover a region of an NCHW
// tensor. The pixels of a run are adjacent in the image, and may be several rows. `offset` is that
// of the first pixel's channel channels.begin in the tensor, in floats, and `pixels` is its place
// in the buffer.
template <class Move>
CONVKERN_INLINE void for_each_pixel_run(const ImageShape& shape, const Region& region,
                                        const Pixels<Real>& buffer, const Move& move) {
  const int64_t W = shape.width, plane = shape.height * W;
  const bool rows_adjacent = region.columns.size() == W;
  const int64_t rows = rows_adjacent ? 1 : region.rows.size();
  const int64_t n = (rows_adjacent ? region.rows.size() : 1) * region.columns.size();
  for (int64_t i = region.images.begin; i < region.images.end; ++i) {
    for (int64_t row = 0; row < rows; ++row) {
      move((i * shape.channels + region.channels.begin) * plane + (region.rows.begin + row) * W +
               region.columns.begin,
           buffer.at + (i - region.images.begin) * buffer.image + row * buffer.row, n);
    }
  }
}

// Calls move(memory, planes, n, vectors) for every run of n pixels and every vector of channels of
// it. `memory` points to the first of up to kLanes planes of an NCHW tensor, and `vectors` steps
// through the vectors of the pixels in the buffer.
template <class Float, class Move>
CONVKERN_INLINE void for_each_vector(Float* tensor, const ImageShape& shape, const Region& region,
                                     const Pixels<Real>& buffer, const Move& move) {
  const int64_t plane = shape.height * shape.width, width = region.columns.size();
  const int64_t gap = buffer.row - width * buffer.pixel;  // between the rows of the buffer
  const int64_t adjacent = gap == 0 ? INT64_MAX : width;
  for_each_pixel_run(shape, region, buffer, [&](int64_t offset, Real* pixels, int64_t n) {
    for (int64_t c = 0; c < region.channels.size(); c += kLanes) {
      const auto count = std::min<int64_t>(kLanes, region.channels.size() - c);
      move(tensor + offset + c * plane, ImageBlock{plane, static_cast<int>(count)}, n,
           VectorCursor(pixels + c, buffer.pixel, adjacent, gap));
    }
  });
}

// Copies n pixels from NCHW planes to adjacent pixels. The number of channels is a constant so that
// the compiler vectorises the loop.
template <int kChannels>
void interleave_planes(const Real* from, int64_t plane, int64_t n, Real* __restrict at) {
  for (int64_t pixel = 0; pixel < n; ++pixel) {
    for (int c = 0; c < kChannels; ++c) at[pixel * kChannels + c] = from[c * plane + pixel];
  }
}

inline void interleave_planes(const Real* from, int64_t plane, int64_t n, int64_t channels,
                              Real* at) {
  if (channels == 3) return interleave_planes<3>(from, plane, n, at);
  for (int64_t pixel = 0; pixel < n; ++pixel) {
    for (int64_t c = 0; c < channels; ++c) *at++ = from[c * plane + pixel];
  }
}

// Copies a region of an NCHW tensor to pixels of a buffer. If the buffer's pixels are at least
// kLanes floats apart, each becomes whole vectors with zeros beyond the last channel. Otherwise
// each is to.pixel channels without padding, and rows are adjacent.
inline void load_pixels(const Real* tensor, const ImageShape& shape, const Region& region,
                        const Pixels<Real>& to) {
  if (to.pixel >= kLanes) {
    for_each_vector(tensor, shape, region, to,
                    [](const Real* p, ImageBlock block, int64_t n, VectorCursor lanes) {
                      images_to_lanes(p, block, n, lanes);
                    });
    return;
  }
  const int64_t plane = shape.height * shape.width;
  for_each_pixel_run(shape, region, to, [&](int64_t offset, Real* at, int64_t n) {
    interleave_planes(tensor + offset, plane, n, to.pixel, at);
  });
}

// Copies a region of a channels_last tensor to pixels of whole vectors, with zeros beyond the last
// channel.
inline void copy_pixels(const Pixels<const Real>& from, const Region& region,
                        const Pixels<Real>& to) {
  const int64_t last = (region.channels.size() - 1) / kLanes * kLanes;
  const int lanes = static_cast<int>(region.channels.size() - last);
  for (int64_t i = 0; i < region.images.size(); ++i) {
    for (int64_t row = 0; row < region.rows.size(); ++row) {
      const Real* pixel = from.at + i * from.image + row * from.row;
      Real* copy = to.at + i * to.image + row * to.row;
      for (int64_t n = region.columns.size(); n > 0; --n) {
        for (int64_t c = 0; c < last; c += kLanes) Vec::load_unaligned(pixel + c).store(copy + c);
        Vec::load_first(pixel + last, lanes).store(copy + last);
        pixel += from.pixel;
        copy += to.pixel;
      }
    }
  }
}

// Returns the pixels of a channels_last tensor from the first pixel and channel of a region on.
template <class Float>
Pixels<Float> pixels_of(Float* tensor, const ImageShape& shape, const Region& region) {
  const int64_t pitch = shape.width * shape.channels;
  const int64_t row = region.images.begin * shape.height + region.rows.begin;
  return {tensor + row * pitch + region.columns.begin * shape.channels + region.channels.begin,
          shape.channels, pitch, shape.height * pitch};
}

// Copies pixels of whole vectors in a buffer to a region of a tensor of either layout. If T is not
// Real, the numbers are rounded to T.
template <class T>
void store_pixels(T* tensor, const ImageShape& shape, const Region& region,
                  const Pixels<Real>& from) {
  if (shape.layout == Layout::nchw) {
    for_each_vector(tensor, shape, region, from,
                    [](T* p, ImageBlock block, int64_t n, VectorCursor lanes) {
                      lanes_to_images(p, block, n, lanes);
                    });
    return;
  }
  const Pixels<T> to = pixels_of(tensor, shape, region);
  const int64_t last = (region.channels.size() - 1) / kLanes * kLanes;
  const int lanes = static_cast<int>(region.channels.size() - last);
  for (int64_t i = 0; i < region.images.size(); ++i) {
    for (int64_t row = 0; row < region.rows.size(); ++row) {
      T* at = to.at + i * to.image + row * to.row;
      const Real* pixel = from.at + i * from.image + row * from.row;
      for (int64_t n = region.columns.size(); n > 0; --n) {
        for (int64_t c = 0; c < last; c += kLanes) store_vector(at + c, Vec::load(pixel + c));
        store_first(at + last, lanes, Vec::load(pixel + last));
        at += to.pixel;
        pixel += from.pixel;
      }
    }
  }
}

// Returns the pixels of a buffer for images of `rows` rows, `width` pixels wide. A pixel is whole
// vectors. Pixels are never a multiple of 4 KiB apart, since they would then compete for a few
// lines of the cache.
inline Pixels<Real> vectors_buffer(Real* at, int64_t channels, int64_t width, int64_t rows) {
  int64_t pixel = whole_vectors(channels);
  if (pixel * sizeof(Real) % 4096 == 0) pixel += kLanes;
  return {at, pixel, pixel * width, pixel * width * rows};
}

// Returns such a buffer, but without padding between pixels of fewer than kLanes channels. The
// floats that adjacent taps of a row read are then one run.
inline Pixels<Real> runs_buffer(Real* at, int64_t channels, int64_t width, int64_t rows) {
  if (channels >= kLanes) return vectors_buffer(at, channels, width, rows);
  return {at, channels, channels * width, whole_vectors(channels * width * rows)};
}

}  // namespace
}  // namespace convkern::cpu
