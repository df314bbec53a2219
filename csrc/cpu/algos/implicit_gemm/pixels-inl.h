// Pixels with their channels innermost, in place (channels_last) or in a buffer, and the bands of
// pixels that tasks work on.
#pragma once

namespace convkern::cpu {
namespace {
namespace implicit_gemm {

// Rows of pixels; strides in floats.
template <class Float>
struct Pixels {
  Float* at;
  int64_t pixel, row, image;
};

// Bands: some rows of an image, or all rows of some images.
struct Bands {
  int64_t batch, rows;             // rows of an image
  int64_t images, band_rows;       // of a band, at most
  int64_t image_bands, row_bands;  // of the batch, of an image

  // Bands of `most` rows, or fewer where there would not be `tasks` of them; but of a single image
  // at least `least` rows.
  Bands(int64_t batch, int64_t rows, int64_t most, int64_t tasks, int64_t least)
      : batch(batch), rows(rows) {
    images = std::clamp<int64_t>(most / rows, 1, ceil_div(batch, tasks));
    band_rows = std::clamp<int64_t>(most, 1, rows);
    while (band_rows > least && batch * ceil_div(rows, band_rows) < tasks) {
      band_rows = ceil_div(band_rows, 2);
    }
    image_bands = ceil_div(batch, images);
    row_bands = ceil_div(rows, band_rows);
  }
  int64_t count() const { return image_bands * row_bands; }
  Range images_of(int64_t band) const {
    return near_equal_part(batch, image_bands, band / row_bands);
  }
  Range rows_of(int64_t band) const { return near_equal_part(rows, row_bands, band % row_bands); }
};

constexpr int64_t kBandPixels = 512;  // enough for a panel to be worth fetching
constexpr int64_t kTasks = 8;         // so many for any number of threads, if need be

// From NCHW to pixels of a buffer; whole vectors of channels, zero beyond the last, unless pixels
// are closer.
void load_pixels(const float* tensor, const ImageShape& shape, Range images, Range rows,
                 Range channels, const Pixels<float>& to) {
  const int64_t plane = shape.height * shape.width, n = rows.size() * shape.width;
  for (int64_t i = images.begin; i < images.end; ++i) {
    if (to.pixel < kLanes) {
      const float* from =
          tensor + (i * shape.channels + channels.begin) * plane + rows.begin * shape.width;
      float* at = to.at + (i - images.begin) * to.image;
      for (int64_t pixel = 0; pixel < n; ++pixel) {
        for (int64_t c = 0; c < to.pixel; ++c) *at++ = from[c * plane + pixel];
      }
      continue;
    }
    for (int64_t c = channels.begin; c < channels.end; c += kLanes) {
      const float* from = tensor + (i * shape.channels + c) * plane + rows.begin * shape.width;
      const int count = static_cast<int>(std::min<int64_t>(kLanes, channels.end - c));
      float* at = to.at + (i - images.begin) * to.image + (c - channels.begin);
      images_to_lanes(from, {plane, count}, n, VectorCursor(at, to.pixel, n, 0));
    }
  }
}

// Some channels of channels_last pixels, adjacent to each other in each image, to whole vectors,
// zero beyond the last.
void copy_pixels(const Pixels<const float>& from, int64_t images, int64_t pixels, int64_t channels,
                 const Pixels<float>& to) {
  const int64_t last = (channels - 1) / kLanes * kLanes;
  const int lanes = static_cast<int>(channels - last);
  for (int64_t i = 0; i < images; ++i) {
    const float* pixel = from.at + i * from.image;
    float* copy = to.at + i * to.image;
    for (int64_t n = pixels; n > 0; --n, pixel += from.pixel, copy += to.pixel) {
      for (int64_t c = 0; c < last; c += kLanes) Vec::load_unaligned(pixel + c).store(copy + c);
      Vec::load_first(pixel + last, lanes).store(copy + last);
    }
  }
}

// The reverse of load_pixels().
void store_pixels(float* tensor, const ImageShape& shape, Range images, Range rows, Range channels,
                  const Pixels<float>& from) {
  const int64_t plane = shape.height * shape.width, n = rows.size() * shape.width;
  for (int64_t i = images.begin; i < images.end; ++i) {
    for (int64_t c = channels.begin; c < channels.end; c += kLanes) {
      float* to = tensor + (i * shape.channels + c) * plane + rows.begin * shape.width;
      const int count = static_cast<int>(std::min<int64_t>(kLanes, channels.end - c));
      float* at = from.at + (i - images.begin) * from.image + (c - channels.begin);
      lanes_to_images(to, {plane, count}, n, VectorCursor(at, from.pixel, n, 0));
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
Pixels<float> vectors_buffer(float* at, int64_t channels, int64_t width, int64_t rows) {
  int64_t pixel = whole_vectors(channels);
  if (pixel % 1024 == 0) pixel += kLanes;
  return {at, pixel, pixel * width, pixel * width * rows};
}

// The same, but pixels of few channels are adjacent, so that the taps of a row are one run of
// floats.
Pixels<float> runs_buffer(float* at, int64_t channels, int64_t width, int64_t rows) {
  if (channels >= kLanes) return vectors_buffer(at, channels, width, rows);
  return {at, channels, channels * width, whole_vectors(channels * width * rows)};
}

}  // namespace implicit_gemm
}  // namespace
}  // namespace convkern::cpu
