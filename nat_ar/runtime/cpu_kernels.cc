// What decoding on a CPU spends its time on, as calls that XLA's programs make; cpu_kernels.py says what each computes.
// Products are in packed_products.h, attention in decoding_attention.h, whole networks in fused_blocks.h.

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
#include "decoding_attention.h"
#include "int8_products.h"
#include "packed_products.h"
#include "vectors.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

using Floats = ffi::Buffer<ffi::F32>;
using Integers = ffi::Buffer<ffi::S32>;

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
