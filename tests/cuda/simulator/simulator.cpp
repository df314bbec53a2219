#include "simulator.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "fiber.h"

namespace simulator {
namespace {

enum class State { runs, at_block_barrier, at_warp_barrier, ended };

struct Copy {
  void* to;
  const void* from;
  int bytes, size, group;
};

struct Thread {
  Fiber fiber;
  uint3 index;
  int number;  // number in the block
  State state = State::runs;
  const char* file = nullptr;  // place of the barrier that it waits at
  int line = 0;
  std::vector<Copy> copies;
  int group = 0;  // group of the next copy
  int lane() const { return number % kWarp; }
  int warp() const { return number / kWarp; }
};

// Tells TSan what a barrier orders. Threads continue from a barrier one after the other, and the
// first may reach the next barrier before the last has left this one. Two alternating addresses
// keep the first thread's later writes from seeming ordered before the last thread.
struct Order {
  char odd = 0, even = 0;  // their addresses stand for the barriers
  bool is_odd = false;     // whether the next barrier is odd

  char* next() { return is_odd ? &odd : &even; }
  void advance() { is_odd = !is_odd; }
};

struct Warp {
  unsigned expected = 0, arrived = 0;  // lanes of the current exchange
  alignas(16) char given[kWarp][kLaneBytes], taken[kWarp][kLaneBytes];
  Order order;
};

struct Block {
  dim3 grid, size;
  uint3 index;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  char* shared = nullptr;
  convkern::FunctionRef<void()> body;
  Fiber scheduler;
  std::string error;
  Order order;
  char end = 0;  // its address stands for the end of a launch

  explicit Block(convkern::FunctionRef<void()> body) : body(body) {}
};

thread_local Block* block = nullptr;
thread_local Thread* running = nullptr;
unsigned schedule = 0;

CONVKERN_NOT_TSAN void wait(State state) {
  running->state = state;
  Thread* self = running;
  switch_fiber(self->fiber, block->scheduler);
}

CONVKERN_NOT_TSAN void run_thread() {
  begin_fiber(block->scheduler);
  block->body();
  release_order(&block->end);
  running->state = State::ended;
  end_fiber(running->fiber, block->scheduler);
}

CONVKERN_NOT_TSAN void resume(Thread& thread) {
  running = &thread;
  switch_fiber(block->scheduler, thread.fiber);
  running = nullptr;
}

// Returns the threads, or blocks, in the order of the schedule.
std::vector<int> order_of(int count, unsigned seed) {
  std::vector<int> order(count);
  for (int i = 0; i < count; ++i) order[i] = schedule == 1 ? count - 1 - i : i;
  if (schedule > 1) std::shuffle(order.begin(), order.end(), std::mt19937(schedule + seed));
  return order;
}

bool release_warp(int index) {
  Warp& warp = block->warps[index];
  if (warp.expected == 0 || warp.arrived != warp.expected) return false;
  std::memcpy(warp.taken, warp.given, sizeof(warp.taken));
  for (int lane = 0; lane < kWarp; ++lane) {
    if (warp.expected >> lane & 1) block->threads[index * kWarp + lane].state = State::runs;
  }
  warp.expected = warp.arrived = 0;
  warp.order.advance();
  return true;
}

// Runs a warp as far as it gets on its own. In some schedule it then finds memory that other warps
// have not written yet, or have already overwritten, if a barrier is missing. Each lane runs once
// before an exchange completes, so that all lanes have read the previous one.
bool run_warp(const std::vector<int>& lanes) {
  bool progress = false;
  for (bool again = true; again && block->error.empty();) {
    again = false;
    for (const int number : lanes) {
      Thread& thread = block->threads[number];
      if (thread.state != State::runs || !block->error.empty()) continue;
      resume(thread);
      again = true;
    }
    again |= release_warp(lanes.front() / kWarp);
    progress |= again;
  }
  return progress;
}

bool release_block() {
  const Thread& first = block->threads.front();
  for (const Thread& thread : block->threads) {
    if (thread.state != State::at_block_barrier) return false;
    if (thread.line != first.line || std::strcmp(thread.file, first.file) != 0) {
      block->error = "threads of a block wait at different barriers";
      return false;
    }
  }
  for (Thread& thread : block->threads) thread.state = State::runs;
  block->order.advance();
  return true;
}

bool all_ended() {
  return std::all_of(block->threads.begin(), block->threads.end(),
                     [](const Thread& thread) { return thread.state == State::ended; });
}

void run_block(unsigned seed) {
  // The threads of each warp, in the order of the schedule.
  std::vector<std::vector<int>> warps(block->warps.size());
  for (const int number : order_of(static_cast<int>(block->threads.size()), seed)) {
    warps[number / kWarp].push_back(number);
  }
  const std::vector<int> order = order_of(static_cast<int>(warps.size()), seed);
  while (block->error.empty() && !all_ended()) {
    bool progress = false;
    for (const int warp : order) progress |= run_warp(warps[warp]);
    progress |= release_block();
    if (!progress && block->error.empty()) {
      block->error = "threads wait for others that have ended or wait elsewhere";
    }
  }
  for (const Thread& thread : block->threads) {
    if (!thread.copies.empty() && block->error.empty()) {
      block->error = "a block ended with copies that were never waited for";
    }
  }
}

}  // namespace

void set_schedule(unsigned number) { schedule = number; }

void launch(dim3 grid, dim3 size, size_t shared_bytes, convkern::FunctionRef<void()> body) {
  const unsigned threads = size.x * size.y * size.z;
  if (threads < 1 || threads > 1024) throw std::runtime_error("a block of more than 1024 threads");
  if (shared_bytes > kMostShared) throw std::runtime_error("too much shared memory");
  if (grid.y > 65535 || grid.z > 65535) throw std::runtime_error("a grid beyond 65535 in y or z");
  if (grid.x * grid.y * grid.z == 0) throw std::runtime_error("a grid without blocks");
  Block state(body);
  block = &state;
  state.grid = grid;
  state.size = size;
  state.threads.resize(threads);
  const FiberStacks stacks(threads);
  begin_launch(state.scheduler);
  for (Thread& thread : state.threads) create_fiber(thread.fiber);
  const int blocks = static_cast<int>(grid.x * grid.y * grid.z);
  for (const int index : order_of(blocks, 0)) {
    const unsigned i = static_cast<unsigned>(index);
    state.index = {i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y};
    state.warps.assign((threads + kWarp - 1) / kWarp, Warp());
    // The memory has exactly the requested size, so that ASan finds accesses beyond it. A new block
    // finds NaN.
    const std::unique_ptr<char, void (*)(void*)> shared(
        static_cast<char*>(std::aligned_alloc(128, (shared_bytes + 127) / 128 * 128)), std::free);
    std::memset(shared.get(), 0xff, shared_bytes);
    const Poisoned beyond(shared.get() + shared_bytes, (128 - shared_bytes % 128) % 128);
    state.shared = shared.get();
    for (unsigned t = 0; t < threads; ++t) {
      Thread& thread = state.threads[t];
      thread.index = {t % size.x, t / size.x % size.y, t / (size.x * size.y)};
      thread.number = static_cast<int>(t);
      thread.state = State::runs;
      thread.copies.clear();
      thread.group = 0;
      start_fiber(thread.fiber, stacks.of(t), run_thread);
    }
    run_block(i);
    if (!state.error.empty()) break;
  }
  for (Thread& thread : state.threads) destroy_fiber(thread.fiber);
  acquire_order(&state.end);
  end_launch();
  block = nullptr;
  if (!state.error.empty()) throw std::runtime_error(state.error);
}

const uint3& thread_index() { return running->index; }
const uint3& block_index() { return block->index; }
const dim3& grid_size() { return block->grid; }
int lane() { return running->lane(); }
void* shared_memory() { return block->shared; }

CONVKERN_NOT_TSAN void fail(const char* what) {
  block->error = std::string(what) + " (block " + std::to_string(block->index.x) + ", " +
                 std::to_string(block->index.y) + ", " + std::to_string(block->index.z) +
                 ", thread " + std::to_string(running->number) + ")";
  for (;;) wait(State::ended);
}

CONVKERN_NOT_TSAN void block_barrier(const char* file, int line) {
  running->file = file;
  running->line = line;
  char* order = block->order.next();
  release_order(order);
  wait(State::at_block_barrier);
  acquire_order(order);
}

CONVKERN_NOT_TSAN const char* exchange(unsigned mask, const void* given, size_t bytes) {
  Warp& warp = block->warps[running->warp()];
  const int lane = running->lane();
  if (!(mask >> lane & 1)) fail("a lane is not in the mask that it waits with");
  if (warp.expected != 0 && warp.expected != mask) fail("lanes of a warp wait with other masks");
  if (bytes > 0) std::memcpy(warp.given[lane], given, bytes);
  warp.expected = mask;
  warp.arrived |= 1u << lane;
  wait(State::at_warp_barrier);
  return warp.taken[0];
}

CONVKERN_NOT_TSAN void warp_barrier(unsigned mask) {
  Warp& warp = block->warps[running->warp()];
  char* order = warp.order.next();
  release_order(order);
  exchange(mask, nullptr, 0);
  acquire_order(order);
}

void copy_async(void* to, const void* from, int bytes, int size) {
  std::memset(to, 0xff, bytes);
  running->copies.push_back({to, from, bytes, size, running->group});
  if (running->copies.size() > kMostCopies) fail("more copies under way than the simulator keeps");
}

void commit_copies() { ++running->group; }

void wait_for_copies(int groups_left) {
  std::vector<Copy>& copies = running->copies;
  auto done = copies.begin();
  for (; done != copies.end() && done->group < running->group - groups_left; ++done) {
    if (done->size > 0) std::memcpy(done->to, done->from, done->size);
    std::memset(static_cast<char*>(done->to) + done->size, 0, done->bytes - done->size);
  }
  copies.erase(copies.begin(), done);
}

}  // namespace simulator
