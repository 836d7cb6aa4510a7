// Attention of a few queries; part of cpu_kernels.cc.
//
// Keys lie with places last, so that scores of neighbouring places are computed side by side, and values with places
// first. Places after the last one that counts are never read.

#ifndef NAT_AR_DECODING_ATTENTION_H_
#define NAT_AR_DECODING_ATTENTION_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "vectors.h"

namespace {

struct Attention {
  const float* query;    // [batch, queries, heads, depth]
  const float* key;      // [batch, heads, depth, places]
  const float* value;    // [batch, heads, places, depth]
  const int32_t* counts;  // [batch] or [batch, queries], positions that count
  const int32_t* origin;  // [batch, queries, positions], the slot that is read at each position; null: there is one
  float* results;        // [batch, queries, heads, depth]
  int64_t batch, queries, heads, depth, places, positions;
  bool has_own_counts;  // each query
  int64_t query_stride;  // from the heads of one query to those of the next

  int64_t count(int64_t sentence, int64_t query) const {
    return std::min<int64_t>(counts[has_own_counts ? sentence * queries + query : sentence], positions);
  }
  void run(int64_t part) const;
};

// Inner products of `num` queries with the keys of the places from 0 to `end`; stride: from query to query, and
// between the rows of scores.
template <int64_t num>
void inner_products(const float* query, int64_t stride, const float* key, int64_t depth, int64_t places, int64_t end,
                    float* scores) {
  constexpr int64_t kBlock = 2 * kLanes;
  for (int64_t start = 0; start < end && places >= kBlock; start += kBlock) {
    const int64_t place = std::min(start, places - kBlock);  // the last block may begin within the one before
    Vector low[num] = {}, high[num] = {};
    for (int64_t k = 0; k < depth; ++k) {
      const Vector left = load(key + k * places + place), right = load(key + k * places + place + kLanes);
      for (int64_t i = 0; i < num; ++i) {
        const Vector q = everywhere(query[i * stride + k]);
        low[i] += q * left;
        high[i] += q * right;
      }
    }
    for (int64_t i = 0; i < num; ++i) {
      store(scores + i * places + place, low[i]);
      store(scores + i * places + place + kLanes, high[i]);
    }
  }
  for (int64_t place = 0; place < end && places < kBlock; ++place)
    for (int64_t i = 0; i < num; ++i) {
      float sum = 0.0f;
      for (int64_t k = 0; k < depth; ++k) sum = std::fma(query[i * stride + k], key[k * places + place], sum);
      scores[i * places + place] = sum;
    }
}

// x[0 .. count) becomes exp(x - max x) and is followed by zeros up to a multiple of kLanes; returns the sum.
float exponentials(float* x, int64_t count) {
  const float largest = *std::max_element(x, x + count);
  const int64_t end = (count + kLanes - 1) / kLanes * kLanes;
  std::fill(x + count, x + end, -INFINITY);
  Vector sums = {};
  for (int64_t i = 0; i < end; i += kLanes) {
    const Vector e = exponential(load(x + i) - largest);
    store(x + i, e);
    sums += e;
  }
  return sum_of_lanes(sums);
}

// The sum of `num` vectors of values, from `column` on, by their weights.
template <int64_t num>
void weighted_sum(const float* weights, const int64_t* rows, int64_t count, const float* value, int64_t column,
                  float* result) {
  Vector sum[num] = {};
  for (int64_t t = 0; t < count; ++t)
    for (int64_t v = 0; v < num; ++v) sum[v] += weights[t] * load(value + rows[t] + column + v * kLanes);
  for (int64_t v = 0; v < num; ++v) store(result + column + v * kLanes, sum[v]);
}

// One head of one sentence.
void Attention::run(int64_t part) const {
  constexpr int64_t kTogether = 4;
  const int64_t sentence = part / heads, head = part % heads;
  const int64_t slots = places / positions;
  const float* keys = key + part * depth * places;
  const float* values = value + part * places * depth;
  const float scale = 1.0f / std::sqrt(static_cast<float>(depth));
  thread_local std::vector<float> scores, weights;
  thread_local std::vector<int64_t> rows;
  scores.resize(kTogether * places);
  weights.resize(positions + kLanes);
  rows.resize(positions);
  for (int64_t first = 0; first < queries; first += kTogether) {
    const int64_t num = std::min(kTogether, queries - first), row = sentence * queries + first;
    const float* asked = query + row * query_stride + head * depth;
    int64_t most = 0;
    for (int64_t i = 0; i < num; ++i) most = std::max(most, count(sentence, first + i));
    if (num == kTogether) {
      inner_products<kTogether>(asked, query_stride, keys, depth, places, most * slots, scores.data());
    } else {
      for (int64_t i = 0; i < num; ++i)
        inner_products<1>(asked + i * query_stride, query_stride, keys, depth, places, most * slots,
                          &scores[i * places]);
    }
    for (int64_t i = 0; i < num; ++i) {
      const int64_t count = this->count(sentence, first + i);
      float* result = results + ((row + i) * heads + head) * depth;
      std::fill(result, result + depth, 0.0f);
      if (count <= 0) continue;
      for (int64_t t = 0; t < count; ++t) {
        const int64_t place = t * slots + (origin == nullptr ? 0 : origin[(row + i) * positions + t]);
        weights[t] = scores[i * places + place] * scale;
        rows[t] = place * depth;
      }
      const float share = 1.0f / exponentials(weights.data(), count);
      for (int64_t t = 0; t < count; ++t) weights[t] *= share;
      int64_t column = 0;
      for (; column + 8 * kLanes <= depth; column += 8 * kLanes)
        weighted_sum<8>(weights.data(), rows.data(), count, values, column, result);
      for (; column + kLanes <= depth; column += kLanes)
        weighted_sum<1>(weights.data(), rows.data(), count, values, column, result);
      for (; column < depth; ++column)
        for (int64_t t = 0; t < count; ++t) result[column] += weights[t] * values[rows[t] + column];
    }
  }
}

}  // namespace

#endif  // NAT_AR_DECODING_ATTENTION_H_
