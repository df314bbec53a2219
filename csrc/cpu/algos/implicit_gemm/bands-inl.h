// The bands of pixels that tasks work on.
#pragma once

namespace convkern::cpu {
namespace {
namespace implicit_gemm {

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

}  // namespace implicit_gemm
}  // namespace
}  // namespace convkern::cpu
