// The sum over the batch that grad_weight computes. The batch is a number of units, which are cut
// into chunks. A task sums one chunk for one slice of gw; if its lanes hold separate sums, it adds
// them. At the end the partial sums of all chunks are added in order.
#pragma once

#include "cpu/blocking/parts-inl.h"
#include "cpu/blocking/tasks-inl.h"
#include "cpu/tiles/transpose-inl.h"

namespace convkern::cpu {
namespace {

// Cuts the output channels of each group into slices whose accumulators fit the cache. An
// accumulator is a vector for each weight.
struct Slices {
  int64_t in_group, channels;  // slices in a group, and the most output channels of a slice
  int64_t weights;             // weights of an output channel

  explicit Slices(const Problem& p) : weights(p.Cg * p.R * p.S) {
    const int64_t bytes = weights * kLanes * static_cast<int64_t>(sizeof(Real));
    const int64_t fitting = std::max<int64_t>(1, kAccumulatorBytes / bytes);
    in_group = ceil_div(p.Og(), fitting);
    channels = ceil_div(p.Og(), in_group);
  }
  int64_t accumulator_floats() const { return channels * weights * kLanes; }
  // Returns the output channels of a slice. Slices are numbered over all groups.
  Range range(const Problem& p, int64_t slice) const {
    const Range part = near_equal_part(p.Og(), in_group, slice % in_group);
    return shifted(part, slice / in_group * p.Og());
  }
};

constexpr int64_t kTaskAdditions = 1 << 15;  // fewer additions are not worth waking a thread

// The sum over the `units` of the batch, which are cut into `chunks` near-equal chunks. The cut
// must not depend on the number of threads, or the result would.
struct Reduction {
  int64_t units, chunks;
  int64_t size;                // elements of the sum: of gw, or of what gw is made from
  int64_t buffer_floats;       // floats of a thread's buffers, which begin as zeros
  int64_t accumulator_floats;  // floats of a thread's accumulators

  Reduction(int64_t size, int64_t units, int64_t buffer_floats, int64_t accumulator_floats,
            int64_t most_chunks)
      : units(units),
        size(size),
        buffer_floats(buffer_floats),
        accumulator_floats(accumulator_floats) {
    const int64_t affordable = kPartialBytes / (size * static_cast<int64_t>(sizeof(Real)));
    chunks = std::min({units, most_chunks, std::max<int64_t>(1, affordable)});
  }
  Reduction(const Problem& p, int64_t units, int64_t buffer_floats, int64_t accumulator_floats,
            int64_t most_chunks = kMaxChunks)
      : Reduction(p.O * p.Cg * p.R * p.S, units, buffer_floats, accumulator_floats, most_chunks) {}
  // If there are several chunks, the workspace begins with the sum of all chunks, of type
  // Wide<Real>, and the partial sum of each. Then it has each thread's buffers and accumulators.
  int64_t total_bytes() const { return chunks == 1 ? 0 : ceil_div(size, 8) * 64; }
  int64_t partial_bytes() const { return chunks == 1 ? 0 : whole_lines(chunks * size); }
  int64_t thread_floats() const { return buffer_floats + accumulator_floats; }
  int64_t workspace(int threads) const {
    return total_bytes() + partial_bytes() +
           thread_floats() * static_cast<int64_t>(sizeof(Real)) * threads;
  }
  Wide<Real>* total(void* workspace) const { return static_cast<Wide<Real>*>(workspace); }
  Real* partial(void* workspace, int64_t chunk) const {
    return reinterpret_cast<Real*>(static_cast<char*>(workspace) + total_bytes()) + chunk * size;
  }
  Real* thread_memory(void* workspace, int thread) const {
    char* first = static_cast<char*>(workspace) + total_bytes() + partial_bytes();
    return reinterpret_cast<Real*>(first) + thread * thread_floats();
  }
};

// Computes some elements of the sum of the chunks, which are added in order.
void add_chunks(const Reduction& reduction, void* workspace, Range elements, Real* out) {
  Wide<Real>* total = reduction.total(workspace);
  const Real* first = reduction.partial(workspace, 0);
  for (int64_t e = elements.begin; e < elements.end; ++e) total[e] = first[e];
  for (int64_t chunk = 1; chunk < reduction.chunks; ++chunk) {
    const Real* partial = reduction.partial(workspace, chunk);
    for (int64_t e = elements.begin; e < elements.end; ++e) total[e] += partial[e];
  }
  for (int64_t e = elements.begin; e < elements.end; ++e) out[e] = static_cast<Real>(total[e]);
}

// Computes the sum `out`, which is gw or what it is made from. add_chunk(slice, units, memory,
// partial) must compute one of `slices` parts of it for a chunk of units and write it to the place
// of that part in `partial`, which is as large as `out`. `memory` holds the thread's buffers and
// accumulators.
template <class AddChunk>
void reduce_chunks(const Problem& p, const Reduction& reduction, int64_t slices, void* workspace,
                   Real* out, const Executor& executor, const AddChunk& add_chunk) {
  const int64_t tasks = slices * reduction.chunks;
  executor.run(tasks, task_grain(p, tasks), [&](int64_t begin, int64_t end, int thread) {
    Real* memory = reduction.thread_memory(workspace, thread);
    set_zero(memory, reduction.buffer_floats);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t chunk = task / slices;
      add_chunk(task % slices, near_equal_part(reduction.units, reduction.chunks, chunk), memory,
                reduction.chunks == 1 ? out : reduction.partial(workspace, chunk));
    }
  });
  if (reduction.chunks == 1) return;
  const int64_t grain = ceil_div(kTaskAdditions, reduction.chunks);
  executor.run(reduction.size, grain, [&](int64_t begin, int64_t end, int) {
    add_chunks(reduction, workspace, {begin, end}, out);
  });
}

// Computes gw from sums in vectors. add_unit(unit, channels, buffers, accumulators) must add the
// products of one unit for some output channels, all of one group. The accumulators are vectors
// (output channel, c, r, s), whose lanes are added at the end of a chunk.
template <class AddUnit>
void reduce_weights(const Problem& p, const Reduction& reduction, void* workspace, Real* gw,
                    const Executor& executor, const AddUnit& add_unit) {
  const Slices slices(p);
  reduce_chunks(p, reduction, p.groups * slices.in_group, workspace, gw, executor,
                [&](int64_t slice, Range units, Real* buffers, Real* partial) {
                  Real* accumulators = buffers + reduction.buffer_floats;
                  const Range channels = slices.range(p, slice);
                  set_zero(accumulators, slices.accumulator_floats());
                  for (int64_t unit = units.begin; unit < units.end; ++unit) {
                    add_unit(unit, channels, buffers, accumulators);
                  }
                  sum_lanes(accumulators, channels.size() * slices.weights,
                            partial + channels.begin * slices.weights);
                });
}

// The parts of a plan of grad_weight: Tasks, which say how gw and the batch are cut, and the
// Reduction that adds what the tasks have summed. It is no Plan itself: the table of an abstract
// class refers to a symbol that files of an instruction set must not share.
template <class Tasks>
struct WeightParts {
  const Problem p;
  const Tasks tasks;
  const Reduction reduction;

  explicit WeightParts(const Problem& problem)
      : p(problem), tasks(p), reduction(tasks.reduction(p)) {}
};

}  // namespace
}  // namespace convkern::cpu
