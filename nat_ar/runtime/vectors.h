// Vectors of float32, what our kernels compute with them, and bfloat16; part of cpu_kernels.cc and training_kernels.cc.

#ifndef NAT_AR_VECTORS_H_
#define NAT_AR_VECTORS_H_

#include <cstdint>
#include <cstring>

namespace {

constexpr int64_t kLanes = 8;
#if !defined(NAT_AR_WIDE)
#if defined(__AVX512F__)
#define NAT_AR_WIDE 16
#else
#define NAT_AR_WIDE 8
#endif
#endif
constexpr int64_t kWide = NAT_AR_WIDE;  // of products: values of a vector
typedef float Vector __attribute__((vector_size(sizeof(float) * kLanes), aligned(alignof(float)), may_alias));

inline Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline void store(float* to, Vector value) { *reinterpret_cast<Vector*>(to) = value; }
typedef float Wide __attribute__((vector_size(sizeof(float) * kWide), aligned(alignof(float)), may_alias));

inline Wide load_wide(const float* from) { return *reinterpret_cast<const Wide*>(from); }
inline void store_wide(float* to, Wide value) { *reinterpret_cast<Wide*>(to) = value; }
inline float sum_of_lanes(Vector x) {
  float sum = 0.0f;
  for (int64_t lane = 0; lane < kLanes; ++lane) sum += x[lane];
  return sum;
}
inline Vector everywhere(float x) { return Vector{x, x, x, x, x, x, x, x}; }

// exp(x) for x <= 0, to within 2 units in the last place; 0 where the result would be smaller than a normal number.
template <typename Values>
inline Values exponential_of(Values x) {
  typedef int32_t Integers __attribute__((vector_size(sizeof(Values))));
  const Values kRound = 12582912.0f - Values{};  // 1.5 * 2^23: adding and taking it away rounds to an integer
  const Values power = (x * 1.44269504f + kRound) - kRound;
  const Values rest = (x - power * 0.693359375f) + power * 2.12194440e-4f;  // ln 2 in two parts
  Values sum = 1.9875691500e-4f - Values{};  // a polynomial for e^x - 1 - x on [-ln 2 / 2, ln 2 / 2] (Cephes)
  for (const float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    sum = sum * rest + c;
  sum = sum * rest * rest + rest + 1.0f;
  const Integers exponent = (__builtin_convertvector(power, Integers) + 127) << 23;
  const Values result = sum * reinterpret_cast<const Values&>(exponent);
  return x < -87.0f ? Values{} : result;
}
inline Vector exponential(Vector x) { return exponential_of(x); }

// To the nearest, and to even.
inline uint16_t rounded(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);  // NaN stays NaN
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float widened(uint16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

}  // namespace

#endif  // NAT_AR_VECTORS_H_
