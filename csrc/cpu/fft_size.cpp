#include "cpu/fft_size.h"

#include <algorithm>
#include <cmath>

#include "cpu/choice.h"

namespace convkern::cpu {

FftAxis::FftAxis(Pass pass, int64_t x_size, int64_t y_size, int64_t taps, int64_t stride,
                 int64_t pad, int64_t dilation)
    : pass(pass),
      x_size(x_size),
      y_size(y_size),
      tap_count(taps),
      stride(stride),
      pad(pad),
      dilation(dilation),
      reach((taps - 1) * dilation) {
  const int64_t outputs = cuts_x() ? x_size : y_size;
  const int64_t top = (y_size - 1) * stride + reach;  // the last point that a term of x has
  double least = INFINITY;
  for (const int64_t candidate : kFftPoints) {
    const bool wraps = candidate >= std::max({x_size + pad, top - pad + 1, top - reach + 1,  //
                                              reach + 1});
    const int64_t room = candidate - reach;  // points where outputs are right
    if (room < 1 && !wraps) continue;
    const int64_t fitting = wraps ? outputs : cuts_x() ? room : (room - 1) / stride + 1;
    const int64_t count = ceil_div(outputs, fitting);
    const double cost = static_cast<double>(count * candidate) * (std::log2(candidate) + 2);
    if (cost >= least) continue;
    least = cost;
    points = candidate;
    whole = wraps;
    tiles = count;
    tile = ceil_div(outputs, count);
  }
}

// Tiles begin with what their outputs read.
int64_t FftAxis::base(int64_t i) const {
  if (whole) return 0;
  return cuts_x() ? i * tile + pad - reach : i * tile * stride;
}

FftPlaces FftAxis::x(int64_t i) const {
  const int64_t shift = pad - tap_shift() - base(i);  // the place of x[0]
  Range range{0, x_size};
  if (cuts_x()) {
    range = {i * tile, std::min(x_size, (i + 1) * tile)};
  } else if (!whole) {
    range.begin = std::min(x_size, std::max<int64_t>(0, -shift));
    range.end = std::max(range.begin, std::min(x_size, (tile - 1) * stride + reach + 1 - shift));
  }
  return {range, range.empty() ? 0 : range.begin + shift, 1, points};
}

FftPlaces FftAxis::y(int64_t i) const {
  const int64_t shift = -base(i);
  Range range{0, y_size};
  if (!cuts_x()) {
    range = {i * tile, std::min(y_size, (i + 1) * tile)};
  } else if (!whole) {  // those from the place 0 to the place of the tile's last x
    range.begin = std::min(y_size, std::max<int64_t>(0, ceil_div(-shift, stride)));
    range.end =
        std::max(range.begin, std::min(y_size, floor_div(tile - 1 + reach - shift, stride) + 1));
  }
  return {range, range.empty() ? 0 : range.begin * stride + shift, stride, points};
}

int64_t FftAxis::x_end() const {
  if (whole) return x(0).end();
  return cuts_x() ? tile + reach : (tile - 1) * stride + reach + 1;
}

int64_t FftAxis::y_end() const {
  if (whole) return y(0).end();
  return cuts_x() ? tile + reach : (tile - 1) * stride + 1;
}

int64_t FftAxis::tap_shift() const { return whole ? pad : 0; }

FftPlaces FftAxis::taps() const {
  return {{0, tap_count}, tap_shift() == 0 ? 0 : points - tap_shift(), dilation, points};
}

FftSize::FftSize(const Problem& p)
    : rows(p.pass, p.H, p.OH(), p.R, p.stride_h, p.pad_h, p.dilation_h),
      columns(p.pass, p.W, p.OW(), p.S, p.stride_w, p.pad_w, p.dilation_w) {}

namespace {

using choice::used_lanes;

constexpr double kCopyCycles = 5.2;   // to copy a vector between lanes and memory
constexpr double kLaneSumCycles = 6;  // to add the lanes of a vector

// Returns the number of tasks as two threads see it, one of which waits for the last of an odd
// number.
double even(double tasks) { return 2 * std::ceil(tasks / 2); }

// The costs of the transforms of so many points, in cycles: of a column, and of two rows.
struct TransformCycles {
  double column, rows_in, rows_out;
  explicit TransformCycles(int64_t points) {
    const auto n = static_cast<double>(points);
    column = 65 + 1.0 * n * std::log2(n);
    rows_in = 70 + 1.12 * n * std::log2(n);
    rows_out = 78 + 1.3 * n * std::log2(n);
  }
};

}  // namespace

bool fft_lanes_are_channels(const Problem& p, int lanes) {
  return p.Cg == 1 && p.Og() == 1 && used_lanes(p.C, lanes) >= used_lanes(p.N, lanes);
}

int64_t fft_chunks(int64_t units, int64_t slices) {
  constexpr int64_t kTasks = 16;      // chunks are cut until there are so many tasks
  constexpr int64_t kChunkUnits = 4;  // the fewest units that pay for what ends a chunk
  const int64_t least = std::min(units, ceil_div(2, slices));
  return std::max(least, std::min(ceil_div(kTasks, slices), units / kChunkUnits));
}

double fft_cycles(const Problem& p, int lanes) {
  // Cycles of a point of two spectra. grad_weight adds the product to a sum in memory.
  const double product_cycles = p.pass == Pass::grad_weight ? 7.5 : 4.5;
  const FftSize size(p);
  if (!size.fits()) return INFINITY;
  const bool channels = fft_lanes_are_channels(p, lanes);
  // Channels of a group are then copied pixel by pixel.
  if (!channels && p.layout == Layout::nhwc && p.groups > 1) return INFINITY;
  const auto blocks =
      static_cast<double>(channels ? p.N * ceil_div(p.C, lanes) : ceil_div(p.N, lanes) * p.groups);
  const double x_planes = channels ? 1 : p.Cg, y_planes = channels ? 1 : p.Og();
  const TransformCycles width(size.columns.points), height(size.rows.points);
  const double kept = size.columns.points / 2 + 1;
  double tile = 0;
  for (const bool is_x : {true, false}) {
    const FftPlaces rows = is_x ? size.rows.x(0) : size.rows.y(0);
    const FftPlaces columns = is_x ? size.columns.x(0) : size.columns.y(0);
    const bool is_input = p.pass == Pass::grad_weight || is_x == (p.pass == Pass::forward);
    const auto count = static_cast<double>(rows.range.size());
    const double copy = kCopyCycles * count * static_cast<double>(columns.range.size());
    tile += (is_x ? x_planes : y_planes) *
            (copy + count / 2 * (is_input ? width.rows_in : width.rows_out) + kept * height.column);
  }
  const double points = kept * size.rows.points;
  tile += product_cycles * x_planes * y_planes * points;
  // The transforms of the taps or, for grad_weight, of the sums.
  const auto tap_vectors = static_cast<double>(ceil_div(p.O * p.Cg, lanes));
  const double taps = p.R * width.rows_in / 2 + kept * height.column;
  const auto tiles = static_cast<double>(size.rows.tiles * size.columns.tiles);
  if (p.pass == Pass::grad_weight) {
    const int64_t units = channels ? p.N : ceil_div(p.N, lanes);
    const int64_t slices = channels ? ceil_div(p.C, lanes) : p.groups;
    const int64_t chunks = fft_chunks(units, slices);
    const auto longest = static_cast<double>(ceil_div(units, chunks));
    // Vectors of channels are transformed to taps in each chunk. Lanes of images are added instead.
    const double end = channels ? taps : kLaneSumCycles * 2 * points * x_planes * y_planes;
    return even(static_cast<double>(slices * chunks)) * (longest * tiles * tile + end) +
           (channels ? 0 : even(tap_vectors) * taps) + kFftCallCycles;
  }
  return even(blocks * tiles) * tile + even(tap_vectors) * taps + kFftCallCycles;
}

// The direct sum takes the time of its products at 0.88 of the peak of two products a cycle, and
// copies to lanes unless it finds channels in them. A kernel is chosen that fills its vectors with
// channels, images or columns.
double direct_cycles(const Problem& p, int lanes) {
  constexpr double kProducts = 2 * 0.88;  // vectors of products in a cycle
  const bool depthwise = p.Cg == 1 && p.Og() == 1 && p.C > 1;
  const double used = std::max({used_lanes(depthwise ? p.C : p.Og(), lanes), used_lanes(p.N, lanes),
                                0.8 * used_lanes(p.OW(), lanes)});
  double vectors = 0;
  if (!depthwise || p.layout == Layout::nchw || p.C % lanes != 0) {
    vectors = static_cast<double>(p.N * (p.C * p.H * p.W + p.O * p.OH() * p.OW())) / lanes;
  }
  // The sums of grad_weight wait for the pixels of channels_last.
  const bool waits = depthwise && p.layout == Layout::nhwc && p.pass == Pass::grad_weight;
  // Depthwise kernels skip padding above and below the image, but multiply that beside it.
  const double flops = depthwise ? std::sqrt(p.flops() * p.real_flops()) : p.real_flops();
  const double products = flops / 2 / lanes / used;
  return products / kProducts * (waits ? 1.5 : 1) + kCopyCycles * vectors;
}

}  // namespace convkern::cpu
