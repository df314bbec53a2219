// Runs random jobs on teams (csrc/torch_binding/team.h), for the thread sanitizer:
//
//   g++ -std=c++20 -O1 -g1 -fsanitize=thread -Icsrc -Icsrc/include -Itests/kernels/team
//       -o check_team tests/kernels/team/main.cpp -pthread
//   check_team ASSEMBLIES
//
// What a job writes is plain memory, so that the sanitizer finds every access that the team does
// not order. The signals of this program itself are relaxed: they order nothing.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

#include "torch_binding/team.h"

namespace {

using convkern::torch_binding::Team;
using Random = std::minstd_rand;

std::atomic<int64_t> jobs{0}, faults{0}, followed{0};  // ranges that a follower has run

void expect(bool right, const char* what) {
  if (right) return;
  if (faults.fetch_add(1, std::memory_order_relaxed) < 10) std::fprintf(stderr, "%s\n", what);
}

int64_t below(Random& random, int64_t bound) { return static_cast<int64_t>(random() % bound); }

struct Thrown {
  int64_t job, begin;
};

// Tasks that each write a number, and a place for each thread that no other uses meanwhile.
struct Work {
  int64_t job;
  int threads;
  bool throws;  // in about every second range
  std::vector<int64_t> results;
  std::vector<int> runs;
  std::vector<int64_t> places;

  static void body(void* self, int64_t begin, int64_t end, int thread) {
    static_cast<Work*>(self)->run(begin, end, thread);
  }
  void run(int64_t begin, int64_t end, int thread) {
    expect(0 <= thread && thread < threads, "a thread has a number beyond the team's");
    places[thread] = begin;
    for (int64_t i = begin; i < end; ++i) {
      results[i] = 3 * i + job;
      ++runs[i];
      if ((i + job) % 200 == 0) std::this_thread::yield();
    }
    if (thread > 0) followed.fetch_add(1, std::memory_order_relaxed);
    expect(places[thread] == begin, "two ranges ran under the number of one thread");
    if (throws && (begin + job) % 2 == 0) throw Thrown{job, begin};
  }
};

void run_job(const convkern_executor* executor, Random& random) {
  const int threads = executor->threads;
  const int64_t counts[] = {0, 1, 2, threads - 1, threads, threads + 1, 50, 400};
  const int64_t count = counts[below(random, 8)];
  Work work{jobs.fetch_add(1, std::memory_order_relaxed),
            threads,
            below(random, 8) == 0,
            std::vector<int64_t>(count),
            std::vector<int>(count),
            std::vector<int64_t>(threads)};
  try {
    executor->run(executor->self, count, below(random, 3), Work::body, &work);
  } catch (const Thrown& thrown) {
    expect(work.throws && thrown.job == work.job, "an error is that of another job");
    work.throws = false;
  }
  for (int64_t i = 0; i < count; ++i) {
    expect(work.runs[i] == 1, "a task did not run once");
    expect(work.results[i] == 3 * i + work.job, "a result is wrong");
  }
  expect(!work.throws || count == 0 || work.job % 2 != 0, "an error was lost");
}

// Returns what threads do before they join: nothing, to wait for a while, or to wait until the
// leader is done with all jobs.
std::function<void(int64_t)> arrival(Random& random, const std::atomic<bool>& done) {
  const int64_t wait = below(random, 200);  // microseconds
  switch (below(random, 4)) {
    case 0:
      return [wait](int64_t) { std::this_thread::sleep_for(std::chrono::microseconds(wait)); };
    case 1:
      return [&done](int64_t) {
        while (!done.load(std::memory_order_relaxed)) std::this_thread::yield();
      };
    default:
      return [](int64_t) {};
  }
}

// Assembles teams of up to 5 threads, each several times.
void assemble(int assemblies, unsigned seed) {
  Random random(seed);
  while (assemblies > 0) {
    const int threads = 1 + static_cast<int>(below(random, 5));
    Team team(threads);
    for (int64_t times = 1 + below(random, 5); times > 0 && assemblies > 0; --times, --assemblies) {
      std::atomic<bool> done{false};
      at::regions = {1 + below(random, 8), arrival(random, done)};
      const bool fails = below(random, 6) == 0;
      try {
        team.assemble([&](const convkern_executor* executor) {
          expect(executor->threads == threads, "the team has another number of threads");
          for (int64_t left = below(random, 40); left > 0; --left) run_job(executor, random);
          done.store(true, std::memory_order_relaxed);
          if (fails) throw Thrown{-1, 0};
        });
        expect(!fails, "the leader's error was lost");
      } catch (const Thrown& thrown) {
        expect(fails && thrown.job == -1, "an error is not the leader's");
      }
    }
  }
}

void assemble_many_threads() {
  Random random(1);
  at::regions = {};
  Team(1000).assemble([&](const convkern_executor* executor) {
    expect(executor->threads == Team::kMostThreads, "a team has too many threads");
    for (int i = 0; i < 50; ++i) run_job(executor, random);
  });
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) return std::fprintf(stderr, "usage: check_team ASSEMBLIES\n"), 2;
  const int assemblies = std::atoi(arguments[1]);
  assemble(assemblies, 1);
  std::vector<std::thread> teams;  // several teams at once
  for (unsigned seed = 2; seed <= 4; ++seed) teams.emplace_back(assemble, assemblies / 3, seed);
  for (std::thread& team : teams) team.join();
  assemble_many_threads();
  std::printf("check_team: %lld jobs, %lld ranges by followers, %lld faults\n",
              static_cast<long long>(jobs), static_cast<long long>(followed),
              static_cast<long long>(faults));
  return faults == 0 ? 0 : 1;
}
