// Loads tiles, which are squares of pixels, and transforms them to squares of spots. Each pixel and
// each spot is a vector of channels. The spots of all tiles are stored in planes: one plane has the
// same spot of every tile.
#pragma once

#include "cpu/algos/direct-inl.h"
#include "cpu/blocking/pixels-inl.h"

namespace convkern::cpu {
namespace {
namespace winograd {

constexpr int64_t kTermsTogether = 16;  // terms whose taps are transposed together

// The number of spots of a transformed tile. Each spot has its own matrix product.
template <class F>
constexpr int64_t kSpots = F::kIn * F::kIn;

// These load and store the spots of one tile, which are `plane` floats apart.
template <int kSide>
CONVKERN_INLINE void load_spots(const Real* from, int64_t plane, Vec (&square)[kSide][kSide]) {
#pragma GCC unroll 8
  for (int i = 0; i < kSide; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < kSide; ++j) square[i][j] = Vec::load(from + (i * kSide + j) * plane);
  }
}

template <int kSide>
CONVKERN_INLINE void store_spots(const Vec (&square)[kSide][kSide], Real* to, int64_t plane) {
#pragma GCC unroll 8
  for (int i = 0; i < kSide; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < kSide; ++j) square[i][j].store(to + (i * kSide + j) * plane);
  }
}

// Applies one of the transforms of transforms-inl.h along both axes of a square.
template <auto kTransform, int kFrom, int kTo>
CONVKERN_INLINE void transform_square(const Vec (&from)[kFrom][kFrom], Vec (&to)[kTo][kTo]) {
  Vec columns[kTo][kFrom];
#pragma GCC unroll 8
  for (int j = 0; j < kFrom; ++j) {
    Vec column[kFrom], transformed[kTo];
#pragma GCC unroll 8
    for (int i = 0; i < kFrom; ++i) column[i] = from[i][j];
    kTransform(column, transformed);
#pragma GCC unroll 8
    for (int i = 0; i < kTo; ++i) columns[i][j] = transformed[i];
  }
#pragma GCC unroll 8
  for (int i = 0; i < kTo; ++i) kTransform(columns[i], to[i]);
}

// Some whole rows of some channels of images. Pixels outside them are read as zero.
struct ImagePixels {
  Pixels<const Real> x;
  Range rows;
  int64_t width, channels;

  // The pixels are read in place in channels_last, and copied to the buffer in NCHW.
  ImagePixels(const Real* tensor, const ImageShape& shape, const Region& region,
              const Pixels<Real>& buffer)
      : x(pixels_of(tensor, shape, region)),
        rows(region.rows),
        width(shape.width),
        channels(region.channels.size()) {
    if (shape.layout == Layout::nhwc) return;
    load_pixels(tensor, shape, region, buffer);
    x = buffer.read_only();
  }

  // Returns whether pixels of an image of the region are unsafe, see is_unsafe().
  bool are_unsafe(int64_t image) const {
    Loudness seen;
    const Real* first = x.at + image * x.image;
    for (int64_t row = 0; row < rows.size(); ++row, first += x.row) {
      if (x.pixel == channels) {
        seen.see_run(first, width * channels);
      } else {
        for (int64_t i = 0; i < width; ++i) seen.see_run(first + i * x.pixel, channels);
      }
    }
    const Real total = seen.total();
    return is_unsafe(Vec::broadcast(&total), seen.largest());
  }

  CONVKERN_INLINE bool holds(int64_t row, int64_t column) const {
    return row >= rows.begin && row < rows.end && column >= 0 && column < width;
  }
  // Returns the address of a pixel. `from` points to the first pixel of the image's rows, at the
  // wanted channel.
  CONVKERN_INLINE const Real* at(const Real* from, int64_t row, int64_t column) const {
    return from + (row - rows.begin) * x.row + column * x.pixel;
  }
  // Loads the square whose first pixel is at `row`, `column`. With kWhole, all of its pixels must
  // be in the image and all lanes are loaded.
  template <bool kWhole, int kSide>
  CONVKERN_INLINE void load(const Real* from, int64_t row, int64_t column, int lanes,
                            Vec (&square)[kSide][kSide]) const {
    const Real* first = at(from, row, column);
#pragma GCC unroll 8
    for (int i = 0; i < kSide; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < kSide; ++j) {
        const Real* pixel = first + i * x.row + j * x.pixel;
        square[i][j] = kWhole                       ? Vec::load_unaligned(pixel)
                       : holds(row + i, column + j) ? Vec::load_first(pixel, lanes)
                                                    : Vec::zero();
      }
    }
  }
  // Prefetches a rectangle of kRows x kColumns pixels from `row`, `column` on.
  template <int kRows, int kColumns>
  CONVKERN_INLINE void prefetch(const Real* from, int64_t row, int64_t column) const {
    const Real* first = at(from, row, column);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < kColumns; ++j) __builtin_prefetch(first + i * x.row + j * x.pixel);
    }
  }
};

// Some rows of tiles of some images.
struct TileGrid {
  int64_t images;
  Range rows;
  int64_t width;  // tiles in a row

  int64_t count() const { return images * rows.size() * width; }
  // Calls body(image, row, column, index) for each tile.
  template <class Body>
  void for_each(const Body& body) const {
    int64_t index = 0;
    for (int64_t image = 0; image < images; ++image) {
      for (int64_t row = rows.begin; row < rows.end; ++row) {
        for (int64_t column = 0; column < width; ++column) body(image, row, column, index++);
      }
    }
  }
};

// Transforms one square of kSide x kSide pixels for each tile, and for each vector of channels. The
// squares are F::kOut pixels apart, and the first tile of an image has its square at `row`,
// `column`. place(index, channel) returns the address for the first spot of a tile and vector. The
// other spots follow at distances of `plane` floats.
template <class F, auto kTransform, int kSide, class Place>
void transform_tiles(const TileGrid& tiles, const ImagePixels& pixels, int64_t row, int64_t column,
                     int64_t plane, const Place& place) {
  tiles.for_each([&](int64_t image, int64_t tile_row, int64_t tile_column, int64_t index) {
    const Real* from = pixels.x.at + image * pixels.x.image;
    const int64_t h = tile_row * F::kOut + row, v = tile_column * F::kOut + column;
    const bool inside = pixels.holds(h, v) && pixels.holds(h + kSide - 1, v + kSide - 1);
    for (int64_t c = 0; c < pixels.channels; c += kLanes) {
      const auto lanes = static_cast<int>(std::min<int64_t>(kLanes, pixels.channels - c));
      // The code is compiled twice, so that a whole square is loaded without branches.
      auto transform = [&](auto whole) __attribute__((always_inline)) {
        Vec square[kSide][kSide], spots[F::kIn][F::kIn];
        pixels.template load<whole()>(from + c, h, v, lanes, square);
        transform_square<kTransform>(square, spots);
        store_spots(spots, place(index, c), plane);
      };
      if (inside && lanes == kLanes) {
        // The next tile reads F::kOut columns that this one does not.
        pixels.template prefetch<kSide, F::kOut>(from + c, h, v + kSide);
        transform(std::true_type());
      } else {
        transform(std::false_type());
      }
    }
  });
}

}  // namespace winograd
}  // namespace
}  // namespace convkern::cpu
