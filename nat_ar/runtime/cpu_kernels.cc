// What decoding on a CPU spends its time on, as calls that XLA's programs make; cpu_kernels.py says what each computes.
//
// Products with packed weights. A weight [depth, width] lies in panels of 16 columns, [panels, depth, 16], the last one
// filled up with zeros: a product reads it from its first byte to its last, once for all rows. Up to 6 rows of a
// panel's results stay in registers while the panel goes by. Panels are shared out among the threads of XLA's own
// pool. With weights of 8 bits, which have a scale for each column, states are rounded to 8 bits, with a scale for each
// row (int8_products.h).
//
// The products along the depth are added one by one in their order, and the bias comes last: a result depends neither
// on the number of rows nor on the threads.
//
// Attention of a few queries. Keys lie with places last, so that scores of neighbouring places are computed side by
// side, and values with places first. Places after the last one that counts are never read.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>
#include <new>
#include <optional>
#include <utility>
#include <vector>

#include "crew.h"
#include "int8_products.h"
#include "vectors.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

using Floats = ffi::Buffer<ffi::F32>;
using Integers = ffi::Buffer<ffi::S32>;

constexpr int64_t kPanel = 16;               // columns, as in cpu_kernels.py
constexpr int64_t kVectors = kPanel / kWide;  // of a panel
// AVX2: 6 rows x 2 vectors of results, 2 of weights and 1 of states are 15 of its 16 registers; AVX-512 has 32.
constexpr int64_t kRows = kWide == 16 ? 10 : 6;

// Whether the processor brings in the weights of so few rows by itself, so that asking for them only takes slots from the
// loads: AMD's (measured on Zen 4 and 5, with AVX-512, and for one row on Zen 1, with AVX2). With four rows it depends
// on the weights: those of a model that fits the second cache come by at 0.73 of the speed if asked for, 22 MB at 1.2
// times.
inline bool foresees(int64_t rows) {
#if defined(__AVX2__)
  static const bool is_amd = (__builtin_cpu_init(), __builtin_cpu_is("amd"));
  return is_amd && rows <= (kWide == 16 ? 3 : 1);
#else
  return false;
#endif
}

struct Product {
  const float* states;  // [rows, depth]
  const float* panels;  // [panels, depth, kPanel]
  const float* bias;    // [width], or null
  float* results;       // [rows, width]
  float smallest;        // result: what is less becomes this
  int64_t rows, depth, width;

  int64_t panels_in_all() const { return (width + kPanel - 1) / kPanel; }
  // Panels that are computed together: the sums of one row of a single panel would wait for each other, and those of
  // more rows would wait for loads of their states.
  int64_t together() const {
    if (rows == 1) return foresees(rows) ? kForeseen : kOfOneRow;
    return rows <= kFew ? kOfFewRows : kOfMoreRows;
  }
  static constexpr int64_t kFew = kWide == 16 ? 6 : 3;  // rows
  static constexpr int64_t kOfOneRow = 8 / kVectors, kForeseen = 4;  // where it asks, where it does not
  static constexpr int64_t kOfFewRows = 4 / kVectors, kOfMoreRows = kWide == 16 ? 2 : 1;
  int64_t parts() const { return (panels_in_all() + together() - 1) / together(); }
  void run(int64_t part) const;
  void run_panel(int64_t panel) const;
};

// What becomes of the sums of one panel, and where they go: to the results, or first to an array of whole panels, where
// the last panel is filled up.
struct Columns {
  Columns(const float* scale, const float* bias, float smallest, float* results, int64_t rows, int64_t width,
          int64_t panel)
      : smallest(smallest), results(results + panel * kPanel), stride(width), rows(rows), width(width) {
    const int64_t column = panel * kPanel;
    num = std::min(kPanel, width - column);
    std::fill_n(this->scale, kPanel, 1.0f);
    if (scale != nullptr) std::memcpy(this->scale, scale + column, num * sizeof(float));
    if (bias != nullptr) std::memcpy(this->bias, bias + column, num * sizeof(float));
    if (num == kPanel) return;
    narrow = this->results;
    whole = std::make_unique<float[]>(rows * kPanel);
    this->results = whole.get();
    stride = kPanel;
  }
  ~Columns() {
    for (int64_t row = 0; row < rows && whole != nullptr; ++row)
      std::memcpy(narrow + row * width, &whole[row * kPanel], num * sizeof(float));
  }

  float scale[kPanel], bias[kPanel] = {}, smallest;
  float *results, *narrow;
  int64_t stride, rows, width, num;
  std::unique_ptr<float[]> whole;
};

// The same, in a register: GCC would rather load weights anew for each row.
inline Wide kept(Wide x) {
#if defined(__AVX512F__)
  asm("" : "+v"(x));
#elif defined(__AVX__)
  asm("" : "+x"(x));
#endif
  return x;
}

// `rows` rows of one panel's results. Meanwhile every `pace`-th step asks for what comes `next`.
template <int64_t rows>
void tile(const float* states, int64_t depth, const float* panel, const Columns& columns, float* results,
          const float* next, int64_t pace) {
  Wide sums[rows][kVectors] = {};
  for (int64_t k = 0; k < depth;) {
    __builtin_prefetch(next, 0, 2);
    next += kPanel;
    for (const int64_t end = std::min(depth, k + pace); k < end; ++k, panel += kPanel) {
      Wide weights[kVectors];
      for (int64_t v = 0; v < kVectors; ++v) weights[v] = kept(load_wide(panel + v * kWide));
      for (int64_t row = 0; row < rows; ++row)
        for (int64_t v = 0; v < kVectors; ++v) sums[row][v] += states[row * depth + k] * weights[v];
    }
  }
  const Wide smallest = columns.smallest - Wide{};
  for (int64_t row = 0; row < rows; ++row, results += columns.stride)
    for (int64_t v = 0; v < kVectors; ++v) {
      const Wide sum = sums[row][v] + load_wide(columns.bias + v * kWide);
      store_wide(results + v * kWide, sum < smallest ? smallest : sum);
    }
}

// A few rows of neighbouring panels' results. Each panel brings in the one that comes as many panels later, if it asks.
template <int64_t rows, int64_t num, bool asks = true>
void wide_tile(const float* states, int64_t depth, const float* panels, float* results) {
  Wide sums[rows][num * kVectors] = {};
  for (int64_t k = 0; k < depth; ++k)
    for (int64_t i = 0; i < num; ++i) {
      const float* panel = panels + (i * depth + k) * kPanel;
      if constexpr (asks) __builtin_prefetch(panel + num * depth * kPanel, 0, 2);
      for (int64_t v = 0; v < kVectors; ++v) {
        Wide weights = load_wide(panel + v * kWide);
        if constexpr (rows > 1) weights = kept(weights);  // of one row each is read once
        for (int64_t row = 0; row < rows; ++row) sums[row][i * kVectors + v] += states[row * depth + k] * weights;
      }
    }
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = 0; i < num * kVectors; ++i) store_wide(results + row * num * kPanel + i * kWide, sums[row][i]);
}

template <std::size_t... counts>
constexpr auto tile_of(int64_t rows, std::index_sequence<counts...>) {
  constexpr decltype(&tile<1>) tiles[] = {tile<counts + 1>...};
  return tiles[rows - 1];
}

using WideTile = void (*)(const float*, int64_t, const float*, float*);

// Of neighbouring panels as many as a product of few rows takes together, or one of more.
template <bool asks, std::size_t... few, std::size_t... more>
WideTile wide_tile_of(int64_t rows, bool are_few, std::index_sequence<few...>, std::index_sequence<more...>) {
  static constexpr WideTile of_few[] = {wide_tile<1, asks ? Product::kOfOneRow : Product::kForeseen, asks>,
                                        wide_tile<few + 2, Product::kOfFewRows, asks>...};
  static constexpr WideTile of_more[] = {wide_tile<more + 1, Product::kOfMoreRows, asks>...};
  return (are_few ? of_few : of_more)[rows - 1];
}

void Product::run(int64_t part) const {
  const int64_t first = part * together(), num = std::min(together(), panels_in_all() - first);
  if (num < together() || num == 1) {
    for (int64_t panel = first; panel < first + num; ++panel) run_panel(panel);
    return;
  }
  const float* weights = panels + first * depth * kPanel;
  const Wide least = smallest - Wide{};
  const int64_t tiles = (rows + kRows - 1) / kRows;
  for (int64_t tile = 0, row = 0; tile < tiles; ++tile) {
    const int64_t here = (rows - row) / (tiles - tile);
    const auto few = std::make_index_sequence<kFew - 1>{};
    const auto all = std::make_index_sequence<kRows>{};
    float sums[std::max({kOfOneRow, kFew * kOfFewRows, kRows * kOfMoreRows}) * kPanel];  // [here, num, kPanel]
    const bool are_few = rows <= kFew, asks = tile == 0 && !foresees(rows);
    const WideTile compute =
        asks ? wide_tile_of<true>(here, are_few, few, all) : wide_tile_of<false>(here, are_few, few, all);
    compute(states + row * depth, depth, weights, sums);
    for (int64_t i = 0; i < num; ++i) {
      const int64_t column = (first + i) * kPanel, columns = std::min(kPanel, width - column);
      float offsets[kPanel] = {};
      if (bias != nullptr) std::memcpy(offsets, bias + column, columns * sizeof(float));
      for (int64_t k = 0; k < here; ++k) {
        float* own = sums + (k * num + i) * kPanel;
        for (int64_t v = 0; v < kPanel; v += kWide) {
          const Wide sum = load_wide(own + v) + load_wide(offsets + v);
          store_wide(own + v, sum < least ? least : sum);
        }
        float* to = results + (row + k) * width + column;
        if (columns == kPanel) std::memcpy(to, own, kPanel * sizeof(float));
        else std::memcpy(to, own, columns * sizeof(float));
      }
    }
    row += here;
  }
}

// All rows of one panel, in tiles of like size. Each brings in its share of the next panel.
void Product::run_panel(int64_t panel) const {
  const float *weights = panels + panel * depth * kPanel, *next = weights + depth * kPanel;
  const Columns columns(nullptr, bias, smallest, results, rows, width, panel);
  const int64_t tiles = (rows + kRows - 1) / kRows;
  for (int64_t i = 0, row = 0; i < tiles; ++i) {
    const int64_t here = (rows - row) / (tiles - i);
    tile_of(here, std::make_index_sequence<kRows>{})(states + row * depth, depth, weights, columns,
                                                     columns.results + row * columns.stride, next, tiles);
    row += here;
    next += depth / tiles * kPanel;
  }
}

// Rows of states as integers with a scale each.
struct Rounding {
  const float* states;  // [rows, depth]
  uint8_t* rounded;     // [rows, stride]
  float* scales;        // [rows]
  int64_t depth, quads, stride, level;

  void run(int64_t row) const {
    scales[row] = int8::quantise(states + row * depth, depth, quads, level, rounded + row * stride);
  }
};

struct IntegerProduct {
  const uint8_t* states;      // [rows, stride]
  const float* state_scales;  // [rows]
  const int8_t* panels;       // [panels, quads, kPanel, 4]
  const int32_t* sums;        // [panels, kPanel], of each column of the weight
  const float* scale;         // [width]
  const float* bias;          // [width], or null
  float* results;             // [rows, width]
  float smallest;             // result: what is less becomes this
  int64_t rows, quads, stride, width, level;

  int64_t panels_in_all() const { return (width + kPanel - 1) / kPanel; }
  int64_t together() const { return int8::together(level, rows); }
  int64_t parts() const { return (panels_in_all() + together() - 1) / together(); }

  void run(int64_t part) const {
    const int64_t first = part * together(), num = std::min(together(), panels_in_all() - first);
    if (num == together()) return run_panels(first, num);
    for (int64_t panel = first; panel < first + num; ++panel) run_panels(panel, 1);
  }

  // All rows of neighbouring panels, in tiles of like size. Each brings in its share of the next panels.
  void run_panels(int64_t first, int64_t num) const {
    const int64_t bytes = quads * int8::kQuad * kPanel;
    const int8_t *weights = panels + first * bytes, *next = weights + num * bytes;
    const int64_t most = int8::kTile[level], tiles = (rows + most - 1) / most;
    for (int64_t tile = 0, row = 0; tile < tiles; ++tile) {
      const int64_t here = (rows - row) / (tiles - tile);
      for (int64_t quad = num * quads * tile / tiles; tiles > 1 && quad < num * quads * (tile + 1) / tiles; ++quad)
        __builtin_prefetch(next + quad * int8::kQuad * kPanel, 0, 2);
      int32_t found[int8::kMostRows * int8::kMostPanels * kPanel];  // [here, num, kPanel]
      int8::sums_of(level, here, num, states + row * stride, stride, quads, weights, sums + first * kPanel, found);
      for (int64_t i = 0; i < num; ++i) write(found + i * kPanel, num * kPanel, row, here, (first + i) * kPanel);
      row += here;
    }
  }

  // Results of up to a panel's columns, from `column` on, and of `count` rows, whose sums are `apart`.
  void write(const int32_t* found, int64_t apart, int64_t row, int64_t count, int64_t column) const {
    const int64_t columns = std::min(kPanel, width - column);
    typedef int32_t WideIntegers __attribute__((vector_size(sizeof(Wide)), aligned(alignof(int32_t)), may_alias));
    const Wide least = smallest - Wide{};
    float scales[kPanel] = {}, offsets[kPanel] = {};
    std::memcpy(scales, scale + column, columns * sizeof(float));
    if (bias != nullptr) std::memcpy(offsets, bias + column, columns * sizeof(float));
    for (const int64_t end = row + count; row < end; ++row, found += apart) {
      float own[kPanel], *to = results + row * width + column, *place = columns == kPanel ? to : own;
      for (int64_t k = 0; k < kPanel; k += kWide) {
        const Wide sums = __builtin_convertvector(*reinterpret_cast<const WideIntegers*>(found + k), Wide);
        const Wide result = sums * (state_scales[row] * load_wide(scales + k)) + load_wide(offsets + k);
        store_wide(place + k, result < least ? least : result);
      }
      if (columns < kPanel) std::memcpy(to, own, columns * sizeof(float));
    }
  }
};

// A map of states: a packed weight, of float32 or of 8 bits, and what comes after its product.
struct Linear {
  const float* panels = nullptr;     // of float32, or
  const int8_t* integers = nullptr;  // of 8 bits, with
  const int32_t* sums = nullptr;     // the sum of each column
  const float* scale = nullptr;      // and its scale
  const float* bias = nullptr;       // or null
  int64_t depth, width, level;       // level: of int8_products.h
  bool is_rectified;
};

// `run(job, parts, work)` runs the parts of a job.
template <typename Run>
void multiply_by(const Run& run, const Linear& linear, const float* states, int64_t rows, float* results) {
  const int64_t depth = linear.depth;
  const int64_t work = depth * linear.width * std::max<int64_t>(1, rows / 4);
  const float smallest = linear.is_rectified ? 0.0f : -INFINITY;
  if (linear.panels != nullptr) {
    const Product product{states, linear.panels, linear.bias, results, smallest, rows, depth, linear.width};
    run(product, product.parts(), work);
    return;
  }
  const int64_t quads = (depth + int8::kQuad - 1) / int8::kQuad;
  const int64_t stride = quads * int8::kQuad * int8::kBytes[linear.level];
  thread_local std::vector<uint8_t> rounded;
  thread_local std::vector<float> state_scales;
  rounded.resize(rows * stride);
  state_scales.resize(rows);
  run(Rounding{states, rounded.data(), state_scales.data(), depth, quads, stride, linear.level}, rows, rows * depth);
  const IntegerProduct product{rounded.data(), state_scales.data(), linear.integers, linear.sums,
                               linear.scale,   linear.bias,         results,         smallest,
                               rows,           quads,               stride,          linear.width,
                               linear.level};
  run(product, product.parts(), work / 3);
}

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

// Rows brought to mean 0 and variance 1, then scaled and shifted.
struct Norm {
  const float* x;      // [rows, width]
  const float* scale;  // [width]
  const float* bias;   // [width]
  float* results;      // [rows, width]
  int64_t width;
  float epsilon;

  void run(int64_t row) const;
};

template <typename Term>
float sum_of(const float* x, int64_t count, const Term& term) {
  Vector sums = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) sums += term(load(x + i));
  float sum = sum_of_lanes(sums);
  for (; i < count; ++i) sum += term(x[i]);
  return sum;
}

void Norm::run(int64_t row) const {
  const float* from = x + row * width;
  float* to = results + row * width;
  const float mean = sum_of(from, width, [](auto x) { return x; }) / width;
  const float variance = sum_of(from, width, [=](auto x) { return (x - mean) * (x - mean); }) / width;
  const float rate = 1.0f / std::sqrt(variance + epsilon);
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) store(to + i, (load(from + i) - mean) * rate * load(scale + i) + load(bias + i));
  for (; i < width; ++i) to[i] = (from[i] - mean) * rate * scale[i] + bias[i];
}

inline float exponential(float x) { return std::exp(x); }

// The place of the largest value of each row, that value, and the logarithm of the sum of the exponentials.
struct Likeliest {
  const float* x;               // [rows, width]
  ffi::Span<const int64_t> never;  // places that are not taken, in ascending order
  int32_t* places;              // [rows]
  float* values;                // [rows]
  float* normalisers;           // [rows]
  int64_t width;

  void run(int64_t row) const;
};

float largest_of(const float* x, int64_t count) {
  constexpr int64_t kTogether = 4;  // vectors, so that one maximum does not wait for the other
  Vector largest[kTogether];
  std::fill_n(largest, kTogether, everywhere(-INFINITY));
  int64_t i = 0;
  for (; i + kTogether * kLanes <= count; i += kTogether * kLanes)
    for (int64_t v = 0; v < kTogether; ++v) {
      const Vector here = load(x + i + v * kLanes);
      largest[v] = here > largest[v] ? here : largest[v];
    }
  float result = -INFINITY;
  for (; i < count; ++i) result = std::max(result, x[i]);
  for (const Vector& lanes : largest)
    for (int64_t lane = 0; lane < kLanes; ++lane) result = std::max(result, lanes[lane]);
  return result;
}

// The first place that holds `value`; count where none does.
int64_t first_of(const float* x, int64_t count, float value) {
  typedef int64_t Bits __attribute__((vector_size(sizeof(float) * kLanes)));
  int64_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    const auto is_here = (load(x + i) == value) | (load(x + i + kLanes) == value);
    const Bits bits = reinterpret_cast<const Bits&>(is_here);
    if ((bits[0] | bits[1] | bits[2] | bits[3]) != 0) break;
  }
  while (i < count && x[i] != value) ++i;
  return i;
}

void Likeliest::run(int64_t row) const {
  const float* from = x + row * width;
  // What may be taken lies between what may not.
  const auto in_stretches = [&](const auto& look) {
    int64_t start = 0;
    for (const int64_t place : never) {
      look(start, place);
      start = place + 1;
    }
    look(start, width);
  };
  float best = -INFINITY;
  in_stretches([&](int64_t start, int64_t end) { best = std::max(best, largest_of(from + start, end - start)); });
  int64_t place = width;
  in_stretches([&](int64_t start, int64_t end) {
    if (place < width) return;
    const int64_t found = start + first_of(from + start, end - start, best);
    if (found < end) place = found;
  });
  float largest = best;
  for (const int64_t other : never) largest = std::max(largest, from[other]);
  const float sum = sum_of(from, width, [=](auto value) { return exponential(value - largest); });
  places[row] = static_cast<int32_t>(std::min(place, width - 1));
  values[row] = best;
  normalisers[row] = largest + std::log(sum);
}

ffi::Error multiply(ffi::ThreadPool pool, Floats states, Floats panels, Floats bias, bool is_rectified,
                    ffi::ResultBuffer<ffi::F32> results) {
  const auto shape = states.dimensions(), packed = panels.dimensions(), written = results->dimensions();
  const int64_t num_biases = bias.element_count();
  if (shape.size() != 2 || packed.size() != 3 || written.size() != 2 || packed[2] != kPanel || shape[1] != packed[1] ||
      shape[0] != written[0] || (written[1] + kPanel - 1) / kPanel != packed[0] ||
      (num_biases != 0 && num_biases != written[1]))
    return ffi::Error::InvalidArgument(
        "expected states [rows, depth], panels [width / 16, depth, 16] and bias [width] or [0]");
  Linear linear{panels.typed_data()};
  linear.bias = num_biases == 0 ? nullptr : bias.typed_data();
  linear.depth = shape[1], linear.width = written[1], linear.is_rectified = is_rectified;
  multiply_by(ByCrew{pool}, linear, states.typed_data(), shape[0], results->typed_data());
  return ffi::Error::Success();
}

ffi::Error multiply_integers(ffi::ThreadPool pool, Floats states, ffi::Buffer<ffi::S8> panels, Integers sums,
                             Floats scale, Floats bias, bool is_rectified, int64_t level,
                             ffi::ResultBuffer<ffi::F32> results) {
  const auto shape = states.dimensions(), packed = panels.dimensions(), written = results->dimensions();
  const int64_t num_biases = bias.element_count();
  if (shape.size() != 2 || packed.size() != 4 || written.size() != 2 || packed[2] != kPanel ||
      packed[3] != int8::kQuad || (shape[1] + int8::kQuad - 1) / int8::kQuad != packed[1] || shape[0] != written[0] ||
      (written[1] + kPanel - 1) / kPanel != packed[0] ||
      static_cast<int64_t>(sums.element_count()) != packed[0] * kPanel ||
      static_cast<int64_t>(scale.element_count()) != written[1] || (num_biases != 0 && num_biases != written[1]))
    return ffi::Error::InvalidArgument(
        "expected states [rows, depth], panels [width / 16, depth / 4, 16, 4], sums [width / 16, 16], scale [width] and "
        "bias [width] or [0]");
  level = level < 0 ? int8::best() : level;
  if (level >= int8::kLevels || !int8::is_there(level))
    return ffi::Error::InvalidArgument("this processor has no such instructions");
  const Linear linear{nullptr,
                      panels.typed_data(),
                      sums.typed_data(),
                      scale.typed_data(),
                      num_biases == 0 ? nullptr : bias.typed_data(),
                      shape[1],
                      written[1],
                      level,
                      is_rectified};
  multiply_by(ByCrew{pool}, linear, states.typed_data(), shape[0], results->typed_data());
  return ffi::Error::Success();
}

ffi::Error attend(ffi::ThreadPool pool, Floats query, Floats key, Floats value, Integers counts, Integers origin,
                  ffi::ResultBuffer<ffi::F32> results) {
  const auto asked = query.dimensions(), keys = key.dimensions(), values = value.dimensions(), from = origin.dimensions(),
             counted = counts.dimensions();
  if (asked.size() != 4 || keys.size() != 4 || values.size() != 4 || counted.size() < 1 || counted.size() > 2 ||
      keys[0] != asked[0] || keys[1] != asked[2] || keys[2] != asked[3] || values[0] != asked[0] ||
      values[1] != asked[2] || values[2] != keys[3] || values[3] != asked[3] || counted[0] != asked[0] ||
      (counted.size() == 2 && counted[1] != asked[1]) ||
      (from.size() != 1 && (from.size() != 3 || from[0] != asked[0] || from[1] != asked[1] || keys[3] % from[2] != 0)))
    return ffi::Error::InvalidArgument(
        "expected query [batch, queries, heads, depth], key [batch, heads, depth, places], value [batch, heads, "
        "places, depth], counts [batch] or [batch, queries], origin [batch, queries, positions] or [0]");
  const bool has_slots = from.size() == 3;
  const Attention attention{query.typed_data(),
                            key.typed_data(),
                            value.typed_data(),
                            counts.typed_data(),
                            has_slots ? origin.typed_data() : nullptr,
                            results->typed_data(),
                            asked[0],
                            asked[1],
                            asked[2],
                            asked[3],
                            keys[3],
                            has_slots ? from[2] : keys[3],
                            counted.size() == 2,
                            asked[2] * asked[3]};
  run_by_crew(pool, attention, asked[0] * asked[2], static_cast<int64_t>(query.element_count()) * keys[3] / 2);
  return ffi::Error::Success();
}

ffi::Error normalise(ffi::ThreadPool pool, Floats x, Floats scale, Floats bias, float epsilon,
                     ffi::ResultBuffer<ffi::F32> results) {
  const auto shape = x.dimensions();
  if (shape.size() != 2 || results->element_count() != x.element_count() ||
      static_cast<int64_t>(scale.element_count()) != shape[1] || static_cast<int64_t>(bias.element_count()) != shape[1])
    return ffi::Error::InvalidArgument("expected x [rows, width], scale and bias [width]");
  const Norm norm{x.typed_data(), scale.typed_data(), bias.typed_data(), results->typed_data(), shape[1], epsilon};
  run_by_crew(pool, norm, shape[0], static_cast<int64_t>(x.element_count()));
  return ffi::Error::Success();
}

ffi::Error find_likeliest(ffi::ThreadPool pool, Floats x, ffi::Span<const int64_t> never,
                          ffi::ResultBuffer<ffi::S32> places, ffi::ResultBuffer<ffi::F32> values,
                          ffi::ResultBuffer<ffi::F32> normalisers) {
  const auto shape = x.dimensions();
  int64_t before = -1;
  const bool is_ascending = std::all_of(never.begin(), never.end(), [&](int64_t place) {
    return std::exchange(before, place) < place;
  });
  if (shape.size() != 2 || shape[1] < 1 || static_cast<int64_t>(places->element_count()) != shape[0] ||
      static_cast<int64_t>(values->element_count()) != shape[0] ||
      static_cast<int64_t>(normalisers->element_count()) != shape[0] || !is_ascending || before >= shape[1])
    return ffi::Error::InvalidArgument("expected x [rows, width], never ascending in [0, width), three results [rows]");
  const Likeliest likeliest{x.typed_data(),           never, places->typed_data(), values->typed_data(),
                            normalisers->typed_data(), shape[1]};
  run_by_crew(pool, likeliest, shape[0], static_cast<int64_t>(x.element_count()) * 4);
  return ffi::Error::Success();
}

}  // namespace

#include "fused_blocks.h"

// Bit n: this processor can compute products of 8 bits by level n.
extern "C" int64_t NatArInt8Levels() {
  int64_t levels = 0;
  for (int64_t level = 0; level < int8::kLevels; ++level) levels |= int64_t{int8::is_there(level)} << level;
  return levels;
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(NatArPackedProduct, multiply,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Attr<bool>("is_rectified")
                                  .Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(NatArPackedProductInt8, multiply_integers,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<ffi::Buffer<ffi::S8>>()
                                  .Arg<Integers>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Attr<bool>("is_rectified")
                                  .Attr<int64_t>("level")
                                  .Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(NatArAttend, attend,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Integers>()
                                  .Arg<Integers>()
                                  .Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(NatArNormalise, normalise,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Attr<float>("epsilon")
                                  .Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(NatArLikeliest, find_likeliest,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Attr<ffi::Span<const int64_t>>("never")
                                  .Ret<Integers>()
                                  .Ret<Floats>()
                                  .Ret<Floats>());
