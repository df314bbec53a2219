// Panels hold the factor of a matrix product that is read in vectors. A panel is a matrix of up to
// kPanelVectors vectors in each row, with the columns innermost. In forward the columns are output
// channels and in grad_input input channels; in grad_weight, where the factor is gy, they are
// output channels too. No panel has channels of two groups.
#pragma once

#include "cpu/blocking/parts-inl.h"
#include "cpu/blocking/residues-inl.h"
#include "cpu/tiles/matmul-inl.h"
#include "cpu/tiles/transpose-inl.h"

namespace convkern::cpu {
namespace {

// One panel: the columns [first, first + columns) of its group, padded to whole vectors.
struct Panel {
  int64_t first, columns;
  int64_t width() const { return whole_vectors(columns); }
  int64_t vectors() const { return width() / kLanes; }
  int lanes_of(int64_t vector) const {
    return static_cast<int>(std::min<int64_t>(kLanes, columns - vector * kLanes));
  }
  int last_lanes() const { return lanes_of(vectors() - 1); }
};

// The panels of one group.
struct Panels {
  int64_t columns, vectors, count;

  // The number of panels is even if they have three vectors at least then, so that two threads can
  // have equal shares of them.
  explicit Panels(int64_t columns)
      : columns(columns),
        vectors(ceil_div(columns, kLanes)),
        count(ceil_div(vectors, kPanelVectors)) {
    if (count % 2 == 1 && vectors >= 3 * (count + 1)) ++count;
  }
  Panel at(int64_t index) const {
    const Range part = near_equal_part(vectors, count, index);
    return {part.begin * kLanes, std::min(part.end * kLanes, columns) - part.begin * kLanes};
  }
  // Returns the panel that holds a vector of the group.
  Panel holding(int64_t vector) const { return at(((vector + 1) * count - 1) / vectors); }
  int64_t width() const { return vectors * kLanes; }  // the columns of all panels, padded
};

// Cuts gw into slices, one for each task. A slice has the weights between some panels of gy's
// channels and some channels of x, of one group.
struct WeightSlices {
  Panels panels;           // gy's channels of one group
  int64_t panel_slices;    // parts that the panels of a group are cut into
  int64_t width;           // the most columns, padded, that the panels of a slice have
  int64_t channel_slices;  // parts that x's channels of a group are cut into
  int64_t channels;        // the most channels of x that a slice has

  // A slice has at most `most_panels` panels. If these have `width` columns, it has at most
  // most_channels(width) channels of x.
  template <class MostChannels>
  WeightSlices(const Problem& p, int64_t most_panels, const MostChannels& most_channels)
      : panels(p.Og()),
        panel_slices(ceil_div(panels.count, most_panels)),
        width(std::min<int64_t>(ceil_div(panels.count, panel_slices) * kPanelVectors * kLanes,
                                panels.width())),
        channel_slices(ceil_div(p.Cg, most_channels(width))),
        channels(ceil_div(p.Cg, channel_slices)) {}

  int64_t count(const Problem& p) const { return p.groups * panel_slices * channel_slices; }
  int64_t group_of(int64_t slice) const { return slice / channel_slices / panel_slices; }
  Range panels_of(int64_t slice) const {
    return near_equal_part(panels.count, panel_slices, slice / channel_slices % panel_slices);
  }
  Range channels_of(const Problem& p, int64_t slice) const {
    return near_equal_part(p.Cg, channel_slices, slice % channel_slices);
  }
};

// The layout of one group's packed weights: (panel, block of terms, tap row, tap column, term,
// column). Terms are the channels that are summed over: input channels in forward and output
// channels in grad_input.
struct PackedTaps {
  int64_t taps, terms, blocks;  // `blocks` is the number of blocks of terms

  // A block is so small that its rows of a panel stay in the L2 cache while all pixels of a band
  // are multiplied with them.
  PackedTaps(int64_t taps, int64_t terms) : taps(taps), terms(terms) {
    blocks = std::min(terms, ceil_div(taps * terms, kBlockRows));
    blocks = std::max<int64_t>(1, blocks);
  }
  Range block(int64_t index) const { return near_equal_part(terms, blocks, index); }
  int64_t floats(const Panels& panels) const { return taps * terms * panels.width(); }
  // Returns the offset of a panel's rows for a block, in floats from the group's first row.
  int64_t offset(const Panel& panel, Range block) const {
    return taps * (terms * panel.first + block.begin * panel.width());
  }

  static constexpr int64_t kBlockRows = 1152;  // the most rows, taps times terms, of a block
};

// Moves weights between w (O, Cg, R, S) and a panel whose columns are output channels. The panel's
// rows are ordered (r, s, c) and have the input channels `channels` only.
struct PanelOfOutputs {
  int64_t weights, taps;  // Cg * R * S and R * S, the weights of one output channel and of a kernel

  VectorCursor cursor(Real* rows, const Panel& panel, Range channels, int64_t vector) const {
    const int64_t tap = channels.size() * panel.width();
    return {rows + vector * kLanes, tap, taps, panel.width() - taps * tap};
  }
  int64_t offset(const Panel& panel, Range channels, int64_t vector) const {
    return (panel.first + vector * kLanes) * weights + channels.begin * taps;
  }
  ImageBlock block(const Panel& panel, int64_t vector) const {
    return {weights, panel.lanes_of(vector)};
  }
  void pack(const Real* w, const Panel& panel, Range channels, Real* rows) const {
    for (int64_t v = 0; v < panel.vectors(); ++v) {
      images_to_lanes(w + offset(panel, channels, v), block(panel, v), channels.size() * taps,
                      cursor(rows, panel, channels, v));
    }
  }
  void unpack(Real* w, const Panel& panel, Range channels, Real* rows) const {
    for (int64_t v = 0; v < panel.vectors(); ++v) {
      lanes_to_images(w + offset(panel, channels, v), block(panel, v), channels.size() * taps,
                      cursor(rows, panel, channels, v));
    }
  }
};

// Does the work of pack_input_panel() for residues that have all taps of a kernel with several.
// They are packed from the last tap to the first.
void pack_reversed_taps(int64_t taps, int64_t input_channels, const Real* w, const Panel& panel,
                        Range outputs, Real* rows) {
  const int64_t tap = outputs.size() * panel.width();
  Real* last = rows + (taps - 1) * tap;
  for (int64_t o = outputs.begin; o < outputs.end; ++o, last += panel.width()) {
    for (int64_t v = 0; v < panel.vectors(); ++v) {
      const int64_t column = v * kLanes;
      images_to_lanes(w + (o * input_channels + panel.first + column) * taps,
                      {taps, panel.lanes_of(v)}, taps, VectorCursor(last + column, -tap, taps, 0));
    }
  }
}

// Packs the taps of one residue of gx into `rows` of a panel whose columns are input channels. The
// rows are ordered (tap row, tap column, output channel) and have the output channels `outputs` of
// the group. `w` points to the weights of the group's first output channel.
void pack_input_panel(const Problem& p, const Residue& residue, const Real* w, const Panel& panel,
                      Range outputs, Real* rows) {
  const ResidueAxis &r = residue.rows, &s = residue.columns;
  const int64_t taps = p.R * p.S;
  if (residue.tap_count() == taps && taps > 1) {
    return pack_reversed_taps(taps, p.Cg, w, panel, outputs, rows);
  }
  for (int64_t m = 0; m < r.axis.taps; ++m) {
    for (int64_t k = 0; k < s.axis.taps; ++k) {
      const int64_t tap = (r.last_tap - m * r.tap_stride) * p.S + s.last_tap - k * s.tap_stride;
      for (int64_t o = outputs.begin; o < outputs.end; ++o, rows += panel.width()) {
        const Real* from = w + (o * p.Cg + panel.first) * taps + tap;
        for (int64_t c = 0; c < panel.columns; ++c) rows[c] = from[c * taps];
        for (int64_t c = panel.columns; c < panel.width(); ++c) rows[c] = 0;
      }
    }
  }
}

}  // namespace
}  // namespace convkern::cpu
