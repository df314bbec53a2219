// Moves planes of tensors to shared memory and back, and sums the products of a window there.
#pragma once

#include <cstdint>

#include "core/scalar_types.h"
#include "cuda/device_ops.cuh"
#include "cuda/direct/blocking.h"
#include "cuda/gemm/geometry.cuh"

namespace convkern::cuda {

// The type of the sums of a tensor's elements. Elements in shared memory have this type too.
template <class T>
struct SumOf {
  using type = float;
};
template <>
struct SumOf<double> {
  using type = double;
};
template <class T>
using Sum = typename SumOf<T>::type;

template <class T>
__device__ __forceinline__ Sum<T> widen(T value) {
  if constexpr (sizeof(T) == sizeof(Sum<T>))
    return value;
  else
    return to_float(value);
}
template <class T>
__device__ __forceinline__ T narrow(Sum<T> value) {
  if constexpr (sizeof(T) == sizeof(Sum<T>))
    return value;
  else
    return from_float<T>(value);
}

// The strides of a tensor's planes and elements, in elements. Beyond `height` and `width` there are
// zeros. A channel of the result has a group, a row and a column. For grad_weight the row is the
// channel of gy and the column that of x. For forward and grad_input the column is the channel, and
// there is one row.
struct Planes {
  int64_t image, group, row_channel, column_channel, term;
  int64_t row, column;
  int height, width;
};

struct Channels {
  int count, rows, columns;  // count: of all groups; rows, columns: of one group

  struct Place {
    int group, row, column;
  };
  __device__ Place place(int channel) const {
    return {channel / columns / rows, channel / columns % rows, channel % columns};
  }
};

__device__ inline int64_t channel_offset(const Planes& planes, const Channels::Place& place,
                                         int term) {
  return place.group * planes.group + place.row * planes.row_channel +
         place.column * planes.column_channel + term * planes.term;
}

// The planes that a block holds: `channels` channels of each of `images` images, from first_image
// and first_channel on.
struct PlaneBlock {
  int images, channels, first_image, first_channel;
  int all_images;
  Channels all_channels;
  bool channels_inner;
  int threads;
};

// The sizes that the kernels of all passes need.
struct PlaneWork {
  WindowAxis rows, columns;
  PlaneBlocking blocking;
  int blocks_h, blocks_w;  // blocks that share one plane and residue
  int images;
  Channels channels;  // channels of the result
  bool channels_inner;

  __device__ PlaneBlock block(int first_image, int first_channel) const {
    return {blocking.images, blocking.channels, first_image,    first_channel,
            images,          channels,          channels_inner, blocking.threads};
  }
};

// The first window and the first residue that a block computes in each plane. The constructor takes
// them from the block's index and leaves the remaining digits in `rest`.
struct WindowBlock {
  int window_h, window_w, residue_h, residue_w;

  __device__ WindowBlock(const PlaneWork& work, int& rest) {
    auto digit = [&](int count) { return take_digit(rest, count); };
    window_w = digit(work.blocks_w) * work.blocking.windows_w;
    window_h = digit(work.blocks_h) * work.blocking.windows_h;
    residue_w = digit(work.columns.residues / work.blocking.residues_w);
    residue_h = digit(work.rows.residues / work.blocking.residues_h);
  }
};

// Visits this thread's elements of a tile that begins at (row0, column0). It calls body(element of
// shared memory, whether it is inside the tensor, its offset in the tensor). Adjacent threads get
// adjacent elements of the tensor. Without `per_image` the tile has the planes of one image only.
template <class Body>
__device__ __forceinline__ void for_each_of_tile(const PlaneTile& tile, const Planes& tensor,
                                                 const PlaneBlock& block, bool per_image, int row0,
                                                 int column0, int term, const Body& body) {
  const int inner = block.channels_inner ? block.channels : 1, outer = block.channels / inner;
  const auto phases = static_cast<int>(tile.columns.phases());
  const int width = phases * tile.columns.count * inner;
  const int lanes = width < block.threads ? width : block.threads;
  const int thread = static_cast<int>(threadIdx.x);
  if (width == 0 || tile.rows.count == 0) return;
  const int rows_at_once = block.threads / lanes;
  if (thread >= lanes * rows_at_once) return;
  const int planes = (per_image ? block.images : 1) * outer;
  for (int i = thread % lanes; i < width; i += lanes) {
    const int phase = i / inner % phases, position = i / inner / phases;
    const int column = column0 + tile.columns.first(phase) + position * tile.columns.step;
    const int place = tile.place(phase, position);
    const bool in_columns = is_inside(column, tensor.width);
    for (int f = 0; f < tile.rows.phases(); ++f) {
      int plane = thread / lanes / tile.rows.count, r = thread / lanes % tile.rows.count;
      while (plane < planes) {
        const int image = plane / outer, channel = plane % outer + i % inner;
        const bool exists = in_columns &&
                            block.first_channel + channel < block.all_channels.count &&
                            (!per_image || block.first_image + image < block.all_images);
        const int64_t from =
            (per_image ? (block.first_image + image) * tensor.image : 0) +
            channel_offset(tensor, block.all_channels.place(block.first_channel + channel), term) +
            column * tensor.column;
        const int to = (image * block.channels + channel) * tile.plane_pitch + place;
        for (; r < tile.rows.count; r += rows_at_once) {
          const int row = row0 + tile.rows.first(f) + r * tile.rows.step;
          const bool inside = exists && is_inside(row, tensor.height);
          body(to + tile.row_of(f, r), inside, from + row * tensor.row);
        }
        for (; r >= tile.rows.count; r -= tile.rows.count) ++plane;
      }
    }
  }
}

// Begins to copy a tile to shared memory, with zeros where it is outside the tensor. 16-bit types
// are widened on the way, so they cannot be copied asynchronously.
template <class T>
__device__ __forceinline__ void begin_copies(Sum<T>* to, const PlaneTile& tile, const T* tensor,
                                             const Planes& planes, const PlaneBlock& block,
                                             bool per_image, int row0, int column0, int term) {
  for_each_of_tile(
      tile, planes, block, per_image, row0, column0, term, [&](int at, bool inside, int64_t from) {
        if constexpr (sizeof(T) == sizeof(Sum<T>)) {
          copy_async<sizeof(T)>(to + at, inside ? tensor + from : tensor, inside ? sizeof(T) : 0);
        } else {
          to[at] = inside ? widen(tensor[from]) : 0.f;
        }
      });
}

// The part that a thread computes: a window of kWindowRows x kWindowColumns results of one plane,
// for its share of the taps. From the fastest to the slowest, threads are ordered by channels (if
// those are innermost), workers, windows of a row, images, channels (otherwise), and windows of a
// column.
struct WindowThread {
  int image, channel;
  int window_h, residue_h, window_w, residue_w;
  int worker_h, worker_w;
  bool works;

  __device__ WindowThread(const PlaneBlocking& blocking, bool channels_inner) {
    int rest = static_cast<int>(threadIdx.x);
    auto digit = [&](int count) { return take_digit(rest, count); };
    channel = channels_inner ? digit(blocking.channels) : 0;
    worker_w = digit(blocking.workers_w);
    worker_h = digit(blocking.workers_h);
    window_w = digit(blocking.windows_w);
    image = digit(blocking.images);
    channel = channels_inner ? channel : digit(blocking.channels);
    residue_w = digit(blocking.residues_w);
    window_h = digit(blocking.windows_h);
    residue_h = digit(blocking.residues_h);
    works = rest == 0;
  }
};

template <class S>
using WindowSums = S[kWindowRows][kWindowColumns];

// The taps of a thread in shared memory: its chunks of the rows [first_row, end_row).
template <class S>
struct WindowTaps {
  const S* taps;
  int row_pitch, half;
  int first_row, end_row, columns;
  int first_chunk, chunk_step;
};

// Adds the products of the first kTaps taps of a chunk, for each row of results.
template <int kTaps, class S>
__device__ __forceinline__ void add_chunk(const S (&window)[2 * kChunk], const WindowTaps<S>& t,
                                          int row, int chunk, WindowSums<S>& sums) {
#pragma unroll
  for (int i = 0; i < kWindowRows; ++i) {
    const int tap_row = row - i;
    if (tap_row < t.first_row || tap_row >= t.end_row) continue;
    S taps[kChunk];
    const S* from = t.taps + tap_row * t.row_pitch + chunk * kQuad;
    load_quad(from, taps);
    if constexpr (kTaps > kQuad) load_quad(from + t.half * kQuad, taps + kQuad);
#pragma unroll
    for (int k = 0; k < kTaps; ++k) {
#pragma unroll
      for (int j = 0; j < kWindowColumns; ++j) {
        sums[i][j] = multiply_add(taps[k], window[k + j], sums[i][j]);
      }
    }
  }
}

// Handles the last chunk, which may have fewer taps. Zeros cannot stand in for the missing taps,
// because zero times an infinity beside the window is NaN.
template <int kTaps, class S>
__device__ __forceinline__ void add_chunk_of(int taps, const S (&window)[2 * kChunk],
                                             const WindowTaps<S>& t, int row, int chunk,
                                             WindowSums<S>& sums) {
  if (kTaps == 1 || taps >= kTaps) {
    add_chunk<kTaps>(window, t, row, chunk, sums);
  } else if constexpr (kTaps > 1) {
    add_chunk_of<kTaps - 1>(taps, window, t, row, chunk, sums);
  }
}

// Adds the products of a window with all taps of the thread. At the first tap the results of the
// window read `in`. Each row of the input is loaded once for all rows of results.
template <class S>
__device__ __forceinline__ void add_products(const S* in, int row_pitch, int half,
                                             const WindowTaps<S>& t, WindowSums<S>& sums) {
  for (int row = t.first_row; row < t.end_row + kWindowRows - 1; ++row) {
    const S* from = in + row * row_pitch + t.first_chunk * kQuad;
    for (int chunk = t.first_chunk; chunk * kChunk < t.columns; chunk += t.chunk_step) {
      S window[2 * kChunk];
      load_quad(from, window);
      load_quad(from + half * kQuad, window + kQuad);
      load_quad(from + kQuad, window + 2 * kQuad);
      load_quad(from + (half + 1) * kQuad, window + 3 * kQuad);
      from += t.chunk_step * kQuad;
      add_chunk_of<kChunk>(t.columns - chunk * kChunk, window, t, row, chunk, sums);
    }
  }
}

}  // namespace convkern::cuda
