// direct_batchlane grad_input: gx from gy and w, gathered: each residue of the gx index modulo the
// stride is a correlation of its own, with every stride-th tap.
#pragma once

#include <vector>

namespace convkern::cpu {
namespace {

// The rows and columns of one residue of gx modulo the stride, and where its taps are packed:
// for each group, channel c and output channel o of the group a rows.taps x columns.taps block.
struct Residue {
  ResidueAxis rows, columns;
  int64_t row, column;  // the residues
  int64_t taps;         // offset in floats
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

// The taps of every residue, reversed (see ResidueAxis).
void pack_taps(const Problem& p, const std::vector<Residue>& list, const float* w, float* packed) {
  const int64_t Og = p.Og();
  for (const Residue& residue : list) {
    const ResidueAxis &rows = residue.rows, &columns = residue.columns;
    for (int64_t c = 0; c < p.C; ++c) {
      for (int64_t o = c / p.Cg * Og; o < (c / p.Cg + 1) * Og; ++o) {
        const float* kernel = w + (o * p.Cg + c % p.Cg) * p.R * p.S;
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

// gx rows of a band are a multiple of the stride, so that every residue has its share of them.
Blocking grad_input_blocking(const Problem& p, const std::vector<Residue>& list) {
  Window window(p.OW());
  for (const Residue& residue : list) window.cover(residue.columns.axis);
  const int64_t out_rows = ceil_div(p.H, p.stride_h);  // of a residue, at most
  auto make = [&](int64_t n) {
    const int64_t gy_rows = std::min(p.OH(), n + (p.kernel_extent_h() - 1) / p.stride_h + 1);
    return Buffers(p.Cg, n * p.stride_h, p.W, p.Og(), gy_rows, window.width());
  };
  const int64_t n = rows_in_band(out_rows, Vec::kTileRows, make);
  return {p, out_rows, n, make(n), window};
}

int64_t packed_bytes(const Problem& p) {
  const int64_t floats = p.O * p.Cg * p.R * p.S;
  return ceil_div(floats, 16) * 64;  // keeps what follows aligned
}

void grad_input(const Problem& p, const Operands& ops, void* workspace, const Executor& executor) {
  const std::vector<Residue> list = residues(p);
  const Blocking blocking = grad_input_blocking(p, list);
  const Buffers& buffers = blocking.buffers;
  const ImageShape xs = x_shape(p), ys = y_shape(p);
  const int64_t Og = p.Og(), Cg = p.Cg, tasks = blocking.blocks * p.groups * blocking.bands;
  auto* packed = static_cast<float*>(workspace);
  pack_taps(p, list, static_cast<const float*>(ops.w), packed);
  void* threads = static_cast<char*>(workspace) + packed_bytes(p);

  executor.run(tasks, blocking.grain(p, tasks), [&](int64_t begin, int64_t end, int thread) {
    float* memory = thread_buffers(threads, buffers, thread);
    const View<float> gx = buffers.x(memory), gy = buffers.y(memory + buffers.x_floats);
    set_zero(gy.at, buffers.y_floats);
    const View<float> image{gy.at - blocking.window.low * kLanes, gy.plane, gy.row};
    for (int64_t task = begin; task < end; ++task) {
      const int64_t group = task / blocking.bands % p.groups;
      const int64_t block = task / blocking.bands / p.groups;
      const Range h{task % blocking.bands * blocking.band_rows * p.stride_h,
                    std::min(p.H, (task % blocking.bands + 1) * blocking.band_rows * p.stride_h)};
      // gy rows that reach these gx rows: i * stride + r * dilation = h + pad for some r.
      const Range in{
          std::max<int64_t>(0, ceil_div(h.begin + p.pad_h - p.kernel_extent_h() + 1, p.stride_h)),
          std::min(p.OH(), floor_div(h.end - 1 + p.pad_h, p.stride_h) + 1)};
      if (!in.empty()) {
        load_rows(static_cast<const float*>(ops.gy) + block * kLanes * ys.size(),
                  blocking.images(p, block, ys), ys, in, {group * Og, (group + 1) * Og}, image);
      }
      for (const Residue& residue : list) {
        const int64_t u = h.begin / p.stride_h;
        const Range outs{u, std::min(residue.rows.axis.out, u + blocking.band_rows)};
        if (outs.empty()) continue;
        const ResidueAxis &rows = residue.rows, &columns = residue.columns;
        Correlation c;
        c.rows = restrict_outputs(rows.axis, outs, in);
        c.columns = columns.axis;
        c.channels = Cg;
        c.planes = Og;
        c.in = {image.at, image.plane, image.row};
        c.out_column = p.stride_w * kLanes;
        c.taps = {packed + residue.taps + group * Cg * Og * residue.tap_count(),
                  residue.tap_count(), columns.axis.taps};
        c.taps_channel = Og * residue.tap_count();
        c.out = {gx.at + residue.row * gx.row + residue.column * kLanes, gx.plane,
                 gx.row * p.stride_h};
        correlate<Taps::broadcast>(c);
      }
      store_rows(static_cast<float*>(ops.out) + block * kLanes * xs.size(),
                 blocking.images(p, block, xs), xs, h, {group * Cg, (group + 1) * Cg}, gx);
    }
  });
}

int64_t grad_input_workspace(const Problem& p, int threads) {
  return packed_bytes(p) + grad_input_blocking(p, residues(p)).buffers.bytes() * threads;
}

}  // namespace
}  // namespace convkern::cpu
