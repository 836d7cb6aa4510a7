// Sums of products of 8-bit integers, by whatever vector instructions the processor has; part of cpu_kernels.cc.
//
// A weight [depth, width] of integers from -127 to 127 lies in panels of 16 columns, [panels, quads, 16, 4]: four
// neighbours along the depth stand together, and zeros fill up the last four. Each row of states is rounded to integers
// from -127 to 127 and a scale of its own, so that it depends on no other row. Every level computes the same sums, exactly,
// for up to 133,000 terms:
//
// vnni   vpdpbusd adds four products of an unsigned and a signed byte to 32 bits, and loses nothing on the way. States
//        go in as q + 128, and 128 times the sum of each column comes off again.
// avx2   has no such instruction. vpmaddubsw adds two products to 16 bits and saturates: 255 * 127 * 2 does not fit, and
//        |q| times w with the sign of q (at most 127 * 127 * 2 = 32,258) does, for one more instruction a row. Here
//        weights are widened to 16 bits, once for all rows of a tile, and vpmaddwd adds two products to 32 bits:
//        exact, and 1.1 times as fast (docs/speed.md). Even and odd neighbours come apart by two shifts.
// dot    ARM's sdot: as vpdpbusd, with signs on both sides.
// plain  everywhere.

#ifndef NAT_AR_INT8_PRODUCTS_H_
#define NAT_AR_INT8_PRODUCTS_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

namespace int8 {

constexpr int64_t kColumns = 16, kQuad = 4;
enum Level : int64_t { kPlain, kDot, kAvx2, kVnni, kLevels };  // ascending speed
constexpr int64_t kBytes[kLevels] = {1, 1, 2, 1};              // of a state
constexpr int64_t kTile[kLevels] = {4, 4, 4, 8};               // rows that are computed together
constexpr int64_t kMostRows = 8, kMostPanels = 4;

// Panels that are computed together, of as many rows: each load of a state then serves several products, and no sum
// waits for the one before.
inline int64_t together(int64_t level, int64_t rows) { return level != kVnni || rows == 1 ? 1 : rows <= 6 ? kMostPanels : 2; }

inline bool is_there(int64_t level) {
#if defined(__x86_64__)
  if (level == kAvx2) return __builtin_cpu_supports("avx2");
  if (level == kVnni) return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw");
#endif
#if defined(__ARM_FEATURE_DOTPROD)
  if (level == kDot) return true;
#endif
  return level == kPlain;
}

inline int64_t best() {
  static const int64_t level = [] {
    int64_t best = kLevels - 1;
    while (!is_there(best)) --best;
    return best;
  }();
  return level;
}

// Rounds one row, to[quads * kQuad * kBytes], and returns its scale: NaN if a value is not finite.
inline float quantise(const float* row, int64_t depth, int64_t quads, int64_t level, uint8_t* to) {
  typedef int32_t Bits __attribute__((may_alias));  // of floats without their sign, ordered as these are; NaN is above all
  const Bits* bits = reinterpret_cast<const Bits*>(row);
  int32_t most = 0;
  for (int64_t k = 0; k < depth; ++k) most = std::max(most, bits[k] & 0x7fffffff);
  float largest;
  std::memcpy(&largest, &most, sizeof(largest));
  const bool is_usual = std::isfinite(largest) && largest > 0.0f;
  const float rate = is_usual ? 127.0f / largest : 0.0f;
  std::memset(to, level == kVnni ? 128 : 0, quads * kQuad * kBytes[level]);
  if (is_usual && level == kAvx2) {
    int16_t* wide = reinterpret_cast<int16_t*>(to);
    for (int64_t k = 0; k < depth; ++k) wide[k] = static_cast<int16_t>(__builtin_nearbyintf(row[k] * rate));
    for (int64_t k = 0; k < quads * kQuad; k += kQuad) std::swap(wide[k + 1], wide[k + 2]);  // even ones, odd ones
  } else if (is_usual) {
    const int32_t zero = level == kVnni ? 128 : 0;
    for (int64_t k = 0; k < depth; ++k)
      to[k] = static_cast<uint8_t>(static_cast<int32_t>(__builtin_nearbyintf(row[k] * rate)) + zero);
  }
  return std::isfinite(largest) ? largest / 127.0f : NAN;
}

// The sums of `rows` states, of `stride` bytes each, with one panel, or with neighbouring ones where a level computes
// these together: sums[rows, panels, kColumns].
template <int64_t rows>
void sums_plain(const uint8_t* states, int64_t stride, int64_t quads, const int8_t* panel, const int32_t*,
                int32_t* sums) {
  std::fill_n(sums, rows * kColumns, 0);
  for (int64_t k = 0; k < quads; ++k, panel += kColumns * kQuad)
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t column = 0; column < kColumns; ++column)
        for (int64_t i = 0; i < kQuad; ++i)
          sums[row * kColumns + column] +=
              static_cast<int8_t>(states[row * stride + k * kQuad + i]) * panel[column * kQuad + i];
}

inline int32_t four_bytes(const uint8_t* from) {
  int32_t bytes;
  std::memcpy(&bytes, from, sizeof(bytes));
  return bytes;
}

#if defined(__ARM_FEATURE_DOTPROD)
template <int64_t rows>
void sums_dot(const uint8_t* states, int64_t stride, int64_t quads, const int8_t* panel, const int32_t*,
              int32_t* sums) {
  int32x4_t sum[rows][4];
  for (auto& row : sum)
    for (auto& part : row) part = vdupq_n_s32(0);
  for (int64_t k = 0; k < quads; ++k)
    for (int64_t part = 0; part < 4; ++part, panel += 16) {
      const int8x16_t weights = vld1q_s8(panel);
      for (int64_t row = 0; row < rows; ++row)
        sum[row][part] = vdotq_s32(
            sum[row][part], weights, vreinterpretq_s8_s32(vdupq_n_s32(four_bytes(states + row * stride + k * kQuad))));
    }
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t part = 0; part < 4; ++part) vst1q_s32(sums + row * kColumns + part * 4, sum[row][part]);
}
#endif

#if defined(__x86_64__)
#if defined(NAT_AR_EMULATED)  // the intrinsics are functions of an emulation
#define NAT_AR_TARGET(name)
#else
#define NAT_AR_TARGET(name) __attribute__((target(name)))
#endif

template <int64_t rows>
NAT_AR_TARGET("avx2")
void sums_avx2(const uint8_t* states, int64_t stride, int64_t quads, const int8_t* panel, const int32_t*,
               int32_t* sums) {
  __m256i low[rows], high[rows];
  for (int64_t row = 0; row < rows; ++row) low[row] = high[row] = _mm256_setzero_si256();
  for (int64_t k = 0; k < quads; ++k, panel += kColumns * kQuad) {
    const __m256i left = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel));
    const __m256i right = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel + 32));
    const __m256i left_even = _mm256_srai_epi16(_mm256_slli_epi16(left, 8), 8), left_odd = _mm256_srai_epi16(left, 8);
    const __m256i right_even = _mm256_srai_epi16(_mm256_slli_epi16(right, 8), 8);
    const __m256i right_odd = _mm256_srai_epi16(right, 8);
    for (int64_t row = 0; row < rows; ++row) {
      const uint8_t* state = states + row * stride + k * kQuad * 2;
      const __m256i even = _mm256_set1_epi32(four_bytes(state)), odd = _mm256_set1_epi32(four_bytes(state + 4));
      low[row] = _mm256_add_epi32(low[row], _mm256_madd_epi16(left_even, even));
      high[row] = _mm256_add_epi32(high[row], _mm256_madd_epi16(right_even, even));
      low[row] = _mm256_add_epi32(low[row], _mm256_madd_epi16(left_odd, odd));
      high[row] = _mm256_add_epi32(high[row], _mm256_madd_epi16(right_odd, odd));
    }
  }
  for (int64_t row = 0; row < rows; ++row) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + row * kColumns), low[row]);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + row * kColumns + 8), high[row]);
  }
}

// GCC would load weights anew for each row instead of keeping them in registers, and copy registers around vpdpbusd.
NAT_AR_TARGET("avx512f,avx512bw,avx512vnni")
inline __attribute__((always_inline)) __m512i kept(__m512i x) {
#if !defined(NAT_AR_EMULATED)
  asm("" : "+v"(x));
#endif
  return x;
}

// `sum`, and the products of each four bytes.
NAT_AR_TARGET("avx512f,avx512bw,avx512vnni")
inline __attribute__((always_inline)) __m512i with_products(__m512i sum, __m512i state, __m512i weights) {
#if defined(NAT_AR_EMULATED)
  return _mm512_dpbusd_epi32(sum, state, weights);
#else
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(state), "v"(weights));
  return sum;
#endif
}

template <int64_t rows, int64_t num>
NAT_AR_TARGET("avx512f,avx512bw,avx512vnni")
void sums_vnni(const uint8_t* states, int64_t stride, int64_t quads, const int8_t* panels, const int32_t* of_columns,
               int32_t* sums) {
  // Of even and odd quads, where there are too few sums to keep the next from waiting for the one before.
  constexpr int64_t kParts = rows * num < 8 ? 2 : 1;
  __m512i sum[kParts][rows][num];
  for (auto& part : sum)
    for (auto& row : part)
      for (auto& one : row) one = _mm512_setzero_si512();
  const int64_t pairs = quads / kParts * kParts;
  for (int64_t k = 0; k < pairs; k += kParts)
    for (int64_t part = 0; part < kParts; ++part) {
      __m512i weights[num];
      for (int64_t i = 0; i < num; ++i)
        weights[i] = kept(_mm512_loadu_si512(panels + (i * quads + k + part) * kColumns * kQuad));
      for (int64_t row = 0; row < rows; ++row) {
        const __m512i state = _mm512_set1_epi32(four_bytes(states + row * stride + (k + part) * kQuad));
        for (int64_t i = 0; i < num; ++i) sum[part][row][i] = with_products(sum[part][row][i], state, weights[i]);
      }
    }
  for (int64_t i = 0; i < num; ++i) {
    const __m512i shifted = _mm512_slli_epi32(_mm512_loadu_si512(of_columns + i * kColumns), 7);
    for (int64_t row = 0; row < rows; ++row) {
      __m512i all = sum[0][row][i];
      if constexpr (kParts == 2) all = _mm512_add_epi32(all, sum[1][row][i]);
      if (pairs < quads) {
        const __m512i state = _mm512_set1_epi32(four_bytes(states + row * stride + pairs * kQuad));
        all = with_products(all, state, _mm512_loadu_si512(panels + (i * quads + pairs) * kColumns * kQuad));
      }
      _mm512_storeu_si512(sums + (row * num + i) * kColumns, _mm512_sub_epi32(all, shifted));
    }
  }
}
#endif

using Sums = void (*)(const uint8_t*, int64_t, int64_t, const int8_t*, const int32_t*, int32_t*);

// 1 to kTile rows with one panel, or with as many as are computed `together`. of_columns: the sums of their columns.
inline void sums_of(int64_t level, int64_t rows, int64_t panels, const uint8_t* states, int64_t stride, int64_t quads,
                    const int8_t* weights, const int32_t* of_columns, int32_t* sums) {
#define NAT_AR_TILES(kind) {sums_##kind<1>, sums_##kind<2>, sums_##kind<3>, sums_##kind<4>}
  static constexpr Sums tiles[][4] = {
      NAT_AR_TILES(plain),
#if defined(__ARM_FEATURE_DOTPROD)
      NAT_AR_TILES(dot),
#else
      NAT_AR_TILES(plain),
#endif
#if defined(__x86_64__)
      NAT_AR_TILES(avx2),
#endif
  };
#undef NAT_AR_TILES
#if defined(__x86_64__)
#define NAT_AR_TILES(num)                                                                              \
  {sums_vnni<1, num>, sums_vnni<2, num>, sums_vnni<3, num>, sums_vnni<4, num>, sums_vnni<5, num>,      \
   sums_vnni<6, num>, sums_vnni<7, num>, sums_vnni<8, num>}
  static constexpr Sums single[] = NAT_AR_TILES(1), pairs[] = NAT_AR_TILES(2);
#undef NAT_AR_TILES
  static constexpr Sums fours[] = {sums_vnni<1, 4>, sums_vnni<2, 4>, sums_vnni<3, 4>,
                                   sums_vnni<4, 4>, sums_vnni<5, 4>, sums_vnni<6, 4>};
  if (level == kVnni) {
    (panels == 1 ? single : panels == 2 ? pairs : fours)[rows - 1](states, stride, quads, weights, of_columns, sums);
    return;
  }
#endif
  tiles[level][rows - 1](states, stride, quads, weights, of_columns, sums);
}

}  // namespace int8

#endif  // NAT_AR_INT8_PRODUCTS_H_
