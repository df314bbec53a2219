// Computes forward and grad_input of fft. The spectra of all taps are computed first. A task is a
// tile of one slice of one unit (see PlaneLanes). It transforms the rows of the tile's inputs.
// Then, for each kept frequency, it transforms the column, multiplies it by the taps and transforms
// the products back. Last it transforms the rows of the outputs back.
#pragma once

#include "cpu/algos/fft/redo-inl.h"
#include "cpu/algos/fft/spectra-inl.h"

namespace convkern::cpu {
namespace {
namespace fft {

// The plan of forward (kForward) or grad_input.
template <bool kForward>
struct Correlate final : Plan {
  const Setting s;
  const Redo redo;
  const PlaneLanes &in, &out;
  const int64_t in_rows, out_rows, in_columns, out_columns;  // places in every tile
  const bool in_place;  // whether the spectra of outputs replace those of inputs

  explicit Correlate(const Problem& p)
      : s(p),
        redo(s),
        in(kForward ? s.x : s.y),
        out(kForward ? s.y : s.x),
        in_rows(kForward ? s.x_row_places() : s.y_row_places()),
        out_rows(kForward ? s.y_row_places() : s.x_row_places()),
        in_columns(kForward ? s.x_column_places() : s.y_column_places()),
        out_columns(kForward ? s.y_column_places() : s.x_column_places()),
        in_place(in.planes() == 1 && out.planes() == 1) {}

  bool works() const { return redo.works(); }
  int64_t workspace(int threads) const override {
    const int64_t floats = shared_floats() + threads * thread_floats();
    return redo.mark_bytes() +
           std::max(floats * static_cast<int64_t>(sizeof(Real)), redo.workspace(threads));
  }
  void run(const Operands& ops, void* workspace, const Executor& executor) const override;

 private:
  FftPlaces in_row_places(int64_t tile) const { return kForward ? s.x_rows(tile) : s.y_rows(tile); }
  FftPlaces out_row_places(int64_t tile) const {
    return kForward ? s.y_rows(tile) : s.x_rows(tile);
  }
  // The spectra of taps that all threads read: vectors of channels, or single numbers.
  int64_t tap_floats() const { return s.x.channels ? s.spectrum_floats() : s.spectrum_size(); }
  int64_t shared_floats() const {
    return whole_vectors((s.x.channels ? s.tap_vectors() : s.tap_planes()) * tap_floats());
  }
  // A thread's memory.
  struct Memory {
    PlaneBuffers inputs, outputs;
    Real *values, *work, *energy, *largest;
  };
  Memory memory_in(Parts& parts) const {
    const int64_t rows = in_place ? std::max(in_rows, out_rows) : in_rows;
    const PlaneBuffers inputs(s, in.planes(), rows, in_columns, parts);
    const PlaneBuffers outputs(s, out.planes(), in_place ? rows : out_rows, out_columns, parts,
                               in_place ? &inputs : nullptr);
    return {inputs,
            outputs,
            parts.take(in.planes() * s.height->points * kComplex),
            parts.take(kMostPoints * kComplex),
            parts.take(in.planes() * kLanes),
            parts.take(in.planes() * kLanes)};
  }
  // The memory of a thread that transforms taps.
  struct TapMemory {
    TapBuffers buffers;
    Real *work, *vectors;
  };
  TapMemory tap_memory_in(Parts& parts) const {
    return {TapBuffers(s, parts), parts.take(kMostPoints * kComplex),
            parts.take(s.spectrum_floats())};
  }
  int64_t thread_floats() const {
    Parts tiles, taps;
    memory_in(tiles);
    tap_memory_in(taps);
    return std::max(tiles.floats, taps.floats);
  }

  void transform_all_taps(const Real* w, Real* spectra, Real* threads, const Marks& marks,
                          const Executor& executor) const;
  void transform_inputs(const void* tensor, int64_t unit, int64_t slice, int64_t tile,
                        const Memory& memory, const Marks& marks) const;
  void multiply_columns(int64_t slice, int64_t tile, const Real* spectra,
                        const Memory& memory) const;
  void transform_outputs(const Operands& ops, int64_t unit, int64_t slice, int64_t tile,
                         const Memory& memory) const;
};

template <bool kForward>
void Correlate<kForward>::transform_all_taps(const Real* w, Real* spectra, Real* threads,
                                             const Marks& marks, const Executor& executor) const {
  const int64_t count = s.tap_vectors();
  executor.run(count, 1, [&](int64_t begin, int64_t end, int thread) {
    Parts parts{threads + thread * thread_floats()};
    const TapMemory memory = tap_memory_in(parts);
    for (int64_t i = begin; i < end; ++i) {
      Real* to = s.x.channels ? spectra + i * s.spectrum_floats() : memory.vectors;
      const Vec energy = transform_taps(s, w, i, memory.buffers, memory.work, to);
      if (!Redo::are_safe_taps(energy)) redo.mark_taps(i, marks);
      if (s.x.channels) continue;
      lanes_to_images(spectra + i * kLanes * s.spectrum_size(),
                      {s.spectrum_size(), s.tap_block(i).count}, s.spectrum_size(),
                      VectorCursor(memory.vectors, kLanes, s.spectrum_size(), 0));
    }
  });
}

template <bool kForward>
void Correlate<kForward>::transform_inputs(const void* tensor, int64_t unit, int64_t slice,
                                           int64_t tile, const Memory& memory,
                                           const Marks& marks) const {
  const FftPlaces rows = in_row_places(tile);
  const FftPlaces columns = kForward ? s.x_columns(tile) : s.y_columns(tile);
  set_zero(memory.energy, 2 * in.planes() * kLanes);
  const PlaneBuffers& inputs = memory.inputs;
  const View<Real> cells = inputs.cells_from(columns.first);
  const int64_t step = columns.step * kLanes;
  transform_rows(s, inputs, rows, columns, memory.work, [&](Range band) {
    in.load(tensor, unit, slice, band, columns.range, cells, step);
    for (int64_t plane = 0; plane < inputs.planes; ++plane) {
      Loudness seen;
      for (int64_t row = 0; row < band.size(); ++row) {
        seen.see_all(cells.at + plane * cells.plane + row * cells.row, columns.range.size(), step);
      }
      Real *energy = memory.energy + plane * kLanes, *largest = memory.largest + plane * kLanes;
      cpu::add(Vec::load(energy), seen.energy()).store(energy);
      larger_magnitude(Vec::load(largest), seen.largest()).store(largest);
    }
  });
  redo.mark_unsafe(memory.energy, memory.largest, in.planes(), unit, slice, in.count(unit, slice),
                   marks);
}

template <bool kForward>
void Correlate<kForward>::multiply_columns(int64_t slice, int64_t tile, const Real* spectra,
                                           const Memory& memory) const {
  const Transform& height = *s.height;
  const FftPlaces in_places = in_row_places(tile), out_places = out_row_places(tile);
  const int in_part = height.part(in_places.end()), out_part = height.part(out_places.end());
  const int64_t column = tap_floats() / s.width->kept();  // floats of the taps of a frequency
  // The taps of input plane i and output plane o are the spectrum i * in_step + o * out_step.
  const int64_t in_step = (kForward ? 1 : s.p.Cg) * tap_floats();
  const int64_t out_step = (kForward ? s.p.Cg : 1) * tap_floats();
  const Real* first = spectra + slice * (s.x.channels ? 1 : s.p.Og() * s.p.Cg) * tap_floats();
  const int64_t values = height.points * kComplex;
  if (in_place) {
    const auto multiply_one = height.multiply_one[s.x.channels][kForward];
    for (int64_t frequency = 0; frequency < s.width->kept(); ++frequency) {
      height.begin(in_part, memory.inputs.column(0, frequency), memory.work);
      multiply_one(first + frequency * column, memory.work);
      height.complete_inverse(out_part, memory.work, memory.outputs.column(0, frequency));
    }
    return;
  }
  const auto multiply = height.multiply[kForward];  // lanes of several planes are images
  for (int64_t frequency = 0; frequency < s.width->kept(); ++frequency) {
    for (int64_t i = 0; i < in.planes(); ++i) {
      height.begin(in_part, memory.inputs.column(i, frequency), memory.work);
      height.inner(memory.work, memory.values + i * values);
    }
    for (int64_t o = 0; o < out.planes(); ++o) {
      const Real* taps = first + o * out_step + frequency * column;
      multiply({memory.values, values, taps, in_step, in.planes()}, memory.work);
      height.complete_inverse(out_part, memory.work, memory.outputs.column(o, frequency));
    }
  }
}

template <bool kForward>
void Correlate<kForward>::transform_outputs(const Operands& ops, int64_t unit, int64_t slice,
                                            int64_t tile, const Memory& memory) const {
  const FftPlaces rows = out_row_places(tile);
  const FftPlaces columns = kForward ? s.y_columns(tile) : s.x_columns(tile);
  const auto* bias = static_cast<const Real*>(ops.b);
  const Epilogue epilogue = kForward ? Epilogue(s.p, ops) : Epilogue();
  const bool changes = bias != nullptr || epilogue.bounds();
  const int lanes = out.count(unit, slice);
  const int64_t step = columns.step * kLanes;
  const View<Real> cells = memory.outputs.cells_from(columns.first);
  inverse_rows(s, memory.outputs, rows, columns, memory.work, [&](Range band) {
    for (int64_t plane = 0; changes && plane < out.planes(); ++plane) {
      Vec start = Vec::zero();
      if (bias != nullptr) {
        start = s.x.channels ? Vec::load_first(bias + slice * kLanes, lanes)
                             : Vec::broadcast(bias + slice * out.planes() + plane);
      }
      for (int64_t row = 0; row < band.size(); ++row) {
        Real* at = cells.at + plane * cells.plane + row * cells.row;
        for (int64_t i = columns.range.size(); i > 0; --i, at += step) {
          Vec sum = cpu::add(Vec::load(at), start);
          if (epilogue.bounds()) sum = epilogue.bound(sum);
          sum.store(at);
        }
      }
    }
    out.store(ops.out, unit, slice, band, columns.range, cells, step);
    out.finish(epilogue, ops.out, unit, slice, band, columns.range);
  });
}

template <bool kForward>
void Correlate<kForward>::run(const Operands& ops, void* workspace,
                              const Executor& executor) const {
  const Marks marks{static_cast<uint8_t*>(workspace)};
  marks.clear(redo.count());
  void* memory = static_cast<char*>(workspace) + redo.mark_bytes();
  auto* spectra = static_cast<Real*>(memory);
  Real* threads = spectra + shared_floats();
  transform_all_taps(static_cast<const Real*>(ops.w), spectra, threads, marks, executor);
  const int64_t units = in.units(), tiles = s.tiles(), tasks = in.slices() * units * tiles;
  executor.run(tasks, 1, [&](int64_t begin, int64_t end, int thread) {
    Parts parts{threads + thread * thread_floats()};
    const Memory buffers = memory_in(parts);
    int64_t placed = -1;  // the tile whose columns the input buffer has zeros around
    for (int64_t task = begin; task < end; ++task) {
      // The tasks of a slice are adjacent, so that its taps stay in the cache.
      const int64_t tile = task % tiles, unit = task / tiles % units, slice = task / tiles / units;
      if (tile != placed) set_zero(buffers.inputs.cells, buffers.inputs.cell_floats());
      placed = tile;
      transform_inputs(kForward ? ops.x : ops.gy, unit, slice, tile, buffers, marks);
      multiply_columns(slice, tile, spectra, buffers);
      transform_outputs(ops, unit, slice, tile, buffers);
    }
  });
  redo.run(ops, marks, memory, executor);
}

}  // namespace fft
}  // namespace
}  // namespace convkern::cpu
