// Which planes of the tensors the lanes of a vector hold: channels or images.
#pragma once

#include "cpu/blocking/finish-inl.h"
#include "cpu/blocking/pixels-inl.h"
#include "cpu/blocking/tasks-inl.h"

namespace convkern::cpu {
namespace {
namespace fft {

// The planes of a tensor, in vectors. If lanes are channels, which depthwise problems allow, a unit
// is an image, and a slice is a vector of channels with one plane. If lanes are images, a unit is a
// block of kLanes images, and a slice is a group with a plane for each of its channels.
struct PlaneLanes {
  ImageShape shape;
  bool channels;  // whether lanes are channels
  int64_t batch, groups;

  int64_t planes() const { return channels ? 1 : shape.channels / groups; }
  int64_t units() const { return channels ? batch : ceil_div(batch, kLanes); }
  int64_t slices() const { return channels ? ceil_div(shape.channels, kLanes) : groups; }
  // Returns the lanes in use.
  int count(int64_t unit, int64_t slice) const {
    const int64_t left = channels ? shape.channels - slice * kLanes : batch - unit * kLanes;
    return static_cast<int>(std::min<int64_t>(kLanes, left));
  }

  // Copies some rows and columns of the planes to the buffer `to`, whose columns are `column`
  // floats apart. Lanes that are not in use become zero.
  void load(const void* tensor, int64_t unit, int64_t slice, Range rows, Range columns,
            const View<Real>& to, int64_t column) const {
    const auto* from = static_cast<const Real*>(tensor);
    if (channels && shape.layout == Layout::nhwc) {
      const auto pixels = pixels_of(from, shape, region_of(unit, slice, rows, columns));
      const int lanes = count(unit, slice);
      for_each_pixel(pixels, rows.size(), columns.size(),
                     [&](const Real* p, int64_t row, int64_t i) CONVKERN_INLINE_LAMBDA {
                       const Vec v =
                           lanes == kLanes ? Vec::load_unaligned(p) : Vec::load_first(p, lanes);
                       v.store(to.at + row * to.row + i * column);
                     });
      return;
    }
    load_columns(from + first(unit, slice), block(unit, slice), image(), rows, columns,
                 planes_of(slice), to, column);
  }

  void store(void* tensor, int64_t unit, int64_t slice, Range rows, Range columns,
             const View<Real>& from, int64_t column) const {
    auto* to = static_cast<Real*>(tensor);
    if (channels && shape.layout == Layout::nhwc) {
      const auto pixels = pixels_of(to, shape, region_of(unit, slice, rows, columns));
      const int lanes = count(unit, slice);
      for_each_pixel(pixels, rows.size(), columns.size(),
                     [&](Real* p, int64_t row, int64_t i) CONVKERN_INLINE_LAMBDA {
                       const Vec v = Vec::load(from.at + row * from.row + i * column);
                       lanes == kLanes ? v.store_unaligned(p) : v.store_first(p, lanes);
                     });
      return;
    }
    store_columns(to + first(unit, slice), block(unit, slice), image(), rows, columns,
                  planes_of(slice), from, column);
  }
  void finish(const Epilogue& epilogue, void* tensor, int64_t unit, int64_t slice, Range rows,
              Range columns) const {
    Region region = region_of(unit, slice, rows, columns);
    if (!channels) {
      region.images = shifted({0, count(unit, slice)}, unit * kLanes);
      region.channels = planes_of(slice);
    }
    finish_region(epilogue, static_cast<Real*>(tensor), shape, region);
  }

 private:
  // Calls move(p, row, i) for the pixels of some rows. Prefetches those of the next as many rows,
  // because pixels of which a task moves only some channels are too far apart for the processor to
  // foresee.
  template <class Float, class Move>
  static CONVKERN_INLINE void for_each_pixel(const Pixels<Float>& pixels, int64_t rows,
                                             int64_t columns, const Move& move) {
    const int64_t ahead = rows * pixels.row;
    for (int64_t row = 0; row < rows; ++row) {
      Float* p = pixels.at + row * pixels.row;
      for (int64_t i = 0; i < columns; ++i, p += pixels.pixel) {
        __builtin_prefetch(p + ahead, /*write=*/!std::is_const_v<Float>);
        move(p, row, i);
      }
    }
  }

  Region region_of(int64_t unit, int64_t slice, Range rows, Range columns) const {
    const int64_t channel = slice * kLanes;
    return {{unit, unit + 1}, rows, columns, {channel, channel + count(unit, slice)}};
  }
  // In NCHW a plane of a channel is like an image of one channel.
  ImageShape image() const {
    return channels ? ImageShape{shape.layout, 1, shape.height, shape.width} : shape;
  }
  int64_t first(int64_t unit, int64_t slice) const {
    return channels ? unit * shape.size() + slice * kLanes * image().size()
                    : unit * kLanes * shape.size();
  }
  ImageBlock block(int64_t unit, int64_t slice) const {
    return {image().size(), count(unit, slice)};
  }
  Range planes_of(int64_t slice) const {
    return channels ? Range{0, 1} : shifted({0, planes()}, slice * planes());
  }
};

}  // namespace fft
}  // namespace
}  // namespace convkern::cpu
