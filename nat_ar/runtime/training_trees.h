// What an optimizer does to all parameters, one pass over lists of arrays for each; part of training_kernels.cc.
//
// The values of all arrays are cut into stretches of kStretch, whatever the number of threads.

#ifndef NAT_AR_TRAINING_TREES_H_
#define NAT_AR_TRAINING_TREES_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "vectors.h"

namespace {

constexpr int64_t kStretch = 1 << 14, kTogether = 64;  // values of which one thread works, and that it computes together

struct Stretch {
  int64_t array, start, count;
};

std::vector<Stretch> stretches_of(const std::vector<int64_t>& sizes) {
  std::vector<Stretch> found;
  for (int64_t array = 0; array < static_cast<int64_t>(sizes.size()); ++array)
    for (int64_t start = 0; start < sizes[array]; start += kStretch)
      found.push_back({array, start, std::min(kStretch, sizes[array] - start)});
  return found;
}

// parts[i]: the sum of squares of stretch i.
struct Squares {
  const Stretch* stretches;
  const float* const* arrays;
  double* parts;

  void run(int64_t part) const {
    const Stretch here = stretches[part];
    const float* x = arrays[here.array] + here.start;
    Vector sums[4] = {};
    int64_t i = 0;
    for (; i + 4 * kLanes <= here.count; i += 4 * kLanes)
      for (int64_t v = 0; v < 4; ++v) sums[v] += load(x + i + v * kLanes) * load(x + i + v * kLanes);
    double sum = sum_of_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
    for (; i < here.count; ++i) sum += static_cast<double>(x[i]) * x[i];
    parts[part] = sum;
  }
};

// to = a + rate * b, or a + rate * (b - a).
struct Move {
  const Stretch* stretches;
  const float *const *a, *const *b;
  float* const* to;
  float rate;
  bool is_toward;

  void run(int64_t part) const {
    const Stretch here = stretches[part];
    const float *from = a[here.array] + here.start, *by = b[here.array] + here.start;
    float* results = to[here.array] + here.start;
    float moved[kTogether];
    for (int64_t start = 0; start < here.count; start += kTogether) {
      const int64_t count = std::min(kTogether, here.count - start);
      if (is_toward) {
        for (int64_t i = 0; i < count; ++i) moved[i] = from[start + i] + rate * (by[start + i] - from[start + i]);
      } else {
        for (int64_t i = 0; i < count; ++i) moved[i] = from[start + i] + rate * by[start + i];
      }
      std::memcpy(results + start, moved, count * sizeof(float));
    }
  }
};

// Moments and update of Adam (Kingma & Ba 2015, algorithm 1).
struct Adam {
  const Stretch* stretches;
  const float *const *gradients, *const *means, *const *squares;
  float *const *updates, *const *new_means, *const *new_squares;
  float beta1, beta2, epsilon, mean_rate, square_rate;  // rates: 1 / (1 - beta^t)
  float scale, rate;                                      // of gradients, and of updates

  void run(int64_t part) const {
    const Stretch here = stretches[part];
    const float* g = gradients[here.array] + here.start;
    const float *m = means[here.array] + here.start, *s = squares[here.array] + here.start;
    float *to = updates[here.array] + here.start, *to_m = new_means[here.array] + here.start;
    float* to_s = new_squares[here.array] + here.start;
    // In arrays of its own, since a compiler that must expect the results to overlap computes one value at a time.
    float mean[kTogether], square[kTogether], update[kTogether];
    const float rest1 = 1.0f - beta1, rest2 = 1.0f - beta2;
    for (int64_t start = 0; start < here.count; start += kTogether) {
      const int64_t count = std::min(kTogether, here.count - start);
      for (int64_t i = 0; i < count; ++i) {
        const float gradient = scale * g[start + i];
        mean[i] = rest1 * gradient + beta1 * m[start + i];
        square[i] = rest2 * (gradient * gradient) + beta2 * s[start + i];
        update[i] = rate * mean[i] * mean_rate / (std::sqrt(square[i] * square_rate) + epsilon);
      }
      std::memcpy(to + start, update, count * sizeof(float));
      std::memcpy(to_m + start, mean, count * sizeof(float));
      std::memcpy(to_s + start, square, count * sizeof(float));
    }
  }
};

}  // namespace

#endif  // NAT_AR_TRAINING_TREES_H_
