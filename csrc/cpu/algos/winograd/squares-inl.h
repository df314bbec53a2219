// Tiles: squares of pixels, transformed to squares of spots, for vectors of channels.
#pragma once

#include "cpu/blocking/pixels-inl.h"

namespace convkern::cpu {
namespace {
namespace winograd {

constexpr int64_t kTermsTogether = 16;  // terms whose taps are transposed together

// The number of spots of a transformed tile. For each of them there is a matrix product.
template <class F>
constexpr int64_t kSpots = F::kIn * F::kIn;

// Spots are `plane` floats apart.
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

// One of the transforms along both axes of a square.
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

// Whole rows of a region of images, with zeros around them.
struct ImagePixels {
  Pixels<const Real> x;
  Range rows;
  int64_t width, channels;

  // The pixels are read in place or, in NCHW, through a buffer.
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

  CONVKERN_INLINE bool holds(int64_t row, int64_t column) const {
    return row >= rows.begin && row < rows.end && column >= 0 && column < width;
  }
  // The address of a pixel at some channels; `from` is the image's x at the first of them.
  CONVKERN_INLINE const Real* at(const Real* from, int64_t row, int64_t column) const {
    return from + (row - rows.begin) * x.row + column * x.pixel;
  }
  // The square from row, column on. kWhole: all its pixels and lanes are in memory.
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
  // Fetches pixels of some columns for squares of so many rows.
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

// Squares of kSide pixels, F::kOut pixels apart and the first at `row`, `column`, one for each
// tile. place(index, channel) is where the first spot of a tile's vector of channels goes; spots
// are `plane` floats apart.
template <class F, auto kTransform, int kSide, class Place>
void transform_tiles(const TileGrid& tiles, const ImagePixels& pixels, int64_t row, int64_t column,
                     int64_t plane, const Place& place) {
  tiles.for_each([&](int64_t image, int64_t tile_row, int64_t tile_column, int64_t index) {
    const Real* from = pixels.x.at + image * pixels.x.image;
    const int64_t h = tile_row * F::kOut + row, v = tile_column * F::kOut + column;
    const bool inside = pixels.holds(h, v) && pixels.holds(h + kSide - 1, v + kSide - 1);
    for (int64_t c = 0; c < pixels.channels; c += kLanes) {
      const auto lanes = static_cast<int>(std::min<int64_t>(kLanes, pixels.channels - c));
      // Twice, so that a whole square goes from memory to registers without a branch.
      auto transform = [&](auto whole) __attribute__((always_inline)) {
        Vec square[kSide][kSide], spots[F::kIn][F::kIn];
        pixels.template load<whole()>(from + c, h, v, lanes, square);
        transform_square<kTransform>(square, spots);
        store_spots(spots, place(index, c), plane);
      };
      if (inside && lanes == kLanes) {
        pixels.template prefetch<kSide, F::kOut>(from + c, h, v + kSide);  // of the next tile
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
