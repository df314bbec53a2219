// grad_input cuts gx by the residues of its row and column modulo the strides. Each residue is one
// correlation of gy with the taps that reach it (core/axis.h).
#pragma once

#include "cpu/simd/vec.h"

namespace convkern::cpu {
namespace {

// One residue of gx, and the place of its packed taps. These are ordered (input channel, output
// channel of the same group, tap row, tap column).
struct Residue {
  ResidueAxis rows, columns;
  int64_t row, column;  // the residues of the gx row and column
  int64_t taps;         // offset of its packed taps, in floats
  int64_t tap_count() const { return rows.axis.taps * columns.axis.taps; }
};

std::vector<Residue> residues(const Problem& p) {
  std::vector<Residue> list;
  int64_t taps = 0;
  for (int64_t a = 0; a < std::min(p.stride_h, p.H); ++a) {
    for (int64_t b = 0; b < std::min(p.stride_w, p.W); ++b) {
      list.push_back({grad_input_axis(p.H, p.OH(), p.R, p.stride_h, p.pad_h, p.dilation_h, a),
                      grad_input_axis(p.W, p.OW(), p.S, p.stride_w, p.pad_w, p.dilation_w, b), a, b,
                      taps});
      taps += p.O * p.Cg * list.back().tap_count();
    }
  }
  return list;
}

// Packs the taps of every residue, from the last to the first (see ResidueAxis).
inline void pack_taps(const Problem& p, const std::vector<Residue>& list, const Real* w,
                      Real* packed) {
  const int64_t Og = p.Og();
  for (const Residue& residue : list) {
    const ResidueAxis &rows = residue.rows, &columns = residue.columns;
    for (int64_t c = 0; c < p.C; ++c) {
      for (int64_t o = c / p.Cg * Og; o < (c / p.Cg + 1) * Og; ++o) {
        const Real* kernel = w + (o * p.Cg + c % p.Cg) * p.R * p.S;
        for (int64_t m = 0; m < rows.axis.taps; ++m) {
          for (int64_t k = 0; k < columns.axis.taps; ++k) {
            *packed++ = kernel[(rows.last_tap - m * rows.tap_stride) * p.S + columns.last_tap -
                               k * columns.tap_stride];
          }
        }
      }
    }
  }
}

// Returns the gy rows that have a term in any of the gx rows h. Row i of gy has one in row h if
// i * stride + r * dilation = h + pad for some tap row r.
inline Range grad_input_rows(const Problem& p, Range h) {
  return {std::max<int64_t>(0, ceil_div(h.begin + p.pad_h - p.kernel_extent_h() + 1, p.stride_h)),
          std::min(p.OH(), floor_div(h.end - 1 + p.pad_h, p.stride_h) + 1)};
}

// Returns the most gy rows that a band with n gx rows of every residue reads.
inline int64_t grad_input_reads(const Problem& p, int64_t n) {
  return std::min(p.OH(), n + (p.kernel_extent_h() - 1) / p.stride_h + 1);
}

}  // namespace
}  // namespace convkern::cpu
