// The bands of pixels that tasks work on.
#pragma once

#include "cpu/blocking/parts-inl.h"

namespace convkern::cpu {
namespace {

// Columns of a band, at least: with fewer, much of what a band reads is for the taps beyond them.
constexpr int64_t kLeastBandColumns = 128;

// Bands: all rows of some images, some rows of one, or some columns of a row.
struct Bands {
  int64_t batch, rows, columns;                  // of the batch, of an image
  int64_t images, band_rows, band_columns;       // of a band, at most
  int64_t image_bands, row_bands, column_bands;  // of the batch, of an image, of a row

  // Bands of `most` rows, or fewer where there would not be `tasks` of them; but of a single image
  // at least `least` rows. `most_columns` is less than all only where `most` is one row.
  Bands(int64_t batch, int64_t rows, int64_t most, int64_t tasks, int64_t least,
        int64_t columns = 1, int64_t most_columns = 1)
      : batch(batch), rows(rows), columns(columns), band_columns(most_columns) {
    images = std::clamp<int64_t>(most / rows, 1, ceil_div(batch, tasks));
    band_rows = std::clamp<int64_t>(most, 1, rows);
    while (band_rows > least && batch * ceil_div(rows, band_rows) < tasks) {
      band_rows = ceil_div(band_rows, 2);
    }
    image_bands = ceil_div(batch, images);
    row_bands = ceil_div(rows, band_rows);
    while (band_rows == 1 && band_columns >= 2 * kLeastBandColumns &&
           batch * rows * ceil_div(columns, band_columns) < tasks) {
      band_columns = ceil_div(band_columns, 2);
    }
    column_bands = ceil_div(columns, band_columns);
    band_columns = ceil_div(columns, column_bands);
  }
  int64_t count() const { return image_bands * row_bands * column_bands; }
  Range images_of(int64_t band) const {
    return near_equal_part(batch, image_bands, band / column_bands / row_bands);
  }
  Range rows_of(int64_t band) const {
    return near_equal_part(rows, row_bands, band / column_bands % row_bands);
  }
  Range columns_of(int64_t band) const {
    return near_equal_part(columns, column_bands, band % column_bands);
  }
};

}  // namespace
}  // namespace convkern::cpu
