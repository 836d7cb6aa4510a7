// Threads that run one job after the other, within a call and from call to call; part of cpu_kernels.cc.
//
// Waking a thread takes as long as a small network's block, more where the processor is a virtual one that has gone to
// sleep. So those that help look out for the next job until the call is over, and then for the next call for as long as
// it takes a decoder to choose a word.

#ifndef NAT_AR_CREW_H_
#define NAT_AR_CREW_H_

#include <chrono>
#include <mutex>

#include "shared_work.h"

namespace {

// A thread that comes late, or never, holds nobody up: parts are taken, not given.
class Crew {
 public:
  explicit Crew(ffi::ThreadPool& pool, int64_t work) : shared(std::make_shared<Shared>()) {
    const int64_t threads = std::min<int64_t>(pool.num_threads(), 1 + work / kWorthAThread);
    has_help = threads > 1;
    if (!has_help) return;
    const int64_t present = Lobby::instance().call(shared);
    for (int64_t thread = 1 + present; thread < threads; ++thread) pool.Schedule([shared = shared] { help(shared); });
  }
  ~Crew() { shared->next.store(kOver, std::memory_order_release); }

  template <typename Job>
  void operator()(const Job& job, int64_t parts, int64_t work) const {
    if (!has_help || parts < 2 || work < kWorthSharing) {
      for (int64_t part = 0; part < parts; ++part) job.run(part);
      return;
    }
    const int64_t size = std::max<int64_t>(1, parts / kPieces), pieces = (parts + size - 1) / size;
    const Pieces<Job> all{job, parts, size};
    shared->job = &all;
    shared->run = [](const void* job, int64_t piece) { static_cast<const Pieces<Job>*>(job)->run(piece); };
    shared->done.store(0, std::memory_order_relaxed);
    shared->next.store(static_cast<uint64_t>(pieces) << 32, std::memory_order_release);
    shared->take();
    for (Wait wait; shared->done.load(std::memory_order_acquire) < pieces;) wait.turn();
  }

 private:
  static constexpr uint64_t kOver = ~uint64_t{0};
  static constexpr int64_t kWorthSharing = 1 << 12, kPieces = 16;

  template <typename Job>
  struct Pieces {
    const Job& job;
    int64_t parts, size;

    void run(int64_t piece) const {
      for (int64_t part = piece * size; part < std::min(parts, (piece + 1) * size); ++part) job.run(part);
    }
  };

  // A ticket is how many pieces the job has, and the next of them to be taken.
  static bool is_open(uint64_t ticket) { return ticket != kOver && (ticket & 0xffffffff) < ticket >> 32; }

  struct Shared {
    std::atomic<uint64_t> next{0};
    std::atomic<int64_t> done{0};
    const void* job;
    void (*run)(const void*, int64_t);
    uint64_t number = 0;  // of the call

    // Whoever holds a piece of a job keeps it from ending, so that the job is still there.
    void take() {
      uint64_t ticket = next.load(std::memory_order_acquire);
      while (is_open(ticket)) {
        if (!next.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) continue;
        run(job, static_cast<int64_t>(ticket & 0xffffffff));
        done.fetch_add(1, std::memory_order_release);
        ticket = next.load(std::memory_order_acquire);
      }
    }
  };

  // Where threads that have helped wait for the next call.
  class Lobby {
   public:
    static Lobby& instance() {
      static Lobby* const lobby = new Lobby;  // threads may look at it while the process ends
      return *lobby;
    }

    // Tells those who wait; how many they are, about.
    int64_t call(const std::shared_ptr<Shared>& shared) {
      const std::lock_guard<std::mutex> lock(mutex);
      newest = shared;
      shared->number = number.load(std::memory_order_relaxed) + 1;
      number.store(shared->number, std::memory_order_release);
      return waiting.load(std::memory_order_relaxed);
    }

    // The newest call after that of this number; none if there is none in time.
    std::shared_ptr<Shared> next_after(uint64_t last) {
      const auto end = std::chrono::steady_clock::now() + kPatience;
      waiting.fetch_add(1, std::memory_order_relaxed);
      for (Wait wait; number.load(std::memory_order_acquire) == last; wait.turn())
        if (wait.is_time_to_look() && std::chrono::steady_clock::now() > end) break;
      const std::lock_guard<std::mutex> lock(mutex);
      waiting.fetch_sub(1, std::memory_order_relaxed);
      return newest != nullptr && newest->number != last ? newest : nullptr;
    }

   private:
    static constexpr std::chrono::microseconds kPatience{100};

    std::mutex mutex;
    std::shared_ptr<Shared> newest;
    std::atomic<uint64_t> number{0};
    std::atomic<int64_t> waiting{0};
  };

  static void help(std::shared_ptr<Shared> shared) {
    while (shared != nullptr) {
      uint64_t ticket;
      for (Wait wait; (ticket = shared->next.load(std::memory_order_acquire)) != kOver;)
        if (is_open(ticket)) {
          shared->take();
        } else {
          wait.turn();
        }
      shared = Lobby::instance().next_after(shared->number);
    }
  }

  std::shared_ptr<Shared> shared;
  bool has_help;
};

// The parts of a job that is alone in its call: the others are asked from twice the work on, since they have to come for
// this one only.
template <typename Job>
void run_by_crew(ffi::ThreadPool& pool, const Job& job, int64_t parts, int64_t work) {
  Crew(pool, work / 2)(job, parts, work);
}

struct ByCrew {
  ffi::ThreadPool& pool;

  template <typename Job>
  void operator()(const Job& job, int64_t parts, int64_t work) const {
    run_by_crew(pool, job, parts, work);
  }
};

}  // namespace

#endif  // NAT_AR_CREW_H_
