// Products with packed weights; part of cpu_kernels.cc.
//
// A weight [depth, width] lies in panels of 16 columns, [panels, depth, 16], the last one filled up with zeros: a product
// reads it from its first byte to its last, once for all rows. Up to 6 rows of a panel's results stay in registers
// while the panel goes by. Panels are shared out among the threads of XLA's own pool. With weights of 8 bits, which have
// a scale for each column, states are rounded to 8 bits, with a scale for each row (int8_products.h).
//
// The products along the depth are added one by one in their order, and the bias comes last: a result depends neither
// on the number of rows nor on the threads.

#ifndef NAT_AR_PACKED_PRODUCTS_H_
#define NAT_AR_PACKED_PRODUCTS_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "int8_products.h"
#include "vectors.h"

namespace {

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

}  // namespace

#endif  // NAT_AR_PACKED_PRODUCTS_H_
