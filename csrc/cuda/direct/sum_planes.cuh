// The direct kernel for grad_weight. gw is the correlation of x with gy as its taps, summed over
// the images. A block computes it for some channels from the tiles of gy in its split. Its threads
// share the taps, and their sums are added in a fixed order. A second kernel adds the splits.
//
// Blocks are numbered by (columns, rows, their residues, channels, split).
#pragma once

#include "cuda/direct/tiles.cuh"

namespace convkern::cuda {

// `channels` counts pairs of a channel of gy and one of x. The axes have gy as their taps.
template <class T>
struct PlaneSums : PlaneWork {
  const T *x, *gy;
  Sum<T>* partial;  // (split, group, tap, row, column)
  Planes x_planes, gy_planes;
  int channel_blocks;
  int bands_h, bands_w;      // parts that the taps of a class are cut into
  int64_t items, per_split;  // tiles of gy, by (images, class, band)
};

// A tile of gy. Its classes begin with rho_h and rho_w, and the taps in each class with tap_h and
// tap_w.
struct GyTile {
  int rho_h, rho_w, tap_h, tap_w;
  int first_image;

  template <class T>
  __device__ GyTile(const PlaneSums<T>& c, int64_t item) {
    auto digit = [&](int count) { return take_digit(item, count); };
    tap_w = digit(c.bands_w) * c.blocking.chunks * kChunk;
    tap_h = digit(c.bands_h) * c.blocking.taps_h;
    rho_w = digit(c.columns.classes / c.blocking.classes_w);
    rho_h = digit(c.rows.classes / c.blocking.classes_h);
    first_image = static_cast<int>(item) * c.blocking.images;
  }
};

// Adds the products with a tile of gy that is in shared memory.
template <class T>
__device__ __forceinline__ void add_item(const PlaneSums<T>& c, const WindowThread& thread,
                                         const Sum<T>* x, const Sum<T>* gy, const GyTile& tile,
                                         WindowSums<Sum<T>>& sums) {
  const PlaneTile &x_tile = c.blocking.in, &gy_tile = c.blocking.taps;
  const int plane = thread.image * c.blocking.channels + thread.channel;
  auto least = [](int a, int b) { return a < b ? a : b; };
  const int worker_rows = c.blocking.worker_rows, begin = thread.worker_h * worker_rows;
  for (int rho_h = 0; rho_h < c.blocking.classes_h; ++rho_h) {
    const int exist = least(c.rows.class_taps(tile.rho_h + rho_h) - tile.tap_h, c.blocking.taps_h);
    for (int rho_w = 0; rho_w < c.blocking.classes_w; ++rho_w) {
      const int row_phase = rho_h * c.blocking.residues_h + thread.residue_h;
      const int column_phase = rho_w * c.blocking.residues_w + thread.residue_w;
      const WindowTaps<Sum<T>> t{
          gy + plane * gy_tile.plane_pitch + gy_tile.row_of(rho_h, 0) + gy_tile.place(rho_w, 0),
          gy_tile.row_pitch,
          gy_tile.half,
          begin,
          least(begin + worker_rows, exist),
          least(c.columns.class_taps(tile.rho_w + rho_w) - tile.tap_w, c.blocking.chunks * kChunk),
          thread.worker_w,
          c.blocking.workers_w};
      if (t.first_row >= t.end_row) continue;
      add_products(x + plane * x_tile.plane_pitch +
                       x_tile.row_of(row_phase, thread.window_h * kWindowRows) +
                       x_tile.place(column_phase, thread.window_w * kWindowColumns),
                   x_tile.row_pitch, x_tile.half, t, sums);
    }
  }
}

// Returns the offset of the thread's sum (i, j) in its split's partial sums, or -1 if the sum is
// outside the result.
template <class T>
__device__ __forceinline__ int64_t partial_offset(const PlaneSums<T>& c, const WindowThread& thread,
                                                  int channel, const WindowBlock& windows, int i,
                                                  int j) {
  const int r = c.rows.first_result(windows.window_h + thread.window_h, kWindowRows,
                                    windows.residue_h + thread.residue_h) +
                i * c.rows.residues;
  const int s = c.columns.first_result(windows.window_w + thread.window_w, kWindowColumns,
                                       windows.residue_w + thread.residue_w) +
                j * c.columns.residues;
  if (r >= c.rows.out || s >= c.columns.out || channel >= c.channels.count) return -1;
  const Channels::Place place = c.channels.place(channel);
  const int64_t tap = (static_cast<int64_t>(place.group) * c.rows.out + r) * c.columns.out + s;
  return (tap * c.channels.rows + place.row) * c.channels.columns + place.column;
}

// Adds up, in order, the sums that the workers of each window have left in shared memory. They are
// stored as (i, j) by thread.
template <class T>
__device__ __forceinline__ void add_workers(const PlaneSums<T>& c, const WindowThread& thread,
                                            const PlaneBlock& block, const WindowBlock& windows,
                                            const Sum<T>* shared, Sum<T>* partial) {
  const int inner = c.channels_inner ? c.blocking.channels : 1;
  const int workers = c.blocking.workers_w * c.blocking.workers_h, threads = c.blocking.threads;
  const int images_apart = inner * workers * c.blocking.windows_w;
  // The workers of a window divide its results among themselves.
  const int me = (thread.image * c.blocking.workers_h + thread.worker_h) * c.blocking.workers_w +
                 thread.worker_w;
  const int first = static_cast<int>(threadIdx.x) -
                    inner * (thread.worker_h * c.blocking.workers_w + thread.worker_w) -
                    images_apart * thread.image;
  for (int e = me; e < kWindowResults; e += workers * c.blocking.images) {
    const int64_t to = partial_offset(c, thread, block.first_channel + thread.channel, windows,
                                      e / kWindowColumns, e % kWindowColumns);
    if (to < 0) continue;
    Wide<Sum<T>> sum = 0;
    for (int image = 0; image < c.blocking.images; ++image) {
      for (int worker = 0; worker < workers; ++worker) {
        sum += shared[e * threads + first + image * images_apart + worker * inner];
      }
    }
    partial[to] = static_cast<Sum<T>>(sum);
  }
}

template <class T>
__global__ void __launch_bounds__(kMostThreads, 8 / sizeof(Sum<T>))
    sum_planes(const PlaneSums<T> c) {
  Sum<T>* x = dynamic_shared<Sum<T>>();
  Sum<T>* gy = x + c.blocking.images * c.blocking.channels * c.blocking.in.plane_pitch;
  auto rest = static_cast<int>(blockIdx.x);
  const WindowBlock windows(c, rest);
  const int first_channel = take_digit(rest, c.channel_blocks) * c.blocking.channels;
  const int64_t split = rest;
  PlaneBlock block = c.block(/*first_image=*/0, first_channel);
  const WindowThread thread(c.blocking, c.channels_inner);
  WindowSums<Sum<T>> sums = {};
  const int64_t begin = split * c.per_split, all = begin + c.per_split;
  const int64_t end = all < c.items ? all : c.items;
  for (int64_t item = begin; item < end; ++item) {
    const GyTile tile(c, item);
    block.first_image = tile.first_image;
    __syncthreads();  // all threads have read the previous item
    begin_copies(x, c.blocking.in, c.x, c.x_planes, block, /*per_image=*/true,
                 c.rows.first_input(windows.window_h, kWindowRows, windows.residue_h, tile.rho_h,
                                    tile.tap_h),
                 c.columns.first_input(windows.window_w, kWindowColumns, windows.residue_w,
                                       tile.rho_w, tile.tap_w),
                 0);
    begin_copies(gy, c.blocking.taps, c.gy, c.gy_planes, block, /*per_image=*/true,
                 tile.tap_h * c.rows.classes + tile.rho_h,
                 tile.tap_w * c.columns.classes + tile.rho_w, 0);
    commit_copies();
    wait_for_copies<0>();
    __syncthreads();
    if (thread.works) add_item(c, thread, x, gy, tile, sums);
  }
  __syncthreads();
#pragma unroll
  for (int e = 0; e < kWindowResults; ++e) {
    x[e * c.blocking.threads + threadIdx.x] = sums[e / kWindowColumns][e % kWindowColumns];
  }
  __syncthreads();
  const int64_t size = static_cast<int64_t>(c.channels.count) * c.rows.out * c.columns.out;
  if (thread.works) {
    add_workers(c, thread, block, windows, x, c.partial + split * size);
  }
}

}  // namespace convkern::cuda
