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

  // Rows of `pixels` pixels for which `bytes` are buffered: enough for panels to be worth fetching,
  // few enough for the cache and for all threads to have some.
  Bands(int64_t batch, int64_t rows, int64_t pixels, int64_t bytes) : batch(batch), rows(rows) {
    const int64_t fitting = std::clamp<int64_t>(std::min(kPixels / pixels, kBufferBytes / bytes), 1,
                                                std::max<int64_t>(rows, 1) * batch);
    images = std::clamp<int64_t>(fitting / rows, 1, ceil_div(batch, kTasks));
    band_rows = std::min(rows, fitting);
    while (band_rows > 1 && band_rows * pixels > kLeastPixels &&
           batch * ceil_div(rows, band_rows) < kTasks) {
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

  static constexpr int64_t kPixels = 512, kLeastPixels = 64, kTasks = 8;
  static constexpr int64_t kBufferBytes = 1 << 20;
};

// From NCHW to pixels of a buffer, whole vectors of channels, zero beyond the last.
void load_pixels(const float* tensor, const ImageShape& shape, Range images, Range rows,
                 Range channels, const Pixels<float>& to) {
  const int64_t plane = shape.height * shape.width, n = rows.size() * shape.width;
  for (int64_t i = images.begin; i < images.end; ++i) {
    for (int64_t c = channels.begin; c < channels.end; c += kLanes) {
      const float* from = tensor + (i * shape.channels + c) * plane + rows.begin * shape.width;
      const int count = static_cast<int>(std::min<int64_t>(kLanes, channels.end - c));
      float* at = to.at + (i - images.begin) * to.image + (c - channels.begin);
      images_to_lanes(from, {plane, count}, n, VectorCursor(at, to.pixel, n, 0));
    }
  }
}

// The reverse.
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

// A buffer of `rows` rows an image; pixels are whole vectors, and not a multiple of 4 KiB apart,
// where they would compete for a few lines of the cache.
Pixels<float> buffer_of(float* at, int64_t channels, int64_t width, int64_t rows) {
  int64_t pixel = whole_vectors(channels);
  if (pixel % 1024 == 0) pixel += kLanes;
  return {at, pixel, pixel * width, pixel * width * rows};
}

}  // namespace implicit_gemm
}  // namespace
}  // namespace convkern::cpu
