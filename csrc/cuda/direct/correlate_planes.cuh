// The direct kernel for forward and grad_input. A block correlates whole planes, or tiles of them,
// and holds all their taps in shared memory. It adds the terms (channels of the input) one after
// the other. For grad_input with a stride there is one correlation for each residue of the index
// modulo the stride.
//
// Blocks are numbered by (columns, rows, their residues, images, channels).
#pragma once

#include "cuda/direct/tiles.cuh"
#include "cuda/epilogue.cuh"

namespace convkern::cuda {

template <class T>
struct PlaneCorrelation : PlaneWork {
  const T *in, *w, *bias;  // at the first tap; bias may be null
  T* out;                  // at the first result of the residue
  Planes in_planes, tap_planes, out_planes;
  int image_blocks, terms;
  Epilogue<T> epilogue;
};

// Adds the term whose input and taps are in shared memory.
template <class T>
__device__ __forceinline__ void add_term(const PlaneCorrelation<T>& c, const WindowThread& thread,
                                         const Sum<T>* in, const Sum<T>* taps,
                                         WindowSums<Sum<T>>& sums) {
  const PlaneTile &in_tile = c.blocking.in, &tap_tile = c.blocking.taps;
  const int plane = thread.image * c.blocking.channels + thread.channel;
  for (int rho_h = 0; rho_h < c.rows.classes; ++rho_h) {
    for (int rho_w = 0; rho_w < c.columns.classes; ++rho_w) {
      const int row_phase = rho_h * c.blocking.residues_h + thread.residue_h;
      const int column_phase = rho_w * c.blocking.residues_w + thread.residue_w;
      const WindowTaps<Sum<T>> t{taps + thread.channel * tap_tile.plane_pitch +
                                     tap_tile.row_of(rho_h, 0) + tap_tile.place(rho_w, 0),
                                 tap_tile.row_pitch,
                                 tap_tile.half,
                                 0,
                                 c.rows.class_taps(rho_h),
                                 c.columns.class_taps(rho_w),
                                 0,
                                 1};
      add_products(in + plane * in_tile.plane_pitch +
                       in_tile.row_of(row_phase, thread.window_h * kWindowRows) +
                       in_tile.place(column_phase, thread.window_w * kWindowColumns),
                   in_tile.row_pitch, in_tile.half, t, sums);
    }
  }
}

// Writes the thread's sums, with their bias, to shared memory.
template <class T>
__device__ __forceinline__ void store_window(const PlaneCorrelation<T>& c,
                                             const WindowThread& thread, int first_channel,
                                             const WindowSums<Sum<T>>& sums, Sum<T>* shared) {
  const PlaneTile& tile = c.blocking.out;
  const int channel = first_channel + thread.channel;
  const bool biased = c.bias != nullptr && channel < c.channels.count;
  const Sum<T> bias = biased ? widen(c.bias[channel]) : Sum<T>(0);
  Sum<T>* to = shared + (thread.image * c.blocking.channels + thread.channel) * tile.plane_pitch;
#pragma unroll
  for (int i = 0; i < kWindowRows; ++i) {
    Sum<T>* row = to + tile.row_of(thread.residue_h, thread.window_h * kWindowRows + i);
#pragma unroll
    for (int j = 0; j < kWindowColumns; ++j) {
      row[tile.place(thread.residue_w, thread.window_w * kWindowColumns + j)] = sums[i][j] + bias;
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kMostThreads, 8 / sizeof(Sum<T>))
    correlate_planes(const PlaneCorrelation<T> c) {
  Sum<T>* in = dynamic_shared<Sum<T>>();
  Sum<T>* taps = in + c.blocking.images * c.blocking.channels * c.blocking.in.plane_pitch;
  auto rest = static_cast<int>(blockIdx.x);
  const WindowBlock windows(c, rest);
  const int first_image = take_digit(rest, c.image_blocks) * c.blocking.images;
  const PlaneBlock block = c.block(first_image, rest * c.blocking.channels);
  const WindowThread thread(c.blocking, c.channels_inner);
  WindowSums<Sum<T>> sums = {};
  for (int term = 0; term < c.terms; ++term) {
    __syncthreads();  // all threads have read the previous term
    begin_copies(in, c.blocking.in, c.in, c.in_planes, block, /*per_image=*/true,
                 c.rows.first_input(windows.window_h, kWindowRows, windows.residue_h, 0, 0),
                 c.columns.first_input(windows.window_w, kWindowColumns, windows.residue_w, 0, 0),
                 term);
    begin_copies(taps, c.blocking.taps, c.w, c.tap_planes, block, /*per_image=*/false, 0, 0, term);
    commit_copies();
    wait_for_copies<0>();
    __syncthreads();
    if (thread.works) add_term(c, thread, in, taps, sums);
  }
  __syncthreads();
  if (thread.works) store_window(c, thread, block.first_channel, sums, in);
  __syncthreads();
  const int row = c.rows.first_result(windows.window_h, kWindowRows, windows.residue_h);
  const int column = c.columns.first_result(windows.window_w, kWindowColumns, windows.residue_w);
  for_each_of_tile(c.blocking.out, c.out_planes, block, /*per_image=*/true, row, column, 0,
                   [&](int at, bool inside, int64_t to) {
                     if (inside) c.out[to] = narrow<T>(c.epilogue.finished(in[at], to));
                   });
}

}  // namespace convkern::cuda
