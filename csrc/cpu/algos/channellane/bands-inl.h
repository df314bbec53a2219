// What the passes of direct_channellane share: which problems they compute, how they are cut into
// tasks, and the weights with the channels innermost.
#pragma once

namespace convkern::cpu {
namespace {
namespace channellane {

template <int64_t (*workspace)(const Problem&, int)>
Reason supports(const Problem& p) {
  if (p.dtype != DType::f32) return Reason::dtype;
  if (p.layout != Layout::nhwc) return Reason::layout;
  if (p.Cg != 1 || p.Og() != 1) return Reason::not_depthwise;
  if (p.C % kLanes != 0) return Reason::channels;
  return cpu::supports<workspace>(p);
}

// The tasks of an image: bands of output rows, and slices of the vectors of channels.
struct Tasks {
  int64_t rows, band_rows, bands;
  int64_t vectors, slices;

  // `row_bytes`: what a row of outputs reads and writes.
  Tasks(const Problem& p, int64_t rows, int64_t row_bytes) : rows(rows), vectors(p.C / kLanes) {
    const int64_t fitting = std::max<int64_t>(1, kBandBytes / row_bytes);
    const int64_t whole_tiles = ceil_div(fitting, Vec::kTileRows) * Vec::kTileRows;
    band_rows = rows_for_threads(rows, std::min(rows, whole_tiles), p.N);
    bands = ceil_div(rows, band_rows);
    slices = std::min(vectors, ceil_div(kLeastTasks, p.N * bands));
  }
  int64_t count(const Problem& p) const { return p.N * bands * slices; }
  int64_t image(int64_t task) const { return task / slices / bands; }
  Range band(int64_t index) const {
    return {index * band_rows, std::min(rows, (index + 1) * band_rows)};
  }
  Range rows_of(int64_t task) const { return band(task / slices % bands); }
  Range vectors_of(int64_t task) const { return near_equal_part(vectors, slices, task % slices); }
};

int64_t bytes_of_row(const Problem& p) {
  return (p.W * p.stride_h + p.OW()) * p.C * static_cast<int64_t>(sizeof(float));
}

// Rows of (R, S) taps of the channels, with the channels of a vector innermost: tap `tap` of
// channel c becomes lane c % kLanes of vector (c / kLanes) * taps + tap.
void pack_channels(const float* w, int64_t channels, int64_t taps, float* packed) {
  for (int64_t c = 0; c < channels; c += kLanes) {
    images_to_lanes(w + c * taps, {taps, kLanes}, taps,
                    VectorCursor(packed + c * taps, kLanes, taps, 0));
  }
}

// A row of an NHWC tensor is width * C floats.
View<const float> pixels(const void* tensor, int64_t first_row, int64_t width, const Problem& p) {
  return {static_cast<const float*>(tensor) + first_row * width * p.C, 0, width * p.C};
}

// The correlation, with long sums cut into sums of about kBlockTerms products.
void correlate_in_place(const Correlation& whole) {
  if (in_strips(whole.rows) && in_strips(whole.columns)) return correlate_strips(whole);
  const Axis& rows = whole.rows;
  const int64_t products = rows.taps * whole.columns.taps;
  const int64_t blocks = std::max<int64_t>(1, std::min(rows.taps, products / kBlockTerms));
  for (int64_t block = 0; block < blocks; ++block) {
    const Range taps = near_equal_part(rows.taps, blocks, block);
    Correlation part = whole;
    part.rows = restrict_taps(rows, taps, {0, rows.in});
    part.taps.at += taps.begin * whole.taps.row;
    if (block > 0) part.init = Init::accumulate;
    part.relu = whole.relu && block == blocks - 1;
    correlate<Taps::in_place>(part);
  }
}

}  // namespace channellane
}  // namespace
}  // namespace convkern::cpu
