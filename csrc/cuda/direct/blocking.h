// Chooses the blocks of the direct kernels. The choice depends on the sizes alone and not on the
// device. Costs are estimates, not measurements: the constants follow from the kernels'
// instructions and from NVIDIA's numbers for a multiprocessor.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "cuda/direct/windows.h"
#include "cuda/gemm/tile_choice.h"

namespace convkern::cuda {

// Costs of copying, in multiply-adds. kCopyCost is for the instructions that copy one element.
// kSectorCost is for 32 bytes from the L2 cache, which delivers 40 bytes in a cycle, while a
// multiprocessor does 128 multiply-adds.
constexpr double kCopyCost = 16, kSectorCost = 100;
constexpr int kSectorElements = 8;

constexpr int kMostThreads = 256;               // in a block
constexpr int64_t kMostTileBytes = 96 << 10;    // of a block; compute capability 8.6 allows 99 KiB
constexpr int64_t kTileBytesOfAll = 160 << 10;  // of all blocks on a multiprocessor (8.0)
constexpr int64_t kMostResident = 16;           // blocks on a multiprocessor (8.6)
constexpr double kFewWarps = 16;                // fewer warps do not hide latencies
constexpr double kFewBlocks = 264;              // 2 for each multiprocessor of an H100 (132)

constexpr int kWindowResults = kWindowRows * kWindowColumns;
// Limits for grad_weight: most windows of an axis, most chunks of a row of gy, and least rows of gy
// for a thread.
constexpr int kMostWindows = 8, kMostChunks = 16, kLeastWorkerRows = 5;

inline int parts(int size, int of) { return (size - 1) / of + 1; }

// The part of each operand that a block computes or holds. It has `channels` channels of the result
// for each of `images` images; each pair is a plane.
struct PlaneBlocking {
  int images = 0, channels = 0;        // images is 0 if no block has enough memory
  int windows_h = 0, windows_w = 0;    // windows of a plane, for each residue
  int residues_h = 1, residues_w = 1;  // all residues of an axis, or one
  int classes_h = 1, classes_w = 1;    // all classes, or for grad_weight perhaps one
  int taps_h = 0, chunks = 0;          // of a class: rows, and parts of kChunk columns
  int workers_h = 1, workers_w = 1;    // workers share the taps of a window
  int worker_rows = 0;                 // tap rows of a class for each worker
  int threads = 0;                     // a multiple of 32
  PlaneTile in, taps, out;
  int tap_planes = 0;    // planes of taps in shared memory
  int64_t elements = 0;  // of shared memory

  int64_t used_threads() const {
    return int64_t{1} * images * channels * windows_h * residues_h * windows_w * residues_w *
           workers_h * workers_w;
  }
  // Sets the members that follow from the sizes above. For grad_weight the taps are gy, which has
  // planes for each image.
  void lay_out(const WindowAxis& rows, const WindowAxis& columns, bool channels_inner,
               bool for_weights) {
    const int quads = 2 * (windows_w + std::max(chunks, 1));
    const int of_class_w = std::min(chunks * kChunk, columns.class_taps());
    // The last arguments keep neighbouring threads in different banks. These threads differ first
    // in the channel, if channels are innermost, and otherwise in the window and then the image.
    in = PlaneTile(rows.inputs(windows_h, kWindowRows, residues_h, classes_h, taps_h),
                   columns.inputs(windows_w, kWindowColumns, residues_w, classes_w, of_class_w),
                   quads, channels_inner ? 1 : windows_w);
    taps = PlaneTile(rows.tap_tile(classes_h, taps_h), columns.tap_tile(classes_w, of_class_w),
                     2 * std::max(chunks, 1), 1);
    out = PlaneTile(rows.results(windows_h, kWindowRows, residues_h),
                    columns.results(windows_w, kWindowColumns, residues_w), 2 * windows_w, 1);
    worker_rows = parts(std::max(taps_h, 1), workers_h) | 1;  // odd: workers read different banks
    tap_planes = channels * (for_weights ? images : 1);
    const int64_t operands = static_cast<int64_t>(in.plane_pitch) * images * channels +
                             static_cast<int64_t>(taps.plane_pitch) * tap_planes;
    threads = parts(static_cast<int>(used_threads()), 32) * 32;
    // The results pass through shared memory too. For grad_weight these are the results of all
    // workers.
    const int64_t results = for_weights ? static_cast<int64_t>(threads) * kWindowResults
                                        : static_cast<int64_t>(out.plane_pitch) * images * channels;
    elements = std::max(operands, results);
  }
};

// The number of the tensors' planes: `images` times `channels` of the result. If `channels_inner`,
// the channels of a pixel are adjacent in memory. An element takes `element_bytes` in shared
// memory.
struct PlaneCounts {
  int64_t images, channels;
  bool channels_inner;
  int element_bytes;

  // Gives a block at most `planes` planes. If channels are innermost, it takes channels up to a
  // whole sector of memory first. Otherwise it takes images first, because they share the weights.
  void divide(int planes, PlaneBlocking& blocking) const {
    const int64_t most_channels =
        std::min<int64_t>(channels, channels_inner ? kSectorElements : 64);
    if (channels_inner) {
      blocking.channels = static_cast<int>(std::min<int64_t>(planes, most_channels));
      blocking.images = static_cast<int>(std::min<int64_t>(planes / blocking.channels, images));
    } else {
      blocking.images = static_cast<int>(std::min<int64_t>(planes, images));
      blocking.channels =
          static_cast<int>(std::min<int64_t>(planes / blocking.images, most_channels));
    }
  }
  int64_t plane_blocks(const PlaneBlocking& blocking) const {
    return ((images - 1) / blocking.images + 1) * ((channels - 1) / blocking.channels + 1);
  }
  // Returns the cost of all blocks, in multiply-adds of a thread. There are `of_plane` blocks for
  // each residue and plane of a block. Each thread computes `products` products, and each block
  // copies `copied` elements.
  double cost(const PlaneBlocking& blocking, const WindowAxis& rows, const WindowAxis& columns,
              int64_t of_plane, double products, int64_t copied) const {
    const double blocks =
        static_cast<double>(of_plane) * static_cast<double>(plane_blocks(blocking)) *
        (rows.residues / blocking.residues_h) * (columns.residues / blocking.residues_w);
    const int64_t by_memory = kTileBytesOfAll / (blocking.elements * element_bytes);
    const int64_t by_threads = std::min<int64_t>(kMostResident, 2048 / blocking.threads);
    const int64_t resident = std::max<int64_t>(1, std::min(by_memory, by_threads));
    const auto warps = static_cast<double>(resident * blocking.threads / 32);
    // The elements of a sector that are copied.
    const double adjacent = channels_inner
                                ? blocking.channels
                                : std::max(1.0, static_cast<double>(kSectorElements) *
                                                    blocking.in.columns.phases() / columns.step);
    const double copy = kCopyCost + kSectorCost / std::min<double>(kSectorElements, adjacent);
    return blocks * (products * blocking.threads + copy * static_cast<double>(copied)) *
           std::max(1.0, kFewWarps / warps) * std::max(1.0, kFewBlocks / blocks);
  }
};

// `channels` counts channels of the result. For grad_weight these are pairs of a channel of gy and
// one of x.
inline bool are_inner(const Problem& p, int64_t channels) {
  return p.layout == Layout::nhwc && channels > 1;
}
inline PlaneCounts plane_counts(const Problem& p, int64_t channels, int element_bytes) {
  return {p.N, channels, are_inner(p, channels), element_bytes};
}

// Keeps the cheapest blocking among those for which a block has enough threads and memory.
class CheapestBlocking {
 public:
  CheapestBlocking(const WindowAxis& rows, const WindowAxis& columns, const PlaneCounts& planes)
      : rows_(rows), columns_(columns), planes_(planes) {}

  // Calls propose(blocking) for each way to divide the residues, or the classes if `classes` is
  // set. Along each axis a block gets either all of them or one.
  template <class Propose>
  void for_shares(PlaneBlocking blocking, bool classes, const Propose& propose) const {
    const int all_h = classes ? rows_.classes : rows_.residues;
    const int all_w = classes ? columns_.classes : columns_.residues;
    for (const int h : {all_h, 1}) {
      for (const int w : {all_w, 1}) {
        (classes ? blocking.classes_h : blocking.residues_h) = h;
        (classes ? blocking.classes_w : blocking.residues_w) = w;
        if (h <= kMostThreads && w <= kMostThreads) propose(blocking);
        if (all_w == 1) break;
      }
      if (all_h == 1) break;
    }
  }
  // Lays out a blocking and keeps it if it is the cheapest so far. There are `of_plane` blocks for
  // each residue and plane of a block. The products of a thread and the elements that a block
  // copies are functions of the blocking.
  template <class Products, class Copied>
  void consider(PlaneBlocking blocking, bool for_weights, int64_t of_plane,
                const Products& products, const Copied& copied) {
    if (blocking.used_threads() > kMostThreads) return;
    blocking.lay_out(rows_, columns_, planes_.channels_inner, for_weights);
    if (blocking.elements * planes_.element_bytes > kMostTileBytes) return;
    const double cost =
        planes_.cost(blocking, rows_, columns_, of_plane, products(blocking), copied(blocking));
    if (cost < least_) least_ = cost, best_ = blocking;
  }
  const PlaneBlocking& best() const { return best_; }

 private:
  const WindowAxis &rows_, &columns_;
  const PlaneCounts& planes_;
  PlaneBlocking best_;
  double least_ = std::numeric_limits<double>::infinity();
};

// Chooses for forward and grad_input. A block has all taps. It has whole planes, or a half, a
// quarter, ... of their windows.
inline PlaneBlocking correlation_blocking(const WindowAxis& rows, const WindowAxis& columns,
                                          const PlaneCounts& planes) {
  const int all_h = rows.windows(kWindowRows), all_w = columns.windows(kWindowColumns);
  CheapestBlocking cheapest(rows, columns, planes);
  PlaneBlocking first;
  first.classes_h = rows.classes, first.classes_w = columns.classes;
  first.taps_h = rows.class_taps();
  first.chunks = parts(std::max(columns.class_taps(), 1), kChunk);
  auto products = [&](const PlaneBlocking&) {
    return static_cast<double>(kWindowResults) * rows.taps * columns.taps;
  };
  auto copied = [](const PlaneBlocking& p) {
    return (p.in.elements() + p.out.elements()) * p.images * p.channels +
           p.taps.elements() * p.tap_planes;
  };
  cheapest.for_shares(first, /*classes=*/false, [&](PlaneBlocking blocking) {
    for (int parts_w = 1; parts_w / 2 < all_w; parts_w *= 2) {
      blocking.windows_w = parts(all_w, parts_w);
      if (blocking.windows_w > kMostThreads) continue;
      for (int parts_h = 1; parts_h / 2 < all_h; parts_h *= 2) {
        blocking.windows_h = parts(all_h, parts_h);
        if (blocking.windows_h > kMostThreads) continue;
        const int64_t of_plane = static_cast<int64_t>(parts(all_h, blocking.windows_h)) *
                                 parts(all_w, blocking.windows_w);
        for (int count = 1; count <= kMostThreads; count *= 2) {
          planes.divide(count, blocking);
          cheapest.consider(blocking, /*for_weights=*/false, of_plane, products, copied);
        }
      }
    }
  });
  return cheapest.best();
}

// Chooses for grad_weight, whose taps are gy. The threads of a block share the taps. A block has
// all rows of an image of gy, or a half, a quarter, ... of them.
inline PlaneBlocking weight_blocking(const WindowAxis& rows, const WindowAxis& columns,
                                     const PlaneCounts& planes) {
  const int all_h = rows.windows(kWindowRows), all_w = columns.windows(kWindowColumns);
  const int all_taps = rows.class_taps(), all_chunks = parts(columns.class_taps(), kChunk);
  CheapestBlocking cheapest(rows, columns, planes);
  PlaneBlocking first;
  first.windows_h = parts(all_h, parts(all_h, kMostWindows));
  first.windows_w = parts(all_w, parts(all_w, kMostWindows));
  first.chunks = parts(all_chunks, parts(all_chunks, kMostChunks));
  auto products = [&](const PlaneBlocking& p) {
    return static_cast<double>(kWindowResults) * kChunk * p.worker_rows * p.classes_h *
           p.classes_w * parts(p.chunks, p.workers_w);
  };
  auto copied = [](const PlaneBlocking& p) {
    return p.in.elements() * p.images * p.channels + p.taps.elements() * p.tap_planes;
  };
  auto propose = [&](PlaneBlocking blocking) {
    for (int parts_h = 1; parts_h / 2 < all_taps; parts_h *= 2) {
      blocking.taps_h = parts(all_taps, parts_h);
      const int64_t of_plane = static_cast<int64_t>(parts(all_h, blocking.windows_h)) *
                               parts(all_w, blocking.windows_w) * parts(all_taps, blocking.taps_h) *
                               parts(all_chunks, blocking.chunks) *
                               (rows.classes / blocking.classes_h) *
                               (columns.classes / blocking.classes_w);
      for (int count = 1; count <= kMostThreads; count *= 2) {
        planes.divide(count, blocking);
        blocking.workers_h = blocking.workers_w = 1;
        const auto spare =
            static_cast<int>(std::max<int64_t>(1, kMostThreads / blocking.used_threads()));
        blocking.workers_w = std::min(blocking.chunks, spare);
        blocking.workers_h =
            std::min(spare / blocking.workers_w, parts(blocking.taps_h, kLeastWorkerRows));
        cheapest.consider(blocking, /*for_weights=*/true, of_plane, products, copied);
      }
    }
  };
  cheapest.for_shares(first, /*classes=*/false, [&](const PlaneBlocking& blocking) {
    cheapest.for_shares(blocking, /*classes=*/true, propose);
  });
  return cheapest.best();
}

// The axes of grad_weight, whose taps are gy.
inline WindowAxis weight_rows(const Problem& p) {
  return WindowAxis({p.R, p.OH(), p.H, p.dilation_h, p.stride_h, -p.pad_h});
}
inline WindowAxis weight_columns(const Problem& p) {
  return WindowAxis({p.S, p.OW(), p.W, p.dilation_w, p.stride_w, -p.pad_w});
}

}  // namespace convkern::cuda
