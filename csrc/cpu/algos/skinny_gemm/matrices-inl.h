// Convolutions whose windows do not overlap, as products of matrices: 1x1 kernels, kernels as large
// as the image, and patches (kernels as large as their stride). Each row of the matrices stands for
// a pixel of y. A row of the `wide` matrix is the window of x under that pixel, and a row of the
// `narrow` matrix is the channels of y. W is the matrix of weights, of `narrow` rows and `wide`
// columns, so that
//
//   forward      narrow = wide * transposed W
//   grad_input   wide = narrow * W
//   grad_weight  W = transposed narrow * wide
//
// With a 1x1 kernel, few input channels and more output channels the roles are turned: x is the
// narrow matrix, y the wide one, W is w transposed, and forward and grad_input change places.
#pragma once

#include "cpu/blocking/panels-inl.h"
#include "cpu/blocking/parts-inl.h"
#include "cpu/blocking/tasks-inl.h"
#include "cpu/tiles/dot-inl.h"
#include "cpu/tiles/matmul-inl.h"

namespace convkern::cpu {
namespace {
namespace skinny_gemm {

// A matrix in memory, whose rows are `step` floats apart.
template <class Float>
struct Matrix {
  Float* at;
  int64_t step;
};

constexpr int64_t kPanelColumns = kPanelVectors * kLanes;  // wide columns computed at a time

struct Matrices {
  const Problem p;
  bool turned;
  // W has other strides than w: its rows are w's columns (turned), or end with the channels.
  bool permutes;
  int64_t rows, narrow, wide;
  // Whether neighbours in memory are the same channel of neighbouring pixels, as in NCHW. Then only
  // the rows of one image are at equal distances.
  bool columns_first;
  int64_t of_image;  // rows of the narrow matrix that are at equal distances
  // Rows of the wide matrix are cut into segments, whose floats are adjacent in memory. Windows of
  // patches are gathered: their segments are rows of the window. Other rows are adjacent as a whole
  // and read in place, and their segments are as wide as a panel.
  bool gathers;
  int64_t segment, segments;

  explicit Matrices(const Problem& problem)
      : p(problem),
        turned(p.R * p.S == 1 && p.C < p.O && p.C <= kPanelColumns),
        permutes(turned || (p.layout == Layout::nhwc && p.R * p.S > 1 && p.C > 1)),
        rows(p.N * p.OH() * p.OW()),
        narrow(turned ? p.C : p.O),
        wide(turned ? p.O : p.C * p.R * p.S),
        columns_first(p.layout == Layout::nchw && p.OH() * p.OW() > 1),
        of_image(columns_first ? p.OH() * p.OW() : rows),
        gathers(p.OH() * p.OW() > 1 && p.R * p.S > 1),
        segment(!gathers                   ? kPanelColumns
                : p.layout == Layout::nchw ? p.S
                                           : p.S * p.C),
        segments(ceil_div(wide, segment)) {}

  // Returns the floats from a row of the narrow matrix to the next one of the same image, and from
  // one column to the next.
  int64_t narrow_row() const { return columns_first ? 1 : narrow; }
  int64_t narrow_column() const { return columns_first ? of_image : 1; }
  int64_t narrow_offset(int64_t row) const {
    return row / of_image * of_image * narrow + row % of_image * narrow_row();
  }

  // Returns the columns of some segments.
  Range columns_of(Range parts) const {
    return {parts.begin * segment, std::min(wide, parts.end * segment)};
  }

  // Calls move(memory, buffer) for the segments `parts` of some rows, with their addresses in the
  // tensor and in a buffer whose rows begin with the first of these segments. Segments that are
  // adjacent in memory follow each other.
  template <class Float, class Move>
  void for_each_segment(Float* tensor, Range of_rows, Range parts, const Matrix<Real>& buffer,
                        const Move& move) const {
    const int64_t pixel = p.layout == Layout::nhwc ? p.C : 1;
    const int64_t row = p.W * pixel, width = p.OW(), height = p.OH();
    for (int64_t first = of_rows.begin, n; first < of_rows.end; first += n) {
      n = std::min(of_rows.end - first, width - first % width);
      Float* window = tensor + first / width / height * p.C * p.H * p.W +
                      first / width % height * p.R * row + first % width * p.S * pixel;
      for (int64_t i = parts.begin; i < parts.end; ++i) {
        Float* from = window + (i / p.R * p.H + i % p.R) * row;
        Real* at = buffer.at + (first - of_rows.begin) * buffer.step + (i - parts.begin) * segment;
        for (int64_t q = 0; q < n; ++q) move(from + q * p.S * pixel, at + q * buffer.step);
      }
    }
  }

  // Returns some segments of some rows of the wide matrix, in place or as a copy in the buffer,
  // whose rows are then whole vectors.
  Matrix<const Real> read_wide(const void* tensor, Range of_rows, Range parts, Real* buffer) const {
    const auto* from = static_cast<const Real*>(tensor);
    const Range columns = columns_of(parts);
    if (!gathers) return {from + of_rows.begin * wide + columns.begin, wide};
    const Matrix<Real> to{buffer, whole_vectors(columns.size())};
    for_each_segment(from, of_rows, parts, to,
                     [&](const Real* memory, Real* at) { copy_floats(memory, segment, at); });
    return {to.at, to.step};
  }

  static CONVKERN_INLINE void copy_floats(const Real* from, int64_t n, Real* to) {
    for (; n > kLanes; n -= kLanes, from += kLanes, to += kLanes) {
      Vec::load_unaligned(from).store_unaligned(to);
    }
    Vec::load_first(from, static_cast<int>(n)).store_first(to, static_cast<int>(n));
  }
};

constexpr int64_t kBlockRows = 96;            // a panel of so many rows fits the L1 cache
constexpr int64_t kGatheredFloats = 3 << 14;  // target for the floats of the rows that are gathered
// Slices are cut until there are so many tasks. Two for each of four threads keep these busy where
// one is interrupted.
constexpr int64_t kTasks = 8;

// How the rows are cut into blocks. No block has rows of two images if these are not at equal
// distances.
struct Blocks {
  int64_t of_image, rows, in_image, count;

  explicit Blocks(const Matrices& m)
      : of_image(m.of_image),
        rows(near_equal_block(of_image, most_rows(m))),
        in_image(ceil_div(of_image, rows)),
        count(m.rows / of_image * in_image) {}
  Range at(int64_t index) const {
    const int64_t first = index / in_image * of_image, i = index % in_image;
    return shifted({i * rows, std::min(of_image, (i + 1) * rows)}, first);
  }
  static int64_t most_rows(const Matrices& m) {
    if (!m.gathers) return kBlockRows;
    return std::clamp<int64_t>(kGatheredFloats / m.wide, kDotRows, kBlockRows);
  }
};

}  // namespace skinny_gemm
}  // namespace
}  // namespace convkern::cpu
