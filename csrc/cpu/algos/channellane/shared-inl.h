// The code that the passes of direct_channellane share. It decides which problems they compute,
// cuts these into tasks, moves pixels to buffers and back, and packs the weights with the channels
// innermost.
#pragma once

#include "cpu/algos/channellane/row_tiles-inl.h"
#include "cpu/blocking/finish-inl.h"
#include "cpu/blocking/pixels-inl.h"
#include "cpu/blocking/tasks-inl.h"

namespace convkern::cpu {
namespace {
namespace channellane {

// The dtype of tensors of a number type.
template <class Number>
constexpr DType kDTypeOf = kDType;
template <>
constexpr DType kDTypeOf<BFloat16> = DType::bf16;
template <>
constexpr DType kDTypeOf<Half> = DType::f16;

// Makes a plan of class PassPlan, or says why direct_channellane does not compute the problem. The
// plan is for tensors of type Number. Those that are not Real are only read and written in place.
template <class PassPlan, class Number = Real>
Planned plan_if_grouped(const Problem& p) {
  if (p.dtype != kDTypeOf<Number>) return Reason::dtype;
  if (p.empty()) return Reason::empty;
  if (p.groups == 1) return Reason::not_grouped;
  const Groups groups(p);
  if (!groups.fit()) return Reason::channels;
  if (!groups.depthwise() && !fits_group_tiles(p)) return Reason::group_steps;
  return plan_within_memory<PassPlan>(p);
}

// Returns whether strips and tiles prefetch. They do if the tensors are read and written in place
// and are too large to stay in the caches, and the stride is at most 2, and 1 in grad_input. With
// float32 tensors of 12 MB prefetching was measured to be a tenth slower, and with 20 MB it was
// faster. With bfloat16, of whose lines two vectors take half each, it was faster with 12 MB (Zen
// 5).
bool fetches_pixels(const Problem& p) {
  constexpr int64_t kFetchedNumbers = 4 << 20;
  const int64_t stride = std::max(p.stride_h, p.stride_w);
  const bool in_order = stride <= (p.pass == Pass::grad_input ? 1 : 2);
  return in_order && Groups(p).in_place && p.min_bytes() > kFetchedNumbers * size_of(p.dtype);
}

// The tasks of a pass. A task is a band of output rows of one image, for a slice of the vectors of
// channels. Bands are near-equal, and in channels_last their number is doubled until there are
// enough tasks or their rows are few. If images are not read in place, every slice is one vector.
// In place, a vector that overlaps the one before it is always in the same slice, because no two
// threads may write the same memory.
struct Tasks {
  int64_t rows, bands, band_rows;  // band_rows: the most of a band
  int64_t vectors;
  int64_t most_slices;  // vectors that overlap none before them
  int64_t slices;

  Tasks(const Problem& p, int64_t rows) : rows(rows) {
    const Groups groups(p);
    vectors = groups.vectors();
    most_slices = groups.in_place ? p.C / kLanes : vectors;
    // These are the floats that a row of outputs reads and writes, about.
    const int64_t channels = p.layout == Layout::nhwc ? p.C : kLanes;
    const int64_t floats = (p.W * p.stride_h + p.OW()) * channels;
    const int64_t bytes = floats * static_cast<int64_t>(sizeof(Real));
    const int64_t fitting = std::max<int64_t>(1, kBandBytes / bytes);
    const int64_t whole_tiles = ceil_div(fitting, Vec::kTiles.rows) * Vec::kTiles.rows;
    bands = ceil_div(rows, whole_tiles);
    // Where slices are many anyway, short bands keep the rows of a slice in the L1 cache.
    const int64_t least = groups.in_place ? Vec::kTiles.rows : Vec::kTiles.rows - 1;
    if (p.layout == Layout::nhwc) {
      while (p.N * bands < kLeastTasks && rows >= 2 * bands * least) bands *= 2;
    }
    band_rows = ceil_div(rows, bands);
    slices = most_slices;
    if (groups.in_place) slices = std::min(slices, ceil_div(kLeastTasks, p.N * bands));
  }
  int64_t count(const Problem& p) const { return p.N * bands * slices; }
  int64_t image(int64_t task) const { return task / slices / bands; }
  Range band(int64_t index) const { return near_equal_part(rows, bands, index); }
  Range rows_of(int64_t task) const { return band(task / slices % bands); }
  Range vectors_of(int64_t task) const { return slice(task % slices); }
  Range slice(int64_t index) const {
    return with_overlap(near_equal_part(most_slices, slices, index));
  }
  // Returns some of the vectors that overlap none before them, with the one that overlaps them.
  Range with_overlap(Range part) const {
    return {part.begin, part.end == most_slices ? vectors : part.end};
  }
};

// Returns the columns of an image of which pixels are read: its own in place, and otherwise also
// those around it that terms of the axis may read, which are zeros in the buffer.
ColumnSpan columns_read(const Groups& groups, const Axis& axis) {
  ColumnSpan columns(axis.in);
  if (!groups.in_place) columns.cover(axis);
  return columns;
}

// A thread's buffers for the pixels of a vector of channels. They are empty if images are read in
// place.
struct PixelBuffers {
  ColumnSpan columns;  // of an input row
  int64_t in_floats = 0, out_floats = 0;

  PixelBuffers(const Problem& p, int64_t in_rows, const ColumnSpan& columns, int64_t out_rows,
               int64_t out_width)
      : columns(columns) {
    if (Groups(p).in_place) return;
    in_floats = in_rows * columns.width() * kLanes;
    out_floats = out_rows * out_width * kLanes;
  }
  int64_t floats() const { return in_floats + out_floats; }
  // Returns the axis with its input columns counted from the first that is read.
  Axis from_first(const Axis& axis) const {
    Axis shifted = axis;
    shifted.in = columns.width();
    shifted.offset -= columns.low;
    return shifted;
  }
};

Pixels<Real> vector_of_pixels(Real* at, int64_t width) { return {at, kLanes, kLanes * width, 0}; }

Region rows_of_image(const ImageShape& shape, int64_t image, Range rows, Range channels) {
  return {{image, image + 1}, rows, {0, shape.width}, channels};
}

// Copies rows of an image to the buffer, and returns them from the first of `columns` on. Columns
// beyond the image are zeros.
Pixels<const Real> copy_rows(const Real* tensor, const ImageShape& shape, const Region& region,
                             const ColumnSpan& columns, Real* buffer) {
  const Pixels<Real> whole = vector_of_pixels(buffer, columns.width());
  Pixels<Real> to = whole;
  to.at -= columns.low * to.pixel;
  const int64_t before = -columns.low * kLanes, after = (columns.high + 1 - shape.width) * kLanes;
  for (int64_t row = 0; row < region.rows.size(); ++row) {
    Real* first = whole.at + row * whole.row;
    set_zero(first, before);
    set_zero(first + whole.row - after, after);
  }
  if (shape.layout == Layout::nchw) {
    load_pixels(tensor, shape, region, to);
  } else {
    copy_pixels(pixels_of(tensor, shape, region), region, to);
  }
  return whole.read_only();
}

// Returns some rows and channels of an image from the first of `columns` on, either in place or as
// a copy in the buffer.
template <class Number>
Pixels<const Number> read_pixels(const void* tensor, const ImageShape& shape, int64_t image,
                                 Range rows, Range channels, bool in_place,
                                 const ColumnSpan& columns, Real* buffer) {
  const auto* from = static_cast<const Number*>(tensor);
  const Region region = rows_of_image(shape, image, rows, channels);
  if (in_place) return pixels_of(from, shape, region);
  if constexpr (std::is_same_v<Number, Real>)
    return copy_rows(from, shape, region, columns, buffer);
  return {};
}

// Returns whether outputs are written in place, as those of images that are read in place are.
// Otherwise they go to the buffer, and write_pixels() copies them to the tensor.
bool writes_in_place(const ImageShape& shape, Range channels) {
  return shape.layout == Layout::nhwc && channels.size() >= kLanes;
}

template <class Number>
Pixels<Number> pixels_to_write(void* tensor, const ImageShape& shape, int64_t image, Range rows,
                               Range channels, Real* buffer) {
  if constexpr (std::is_same_v<Number, Real>) {
    if (!writes_in_place(shape, channels)) return vector_of_pixels(buffer, shape.width);
  }
  return pixels_of(static_cast<Number*>(tensor), shape,
                   rows_of_image(shape, image, rows, channels));
}

template <class Number>
void write_pixels(void* tensor, const ImageShape& shape, int64_t image, Range rows, Range channels,
                  const Pixels<Number>& from) {
  if constexpr (std::is_same_v<Number, Real>) {
    if (writes_in_place(shape, channels)) return;
    store_pixels(static_cast<Real*>(tensor), shape, rows_of_image(shape, image, rows, channels),
                 from);
  }
}

// Packs the taps of each channel with the channels of a vector innermost. Tap `tap` of the i-th
// vector of channels becomes vector i * taps + tap. Lanes beyond the last channel are zero.
void pack_channels(const Groups& groups, const Real* w, int64_t taps, Real* packed) {
  for (int64_t i = 0; i < groups.vectors(); ++i) {
    const Range channels = groups.channels_of({i, i + 1});
    images_to_lanes(w + channels.begin * taps, {taps, static_cast<int>(channels.size())}, taps,
                    VectorCursor(packed + i * kLanes * taps, kLanes, taps, 0));
  }
}

// Returns the floats of all taps that pack_channels() has packed.
int64_t packed_floats(const Problem& p) {
  const Groups groups(p);
  return groups.vectors() * kLanes * groups.terms * p.R * p.S;
}

}  // namespace channellane
}  // namespace
}  // namespace convkern::cpu
