// Panels: the factor that a matrix product holds in vectors, with its columns innermost. Columns
// are the channels of the result (forward: O, grad_input: C), of each group on its own.
#pragma once

#include "cpu/blocking/parts-inl.h"
#include "cpu/blocking/residues-inl.h"
#include "cpu/tiles/matmul-inl.h"
#include "cpu/tiles/transpose-inl.h"

namespace convkern::cpu {
namespace {

// Up to kPanelVectors vectors of columns of a group.
struct Panel {
  int64_t first, columns;  // in the group
  int64_t width() const { return whole_vectors(columns); }
  int64_t vectors() const { return width() / kLanes; }
  int lanes_of(int64_t vector) const {
    return static_cast<int>(std::min<int64_t>(kLanes, columns - vector * kLanes));
  }
  int last_lanes() const { return lanes_of(vectors() - 1); }
};

struct Panels {
  int64_t columns, vectors, count;

  explicit Panels(int64_t columns)
      : columns(columns),
        vectors(ceil_div(columns, kLanes)),
        count(ceil_div(vectors, kPanelVectors)) {}
  Panel at(int64_t index) const {
    const Range part = near_equal_part(vectors, count, index);
    return {part.begin * kLanes, std::min(part.end * kLanes, columns) - part.begin * kLanes};
  }
  // The panel that holds a vector.
  Panel holding(int64_t vector) const { return at(((vector + 1) * count - 1) / vectors); }
  int64_t width() const { return vectors * kLanes; }  // of all panels
};

// How gw is cut into tasks: slices of some panels of gy's channels and some channels of x, of each
// group.
struct WeightSlices {
  Panels panels;           // of a group
  int64_t panel_slices;    // of a group
  int64_t width;           // of a slice's panels, at most
  int64_t channel_slices;  // of a group
  int64_t channels;        // of a slice, at most

  // A slice has at most so many panels and, where its panels have some width, most_channels(width)
  // channels.
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

// The place of one group's packed weights: for each panel and each block of terms (forward: input
// channels, grad_input: output channels) there are rows (tap row, tap column, term).
struct PackedTaps {
  int64_t taps, terms, blocks;  // of terms

  // Blocks are cut so that the rows of a panel stay in the L2 cache while pixels go by.
  PackedTaps(int64_t taps, int64_t terms) : taps(taps), terms(terms) {
    blocks = std::min(terms, ceil_div(taps * terms, kBlockRows));
    blocks = std::max<int64_t>(1, blocks);
  }
  Range block(int64_t index) const { return near_equal_part(terms, blocks, index); }
  int64_t floats(const Panels& panels) const { return taps * terms * panels.width(); }
  // The offset of a panel's rows for a block from the group's first, in floats.
  int64_t offset(const Panel& panel, Range block) const {
    return taps * (terms * panel.first + block.begin * panel.width());
  }

  static constexpr int64_t kBlockRows = 1152;
};

// Moves weights between w (O, Cg, R, S) and the rows (r, s, c) of a panel of output channels, from
// channels.begin on.
struct PanelOfOutputs {
  int64_t weights, taps;  // of an output channel, of a channel of it

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

// Packs all taps of a kernel that has several, from the last to the first; see pack_input_panel().
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

// Rows (tap row, tap column, output channel) of a panel of input channels, for the taps of one
// residue of gx, from w at the group's output channel outputs.begin.
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
