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
  for (int64_t k = 0; k < depth; ++k)
    for (int64_t row = 0; row < stride; ++row) to[k * stride + row] = row < rows ? from[row * from_stride + k] : 0.0f;
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
  const int32_t* counts;  // [batch]: the first keys, which take part
  bool is_causal;         // a query sees keys up to its own place

  int64_t wide_depth() const { return (query.depth + kWide - 1) / kWide * kWide; }
  int64_t wide_keys() const { return (key.length + kWide - 1) / kWide * kWide; }
  // The keys that a query sees; all of them where it would see none.
  int64_t seen(int64_t sentence, int64_t row) const {
    const int64_t count = std::min<int64_t>(counts[sentence], key.length);
    return count <= 0 ? key.length : is_causal ? std::min(count, row + 1) : count;
  }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(query.depth)); }

  // shares[queries, wide_keys()], zeros where a query sees nothing. keys: [depth, wide_keys()].
  void find_shares(int64_t sentence, const float* queries, const float* keys, float* shares) const {
    const int64_t stride = wide_keys();
    multiply_small(queries, wide_depth(), 1, keys, stride, query.depth, shares, stride, query.length, stride);
    for (int64_t row = 0; row < query.length; ++row, shares += stride) {
      const int64_t count = seen(sentence, row);
      const float factor = counts[sentence] <= 0 ? 0.0f : scale();  // evenly, where there are no keys
      float largest = -INFINITY;
      for (int64_t i = 0; i < count; ++i) largest = std::max(largest, shares[i] *= factor);
      const int64_t end = (count + kLanes - 1) / kLanes * kLanes;
      for (int64_t i = 0; i < end; i += kLanes) store(shares + i, exponential(load(shares + i) - largest));
      std::fill(shares + count, shares + stride, 0.0f);
      float sum = 0.0f;
      for (int64_t i = 0; i < count; ++i) sum += shares[i];
      for (int64_t i = 0; i < count; ++i) shares[i] /= sum;
    }
  }
};

struct AttentionForward : TrainingAttention {
  ByHeads result;

  void run(int64_t part) const {
    const int64_t sentence = part / query.heads, head = part % query.heads;
    const int64_t wide = wide_depth(), stride = wide_keys(), queries = query.length, keys = key.length;
    Room room(queries * (2 * wide + stride) + 2 * keys * wide + query.depth * stride);
    float *q = room.take(queries * wide), *o = room.take(queries * wide), *p = room.take(queries * stride);
    float *k = room.take(keys * wide), *v = room.take(keys * wide), *by_depth = room.take(query.depth * stride);
    query.read(sentence, head, q, wide);
    key.read(sentence, head, k, wide);
    value.read(sentence, head, v, wide);
    exchange_rows(k, wide, keys, query.depth, by_depth, stride);
    find_shares(sentence, q, by_depth, p);
    multiply_small(p, stride, 1, v, wide, keys, o, wide, queries, wide);
    result.write(sentence, head, o, wide);
  }
};

// With scores s = q k / root, p = softmax(s), o = p v and g = dL/do: dL/dv = g p, dL/dp = g v and
// dL/ds = p (dL/dp - sum of p dL/dp).
struct AttentionBackward : TrainingAttention {
  ByHeads gradient, to_query, to_key, to_value;

  void run(int64_t part) const {
    const int64_t sentence = part / query.heads, head = part % query.heads;
    const int64_t wide = wide_depth(), stride = wide_keys(), queries = query.length, keys = key.length;
    Room room(queries * (2 * wide + 2 * stride) + 2 * keys * wide + query.depth * stride + std::max(queries, keys) * wide);
    float *q = room.take(queries * wide), *g = room.take(queries * wide);
    float *p = room.take(queries * stride), *s = room.take(queries * stride);
    float *k = room.take(keys * wide), *v = room.take(keys * wide), *by_depth = room.take(query.depth * stride);
    float* found = room.take(std::max(queries, keys) * wide);
    query.read(sentence, head, q, wide);
    key.read(sentence, head, k, wide);
    value.read(sentence, head, v, wide);
    gradient.read(sentence, head, g, wide);
    exchange_rows(k, wide, keys, query.depth, by_depth, stride);
    find_shares(sentence, q, by_depth, p);
    multiply_small(p, 1, stride, g, wide, queries, found, wide, keys, wide);
    to_value.write(sentence, head, found, wide);
    exchange_rows(v, wide, keys, query.depth, by_depth, stride);
    multiply_small(g, wide, 1, by_depth, stride, query.depth, s, stride, queries, stride);
    const float factor = counts[sentence] <= 0 ? 0.0f : scale();
    for (int64_t row = 0; row < queries; ++row) {
      float *to_score = s + row * stride, *share = p + row * stride, along = 0.0f;
      for (int64_t i = 0; i < keys; ++i) along += share[i] * to_score[i];
      for (int64_t i = 0; i < stride; ++i) to_score[i] = share[i] * (to_score[i] - along) * factor;
    }
    multiply_small(s, stride, 1, k, wide, keys, found, wide, queries, wide);
    to_query.write(sentence, head, found, wide);
    multiply_small(s, 1, stride, q, wide, queries, found, wide, keys, wide);
    to_key.write(sentence, head, found, wide);
  }
};

}  // namespace

#endif  // NAT_AR_TRAINING_ATTENTION_H_
