// Cuts the pixels of a batch into bands, one for each task.
#pragma once

#include "cpu/blocking/parts-inl.h"

namespace convkern::cpu {
namespace {

// The fewest columns that a band is cut down to. In narrower bands, much of what is read is read
// again by the neighbouring bands, because taps reach beyond the columns of a band.
constexpr int64_t kLeastBandColumns = 128;

// A band has all rows of some images, some rows of one image, or some columns of one row.
struct Bands {
  int64_t batch, rows, columns;             // images of the batch; rows and columns of an image
  int64_t images, band_rows, band_columns;  // the most of each that a band has
  // The parts that the batch, the rows of an image and the columns of a row are cut into. A band is
  // one part of each.
  int64_t image_bands, row_bands, column_bands;

  // A band gets about `most` rows, which may be rows of several images. It gets fewer if there
  // would be fewer than `tasks` bands. For that, an image is halved only while its bands have more
  // than `least` rows. Pass fewer `most_columns` than `columns` only if `most` is at most one row.
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
