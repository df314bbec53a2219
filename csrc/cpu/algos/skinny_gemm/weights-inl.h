// Copies the weights to the matrix W and back.
#pragma once

#include "cpu/algos/skinny_gemm/matrices-inl.h"
#include "cpu/tiles/transpose-inl.h"

namespace convkern::cpu {
namespace {
namespace skinny_gemm {

// Calls move(o, channels) for each output channel and each vector of input channels.
template <class Move>
void for_each_vector(const Problem& p, const Executor& executor, const Move& move) {
  const int64_t vectors = ceil_div(p.C, kLanes), count = p.O * vectors;
  executor.run(count, task_grain(p, count), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t c = i % vectors * kLanes;
      move(i / vectors, Range{c, std::min(p.C, c + kLanes)});
    }
  });
}

// A buffer for the taps of a vector of channels, as vectors. Larger kernels are moved in parts.
constexpr int64_t kBufferTaps = 64;

// Calls move(memory, planes, taps, cursor, column, lanes) for parts of the taps of some channels.
// The taps lie in w (O, C, R * S) as planes from the address `memory` on, in a row of W (O, R * S,
// C) from `column` on, and between them in `lanes` as vectors of channels, which `cursor` steps
// through.
template <class Float, class Move>
void for_each_part_of_taps(const Problem& p, Float* w, int64_t o, Range channels,
                           const Move& move) {
  alignas(64) Real lanes[kBufferTaps * kLanes];
  const int64_t taps = p.R * p.S;
  const ImageBlock planes{taps, static_cast<int>(channels.size())};
  for (int64_t tap = 0; tap < taps; tap += kBufferTaps) {
    const int64_t n = std::min(kBufferTaps, taps - tap);
    move(w + (o * p.C + channels.begin) * taps + tap, planes, n, VectorCursor(lanes, kLanes, n, 0),
         tap * p.C + channels.begin, lanes);
  }
}

// Copies w (O, C, R, S) to W, whose rows are `step` floats apart.
inline void pack_weights(const Matrices& m, const Real* w, Real* to, int64_t step,
                         const Executor& executor) {
  const Problem& p = m.p;
  if (m.turned) {
    const int64_t vectors = ceil_div(p.O, kLanes);
    executor.run(vectors, task_grain(p, vectors), [&](int64_t begin, int64_t end, int) {
      for (int64_t o = begin * kLanes; o < std::min(p.O, end * kLanes); o += kLanes) {
        const ImageBlock block{p.C, static_cast<int>(std::min<int64_t>(kLanes, p.O - o))};
        images_to_lanes(w + o * p.C, block, p.C, VectorCursor(to + o, step, p.C, 0));
      }
    });
  } else if (m.permutes) {
    for_each_vector(p, executor, [&](int64_t o, Range channels) {
      for_each_part_of_taps(
          p, w, o, channels,
          [&](const Real* memory, ImageBlock planes, int64_t taps, VectorCursor cursor,
              int64_t column, const Real* lanes) {
            images_to_lanes(memory, planes, taps, cursor);
            Real* at = to + o * step + column;
            for (int64_t i = 0; i < taps; ++i) {
              Vec::load(lanes + i * kLanes).store_first(at + i * p.C, planes.count);
            }
          });
    });
  } else {
    executor.run(m.narrow, task_grain(p, m.narrow), [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i)
        Matrices::copy_floats(w + i * m.wide, m.wide, to + i * step);
    });
  }
}

// Copies the matrix W, whose rows are contiguous, to gw (O, C, R, S).
inline void unpack_weights(const Matrices& m, const Real* from, Real* gw,
                           const Executor& executor) {
  const Problem& p = m.p;
  if (m.turned) {
    for (int64_t o = 0; o < p.O; ++o) {
      for (int64_t c = 0; c < p.C; ++c) gw[o * p.C + c] = from[c * p.O + o];
    }
    return;
  }
  for_each_vector(p, executor, [&](int64_t o, Range channels) {
    for_each_part_of_taps(p, gw, o, channels,
                          [&](Real* memory, ImageBlock planes, int64_t taps, VectorCursor cursor,
                              int64_t column, Real* lanes) {
                            const Real* at = from + o * m.wide + column;
                            for (int64_t i = 0; i < taps; ++i) {
                              Vec::load_first(at + i * p.C, planes.count).store(lanes + i * kLanes);
                            }
                            lanes_to_images(memory, planes, taps, cursor);
                          });
  });
}

}  // namespace skinny_gemm
}  // namespace
}  // namespace convkern::cpu
