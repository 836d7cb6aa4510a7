// Matrix products of a few rows with a packed weight, as calls that XLA's CPU programs make: packed.py is the
// other half and says why.
//
// A weight [depth, width] lies in panels of 16 columns, [panels, depth, 16], the last one filled up with zeros: a
// product reads it from its first byte to its last, once for all rows. Up to 6 rows of a panel's results stay in
// registers while the panel goes by. Panels are shared out among the threads of XLA's own pool.
//
// Every result is the bias, to which the products along the depth are added one by one in their order: it depends
// neither on the number of rows nor on the threads.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>

#include "xla/ffi/api/ffi.h"

#if defined(__x86_64__) || defined(__i386__)
#define RELAX() __builtin_ia32_pause()
#else
#include <thread>
#define RELAX() std::this_thread::yield()
#endif

namespace ffi = xla::ffi;

namespace {

constexpr int64_t kPanel = 16;  // columns, as in packed.py
constexpr int64_t kLanes = 8;
constexpr int64_t kRows = 6;  // 6 rows x 2 vectors of results, 2 of weights and 1 of states: 15 of AVX2's 16 registers
constexpr int64_t kWorthAThread = 1 << 15;  // weights read, or multiplications by 4, for which waking a thread pays

typedef float Vector __attribute__((vector_size(sizeof(float) * kLanes), aligned(alignof(float)), may_alias));

inline Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline void store(float* to, Vector value) { *reinterpret_cast<Vector*>(to) = value; }
inline Vector everywhere(float x) { return Vector{x, x, x, x, x, x, x, x}; }

struct Product {
  const float* states;  // [rows, depth]
  const float* panels;  // [panels, depth, kPanel]
  const float* bias;    // [width], or null
  float* results;       // [rows, width]
  int64_t rows, depth, width;
};

// `rows` rows of one panel's results. Meanwhile every `pace`-th step asks for a line of what comes `next`.
template <int64_t rows>
void tile(const float* states, int64_t depth, const float* panel, const float* bias, float* results, int64_t stride,
          const float* next, int64_t pace) {
  Vector low[rows], high[rows];
  for (int64_t row = 0; row < rows; ++row) low[row] = load(bias), high[row] = load(bias + kLanes);
  for (int64_t k = 0; k < depth;) {
    __builtin_prefetch(next, 0, 2);
    next += kPanel;
    for (const int64_t end = std::min(depth, k + pace); k < end; ++k, panel += kPanel) {
      const Vector left = load(panel), right = load(panel + kLanes);
      for (int64_t row = 0; row < rows; ++row) {
        const Vector state = everywhere(states[row * depth + k]);
        low[row] += state * left;
        high[row] += state * right;
      }
    }
  }
  for (int64_t row = 0; row < rows; ++row) {
    store(results + row * stride, low[row]);
    store(results + row * stride + kLanes, high[row]);
  }
}

using Tile = decltype(&tile<1>);
template <std::size_t... counts>
constexpr Tile tile_of(int64_t rows, std::index_sequence<counts...>) {
  constexpr Tile tiles[] = {tile<counts + 1>...};
  return tiles[rows - 1];
}

// All rows of one panel, in tiles of like size. Each brings in its share of the next panel.
void panel_results(const Product& product, const float* panel, const float* bias, float* results, int64_t stride) {
  const int64_t tiles = (product.rows + kRows - 1) / kRows;
  const float* next = panel + product.depth * kPanel;
  for (int64_t i = 0, row = 0; i < tiles; ++i) {
    const int64_t rows = (product.rows - row) / (tiles - i);
    tile_of(rows, std::make_index_sequence<kRows>{})(product.states + row * product.depth, product.depth, panel, bias,
                                                     results + row * stride, stride, next, tiles);
    row += rows;
    next += product.depth / tiles * kPanel;
  }
}

void results_of(const Product& product, int64_t panel) {
  const int64_t column = panel * kPanel, columns = std::min(kPanel, product.width - column);
  const float* weights = product.panels + column * product.depth;
  float bias[kPanel] = {};
  if (product.bias != nullptr) std::memcpy(bias, product.bias + column, columns * sizeof(float));
  if (columns == kPanel) return panel_results(product, weights, bias, product.results + column, product.width);
  const auto whole = std::make_unique<float[]>(product.rows * kPanel);
  panel_results(product, weights, bias, whole.get(), kPanel);
  for (int64_t row = 0; row < product.rows; ++row)
    std::memcpy(product.results + row * product.width + column, &whole[row * kPanel], columns * sizeof(float));
}

// The panels of a product, a stretch for each thread, which takes one after the other and then helps the others. A
// thread that comes too late finds none.
struct Shares {
  Shares(const Product& product, int64_t panels, int64_t threads)
      : product(product), panels(panels), threads(threads), next(new std::atomic<int64_t>[threads]) {
    for (int64_t i = 0; i < threads; ++i) next[i] = first(i);
  }

  int64_t first(int64_t thread) const { return thread * panels / threads; }

  void take(int64_t thread) {
    for (int64_t i = 0; i < threads; ++i) {
      const int64_t of = (thread + i) % threads, end = first(of + 1);
      for (int64_t panel; (panel = next[of].fetch_add(1, std::memory_order_relaxed)) < end;) {
        results_of(product, panel);
        done.fetch_add(1, std::memory_order_release);
      }
    }
  }

  const Product product;
  const int64_t panels, threads;
  const std::unique_ptr<std::atomic<int64_t>[]> next;
  std::atomic<int64_t> done{0};
};

using Floats = ffi::Buffer<ffi::F32>;

ffi::Error multiply(ffi::ThreadPool pool, Floats states, Floats panels, Floats bias, ffi::ResultBuffer<ffi::F32> results) {
  const auto shape = states.dimensions(), packed = panels.dimensions(), written = results->dimensions();
  if (shape.size() != 2 || packed.size() != 3 || written.size() != 2 || packed[2] != kPanel || shape[1] != packed[1] ||
      shape[0] != written[0] || (written[1] + kPanel - 1) / kPanel != packed[0] ||
      (bias.element_count() != 0 && static_cast<int64_t>(bias.element_count()) != written[1]))
    return ffi::Error::InvalidArgument("expected states [rows, depth], panels [width / 16, depth, 16], bias [width] or [0]");
  const Product product{states.typed_data(), panels.typed_data(), bias.element_count() ? bias.typed_data() : nullptr,
                        results->typed_data(), shape[0], shape[1], written[1]};
  const int64_t work = product.depth * product.width * std::max<int64_t>(1, product.rows / 4);
  const int64_t threads = std::min<int64_t>(pool.num_threads(), work / kWorthAThread);
  if (threads <= 1) {
    for (int64_t panel = 0; panel < packed[0]; ++panel) results_of(product, panel);
    return ffi::Error::Success();
  }
  const auto shares = std::make_shared<Shares>(product, packed[0], std::min(threads, packed[0]));
  for (int64_t thread = 1; thread < shares->threads; ++thread) pool.Schedule([=] { shares->take(thread); });
  shares->take(0);
  while (shares->done.load(std::memory_order_acquire) < shares->panels) RELAX();
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    NatArPackedProduct, multiply,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Floats>().Arg<Floats>().Ret<Floats>());
