// Pixels with their channels innermost: in place (channels_last) or in a buffer.
#pragma once

namespace convkern::cpu {
namespace {

inline int64_t whole_vectors(int64_t floats) { return ceil_div(floats, kLanes) * kLanes; }

// Rows of pixels; strides in floats.
template <class Float>
struct Pixels {
  Float* at;
  int64_t pixel, row, image;
  Pixels<const Float> read_only() const { return {at, pixel, row, image}; }
};

// Calls move(memory, planes, n, vectors) for each vector of channels of the rows of NCHW images: n
// floats of some planes in memory, and where their pixels are.
template <class Float, class Move>
CONVKERN_INLINE void for_each_vector(Float* tensor, const ImageShape& shape, Range images,
                                     Range rows, Range channels, const Pixels<Real>& pixels,
                                     const Move& move) {
  const int64_t plane = shape.height * shape.width, n = rows.size() * shape.width;
  for (int64_t i = images.begin; i < images.end; ++i) {
    for (int64_t c = channels.begin; c < channels.end; c += kLanes) {
      const int count = static_cast<int>(std::min<int64_t>(kLanes, channels.end - c));
      Real* at = pixels.at + (i - images.begin) * pixels.image + (c - channels.begin);
      move(tensor + (i * shape.channels + c) * plane + rows.begin * shape.width,
           ImageBlock{plane, count}, n, VectorCursor(at, pixels.pixel, n, 0));
    }
  }
}

// From NCHW to pixels of a buffer; whole vectors of channels, zero beyond the last, unless pixels
// are closer.
inline void load_pixels(const Real* tensor, const ImageShape& shape, Range images, Range rows,
                        Range channels, const Pixels<Real>& to) {
  if (to.pixel >= kLanes) {
    for_each_vector(tensor, shape, images, rows, channels, to,
                    [](const Real* p, ImageBlock block, int64_t n, VectorCursor lanes) {
                      images_to_lanes(p, block, n, lanes);
                    });
    return;
  }
  const int64_t plane = shape.height * shape.width, n = rows.size() * shape.width;
  for (int64_t i = images.begin; i < images.end; ++i) {
    const Real* from =
        tensor + (i * shape.channels + channels.begin) * plane + rows.begin * shape.width;
    Real* at = to.at + (i - images.begin) * to.image;
    for (int64_t pixel = 0; pixel < n; ++pixel) {
      for (int64_t c = 0; c < to.pixel; ++c) *at++ = from[c * plane + pixel];
    }
  }
}

// Some channels of channels_last pixels, adjacent to each other in each image, to whole vectors,
// zero beyond the last.
inline void copy_pixels(const Pixels<const Real>& from, int64_t images, int64_t pixels,
                        int64_t channels, const Pixels<Real>& to) {
  const int64_t last = (channels - 1) / kLanes * kLanes;
  const int lanes = static_cast<int>(channels - last);
  for (int64_t i = 0; i < images; ++i) {
    const Real* pixel = from.at + i * from.image;
    Real* copy = to.at + i * to.image;
    for (int64_t n = pixels; n > 0; --n, pixel += from.pixel, copy += to.pixel) {
      for (int64_t c = 0; c < last; c += kLanes) Vec::load_unaligned(pixel + c).store(copy + c);
      Vec::load_first(pixel + last, lanes).store(copy + last);
    }
  }
}

// The reverse of both: from whole vectors in a buffer to a tensor of any layout.
template <class T>
void store_pixels(T* tensor, const ImageShape& shape, Range images, Range rows, Range channels,
                  const Pixels<Real>& from) {
  if (shape.layout == Layout::nchw) {
    for_each_vector(tensor, shape, images, rows, channels, from,
                    [](T* p, ImageBlock block, int64_t n, VectorCursor lanes) {
                      lanes_to_images(p, block, n, lanes);
                    });
    return;
  }
  const int64_t last = (channels.size() - 1) / kLanes * kLanes;
  const int lanes = static_cast<int>(channels.size() - last);
  for (int64_t i = images.begin; i < images.end; ++i) {
    const int64_t first = (i * shape.height + rows.begin) * shape.width;
    T* to = tensor + first * shape.channels + channels.begin;
    const Real* pixel = from.at + (i - images.begin) * from.image;
    for (int64_t n = rows.size() * shape.width; n > 0; --n) {
      for (int64_t c = 0; c < last; c += kLanes) store_vector(to + c, Vec::load(pixel + c));
      store_first(to + last, lanes, Vec::load(pixel + last));
      to += shape.channels;
      pixel += from.pixel;
    }
  }
}

// A channels_last tensor from one of its rows on.
template <class Float>
Pixels<Float> pixels_of(Float* tensor, const ImageShape& shape, int64_t image, int64_t row,
                        int64_t channel) {
  const int64_t pitch = shape.width * shape.channels;
  return {tensor + (image * shape.height + row) * pitch + channel, shape.channels, pitch,
          shape.height * pitch};
}

// A buffer of `rows` rows an image. Pixels are whole vectors, and not a multiple of 4 KiB apart,
// where they would compete for a few lines of the cache.
inline Pixels<Real> vectors_buffer(Real* at, int64_t channels, int64_t width, int64_t rows) {
  int64_t pixel = whole_vectors(channels);
  if (pixel * sizeof(Real) % 4096 == 0) pixel += kLanes;
  return {at, pixel, pixel * width, pixel * width * rows};
}

// The same, but pixels of few channels are adjacent, so that the taps of a row are one run of
// floats.
inline Pixels<Real> runs_buffer(Real* at, int64_t channels, int64_t width, int64_t rows) {
  if (channels >= kLanes) return vectors_buffer(at, channels, width, rows);
  return {at, channels, channels * width, whole_vectors(channels * width * rows)};
}

}  // namespace
}  // namespace convkern::cpu
