// Work that the threads of XLA's pool do together; part of cpu_kernels.cc and of bfloat16_products.cc.

#ifndef NAT_AR_SHARED_WORK_H_
#define NAT_AR_SHARED_WORK_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>

#include "xla/ffi/api/ffi.h"

#if defined(__x86_64__) || defined(__i386__)
#define RELAX() __builtin_ia32_pause()
#else
#define RELAX() std::this_thread::yield()
#endif

namespace {

namespace ffi = xla::ffi;

constexpr int64_t kWorthAThread = 1 << 15;  // operations on memory, or 4 in registers, for which waking a thread pays

// Of a thread that waits for others, turn by turn. One of them may stand behind it on the same core, where it was woken.
class Wait {
 public:
  // Now and then.
  bool is_time_to_look() const { return turns % 16 == 0; }

  void turn() {
    if (++turns % kBeforeOthers != 0) {
      RELAX();
    } else {
      std::this_thread::yield();
    }
  }

 private:
  static constexpr int64_t kBeforeOthers = 256;
  int64_t turns = 0;
};

// Parts of a job, a stretch for each thread, which takes one after the other and then helps the others. A thread
// that comes too late finds none.
template <typename Job>
struct Shares {
  Shares(const Job& job, int64_t parts, int64_t threads)
      : job(job), parts(parts), threads(threads), next(new std::atomic<int64_t>[threads]) {
    for (int64_t i = 0; i < threads; ++i) next[i] = first(i);
  }

  int64_t first(int64_t thread) const { return thread * parts / threads; }

  void take(int64_t thread) {
    for (int64_t i = 0; i < threads; ++i) {
      const int64_t of = (thread + i) % threads, end = first(of + 1);
      for (int64_t part; (part = next[of].fetch_add(1, std::memory_order_relaxed)) < end;) {
        job.run(part);
        done.fetch_add(1, std::memory_order_release);
      }
    }
  }

  const Job job;
  const int64_t parts, threads;
  const std::unique_ptr<std::atomic<int64_t>[]> next;
  std::atomic<int64_t> done{0};
};

// Runs all parts of a job, `work` operations in all, on as many threads as that is worth.
template <typename Job>
void run_all(ffi::ThreadPool& pool, const Job& job, int64_t parts, int64_t work) {
  const int64_t threads = std::min({pool.num_threads(), parts, work / kWorthAThread});
  if (threads <= 1) {
    for (int64_t part = 0; part < parts; ++part) job.run(part);
    return;
  }
  const auto shares = std::make_shared<Shares<Job>>(job, parts, threads);
  for (int64_t thread = 1; thread < threads; ++thread) pool.Schedule([=] { shares->take(thread); });
  shares->take(0);
  for (Wait wait; shares->done.load(std::memory_order_acquire) < parts;) wait.turn();
}

struct OnPool {
  ffi::ThreadPool& pool;

  template <typename Job>
  void operator()(const Job& job, int64_t parts, int64_t work) const {
    run_all(pool, job, parts, work);
  }
};

}  // namespace

#endif  // NAT_AR_SHARED_WORK_H_
