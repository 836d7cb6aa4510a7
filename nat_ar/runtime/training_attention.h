// Attention of all positions of sentences to all positions, forward and backward; part of training_kernels.cc.
//
// softmax(q k / sqrt(depth)) v for one head of one sentence at a time, in float32: its queries, keys and values fit the
// first caches, the shares of keys never leave them, and nothing is transposed in memory. The backward pass computes the
// shares again.

#ifndef NAT_AR_TRAINING_ATTENTION_H_
#define NAT_AR_TRAINING_ATTENTION_H_

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "vectors.h"

namespace {

// Rows that are computed together, two vectors wide: what the registers hold, as in cpu_kernels.cc.
constexpr int64_t kStrip = kWide == 16 ? 12 : 6;

// c[rows, vectors * kWide] = a b, with a[row * a_row + k * a_deep] and b[deep, b_stride].
template <int64_t rows, int64_t vectors>
void strip(const float* a, int64_t a_row, int64_t a_deep, const float* b, int64_t b_stride, int64_t deep, float* c,
           int64_t c_stride) {
  Wide sums[rows][vectors] = {};
  for (int64_t k = 0; k < deep; ++k, a += a_deep, b += b_stride) {
    Wide right[vectors];
    for (int64_t v = 0; v < vectors; ++v) right[v] = load_wide(b + v * kWide);
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t v = 0; v < vectors; ++v) sums[row][v] += a[row * a_row] * right[v];
  }
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t v = 0; v < vectors; ++v) store_wide(c + row * c_stride + v * kWide, sums[row][v]);
}

using Strip = void (*)(const float*, int64_t, int64_t, const float*, int64_t, int64_t, float*, int64_t);

template <int64_t vectors, std::size_t... counts>
constexpr std::array<Strip, sizeof...(counts)> strips(std::index_sequence<counts...>) {
  return {strip<counts + 1, vectors>...};
}

// c[rows, columns] = a b; columns is a multiple of kWide.
void multiply_small(const float* a, int64_t a_row, int64_t a_deep, const float* b, int64_t b_stride, int64_t deep,
                    float* c, int64_t c_stride, int64_t rows, int64_t columns) {
  static constexpr auto narrow = strips<1>(std::make_index_sequence<kStrip>{});
  static constexpr auto wide = strips<2>(std::make_index_sequence<kStrip>{});
  for (int64_t column = 0; column < columns; column += 2 * kWide)
    for (int64_t row = 0; row < rows; row += kStrip) {
      const int64_t here = std::min(kStrip, rows - row);
      const Strip run = columns - column > kWide ? wide[here - 1] : narrow[here - 1];
      run(a + row * a_row, a_row, a_deep, b + column, b_stride, deep, c + row * c_stride + column, c_stride);
    }
}

// An array [batch, length, heads, depth], of which one head of one sentence is read or written.
struct ByHeads {
  void* values;
  int64_t length, heads, depth;
  bool is_rounded;  // bfloat16, else float32

  int64_t place(int64_t sentence, int64_t head, int64_t row) const {
    return ((sentence * length + row) * heads + head) * depth;
  }
  float value(int64_t place) const {
    return is_rounded ? widened(static_cast<const uint16_t*>(values)[place]) : static_cast<const float*>(values)[place];
  }
  // To to[length, stride], zeros behind the depth.
  void read(int64_t sentence, int64_t head, float* to, int64_t stride) const {
    for (int64_t row = 0; row < length; ++row, to += stride) {
      const int64_t from = place(sentence, head, row);
      if (is_rounded) {
        for (int64_t k = 0; k < depth; ++k) to[k] = widened(static_cast<const uint16_t*>(values)[from + k]);
      } else {
        std::memcpy(to, static_cast<const float*>(values) + from, depth * sizeof(float));
      }
      std::fill(to + depth, to + stride, 0.0f);
    }
  }
  void write(int64_t sentence, int64_t head, const float* from, int64_t stride) const {
    for (int64_t row = 0; row < length; ++row, from += stride) {
      const int64_t to = place(sentence, head, row);
      if (is_rounded) {
        for (int64_t k = 0; k < depth; ++k) static_cast<uint16_t*>(values)[to + k] = rounded(from[k]);
      } else {
        std::memcpy(static_cast<float*>(values) + to, from, depth * sizeof(float));
      }
    }
  }
};

// to[depth, stride] = from[rows, from_stride] with rows and columns exchanged, zeros behind the rows.
inline void exchange_rows(const float* from, int64_t from_stride, int64_t rows, int64_t depth, float* to,
                          int64_t stride) {
  for (int64_t start = 0; start < stride; start += kLanes)
    for (int64_t k = 0; k < depth; ++k) {
      Vector column = {};
      for (int64_t lane = 0; lane < kLanes; ++lane)
        if (start + lane < rows) column[lane] = from[(start + lane) * from_stride + k];
      store(to + k * stride + start, column);
    }
}

struct Room {
  explicit Room(int64_t values) {
    if (static_cast<int64_t>(kept().size()) < values) kept().resize(values);
    next = kept().data();
  }
  float* take(int64_t values) { return std::exchange(next, next + values); }

  static std::vector<float>& kept() {  // by a thread, from call to call
    thread_local std::vector<float> kept;
    return kept;
  }
  float* next;
};

struct TrainingAttention {
  ByHeads query, key, value;
  const int32_t* counts;  // [batch]: the first keys, which take part; all of them, evenly, where there are none
  bool is_causal;         // a query sees keys up to its own place

  int64_t wide_depth() const { return (query.depth + kWide - 1) / kWide * kWide; }
  int64_t wide_queries() const { return (query.length + kWide - 1) / kWide * kWide; }
  bool is_even(int64_t sentence) const { return counts[sentence] <= 0; }
  int64_t keys_of(int64_t sentence) const {
    return is_even(sentence) ? key.length : std::min<int64_t>(counts[sentence], key.length);
  }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(query.depth)); }

  // shares[num, wide_queries()], of `num` keys, each in a row for all queries: so maxima and sums over keys are taken for
  // as many queries at once as a vector has values. queries: [depth, wide_queries()].
  void find_shares(int64_t sentence, const float* keys, int64_t num, const float* queries, float* shares) const {
    const int64_t stride = wide_queries();
    if (is_even(sentence)) {
      std::fill_n(shares, num * stride, 1.0f / num);
      return;
    }
    multiply_small(keys, wide_depth(), 1, queries, stride, query.depth, shares, stride, num, stride);
    const float factor = scale();
    Wide places;
    for (int64_t lane = 0; lane < kWide; ++lane) places[lane] = lane;
    for (int64_t start = 0; start < stride; start += kWide, places += kWide) {
      float* column = shares + start;
      Wide largest = -INFINITY - Wide{}, sum = {};
      for (int64_t i = 0; i < num; ++i) {
        Wide score = load_wide(column + i * stride) * factor;
        if (is_causal) score = places < static_cast<float>(i) ? -INFINITY - Wide{} : score;
        store_wide(column + i * stride, score);
        largest = score > largest ? score : largest;
      }
      for (int64_t i = 0; i < num; ++i) {
        const Wide share = exponential_of(load_wide(column + i * stride) - largest);
        store_wide(column + i * stride, share);
        sum += share;
      }
      const Wide rate = 1.0f / sum;
      for (int64_t i = 0; i < num; ++i) store_wide(column + i * stride, load_wide(column + i * stride) * rate);
    }
  }
};

struct AttentionForward : TrainingAttention {
  ByHeads result;

  void run(int64_t part) const {
    const int64_t sentence = part / query.heads, head = part % query.heads, depth = query.depth;
    const int64_t wide = wide_depth(), stride = wide_queries(), queries = query.length, keys = key.length;
    Room room(queries * wide + 2 * keys * wide + (depth + keys) * stride);
    float *q = room.take(queries * wide), *k = room.take(keys * wide), *v = room.take(keys * wide);
    float *by_depth = room.take(depth * stride), *p = room.take(keys * stride);
    query.read(sentence, head, q, wide);
    key.read(sentence, head, k, wide);
    value.read(sentence, head, v, wide);
    const int64_t num = keys_of(sentence);
    exchange_rows(q, wide, queries, depth, by_depth, stride);
    find_shares(sentence, k, num, by_depth, p);
    multiply_small(p, 1, stride, v, wide, num, q, wide, queries, wide);
    result.write(sentence, head, q, wide);
  }
};

// With scores s = q k / root, p = softmax(s), o = p v and g = dL/do: dL/dv = g p, dL/dp = g v and
// dL/ds = p (dL/dp - sum of p dL/dp).
struct AttentionBackward : TrainingAttention {
  ByHeads gradient, to_query, to_key, to_value;

  void run(int64_t part) const {
    const int64_t sentence = part / query.heads, head = part % query.heads, depth = query.depth;
    const int64_t wide = wide_depth(), stride = wide_queries(), queries = query.length, keys = key.length;
    Room room((3 * queries + 3 * keys) * wide + (depth + 2 * keys) * stride);
    float *q = room.take(queries * wide), *g = room.take(queries * wide), *to_q = room.take(queries * wide);
    float *k = room.take(keys * wide), *v = room.take(keys * wide), *to_k = room.take(keys * wide);
    float *by_depth = room.take(depth * stride), *p = room.take(keys * stride), *s = room.take(keys * stride);
    query.read(sentence, head, q, wide);
    gradient.read(sentence, head, g, wide);
    key.read(sentence, head, k, wide);
    value.read(sentence, head, v, wide);
    const int64_t num = keys_of(sentence);
    exchange_rows(q, wide, queries, depth, by_depth, stride);
    find_shares(sentence, k, num, by_depth, p);
    std::fill(to_k + num * wide, to_k + keys * wide, 0.0f);
    multiply_small(p, stride, 1, g, wide, queries, to_k, wide, num, wide);
    to_value.write(sentence, head, to_k, wide);
    if (is_even(sentence)) {
      std::fill_n(s, keys * stride, 0.0f);
    } else {
      exchange_rows(g, wide, queries, depth, by_depth, stride);
      multiply_small(v, wide, 1, by_depth, stride, depth, s, stride, num, stride);
      to_scores(num, p, s);
    }
    multiply_small(s, 1, stride, k, wide, num, to_q, wide, queries, wide);
    to_query.write(sentence, head, to_q, wide);
    multiply_small(s, stride, 1, q, wide, queries, to_k, wide, num, wide);
    to_key.write(sentence, head, to_k, wide);
  }

  // From the gradient of shares to that of inner products.
  void to_scores(int64_t num, const float* shares, float* gradients) const {
    const int64_t stride = wide_queries();
    for (int64_t start = 0; start < stride; start += kWide) {
      const float* share = shares + start;
      float* to = gradients + start;
      Wide along = {};
      for (int64_t i = 0; i < num; ++i) along += load_wide(share + i * stride) * load_wide(to + i * stride);
      for (int64_t i = 0; i < num; ++i) {
        const Wide score = load_wide(share + i * stride) * (load_wide(to + i * stride) - along);
        store_wide(to + i * stride, score * scale());
      }
    }
  }
};

}  // namespace

#endif  // NAT_AR_TRAINING_ATTENTION_H_
