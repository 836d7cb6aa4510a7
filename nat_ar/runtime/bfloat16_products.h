// Products of numbers rounded to bfloat16, summed in float32, with either factor transposed; part of
// training_kernels.cc.
//
// Both factors are copied into tiles of 16 places along the result by 32 along the depth, 1 KiB each, rounded on the
// way if they come as float32, and filled up with zeros. A tile of the left factor has its rows one after the other; one
// of the right factor has pairs of neighbours along the depth, [16 pairs, 16 columns, 2], as the instructions read them.
// Either is the other with rows and columns of 32-bit pairs exchanged, so that a factor in memory may lie either way.
//
// Where either factor has the depth side by side, the right one is copied first, by all threads. Then each takes blocks
// of rows of the result: it copies these rows of the left factor, and multiplies them with one pair of columns of tiles
// after the other, 2 x 2 tiles of results at a time, over the whole depth. Gradients of weights are the other case,
// small results of a depth of all positions: the copies would not fit the second cache. There a thread takes a block of
// the result, and goes down the depth by stretches that fit. A result is added up in the same order either way, and
// however many rows or threads there are.
//
// Copying asks for the next tile's lines ahead: they are a row apart, which the processor does not foresee.
//
// amx    _tile_dpbf16ps: 16 x 16 results from 32 places along the depth, an instruction
// dots   vdpbf16ps (AVX512-BF16): 16 results from two places; faster than products of float32 on AMD's processors (Zen 4
//        and later), slower on Intel's
// plain  everywhere; for tests

#ifndef NAT_AR_BFLOAT16_PRODUCTS_H_
#define NAT_AR_BFLOAT16_PRODUCTS_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
#define NAT_AR_DOTS 1
#include <immintrin.h>
#endif
#if NAT_AR_DOTS && defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__linux__)
#define NAT_AR_AMX 1
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "vectors.h"

namespace {

constexpr int64_t kTile = 16, kDepth = 32, kTileValues = kTile * kDepth;
constexpr int64_t kSide = 2 * kTile;             // rows and columns of results that are computed together
constexpr int64_t kLeftBytes = 1 << 19;          // of the left factor in a block of rows: half of a second cache, at most
constexpr int64_t kMostTiles = 16;               // of rows in a block
enum Level : int64_t { kPlain, kDots, kAmx, kLevels };  // ascending speed

bool is_there(int64_t level) {
#if NAT_AR_AMX
  // Linux gives a process the registers when it asks (arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA).
  static const bool has_tiles = syscall(SYS_arch_prctl, 0x1023, 18) == 0;
  if (level == kAmx) return has_tiles;
#endif
#if NAT_AR_DOTS
  if (level == kDots) return true;
#endif
  return level == kPlain;
}

int64_t best() {
  static const int64_t level = [] {
    int64_t best = kLevels - 1;
    while (!is_there(best)) --best;
    return best;
  }();
  return level;
}

// A factor: `places` along the result by `depth`, one of which lies side by side in memory.
struct Factor {
  const void* values;
  int64_t places, depth;
  bool is_deep;     // neighbours along the depth lie side by side
  bool is_rounded;  // bfloat16 in memory, else float32

  int64_t row_tiles() const { return (places + kTile - 1) / kTile; }
  int64_t deep_tiles() const { return (depth + kDepth - 1) / kDepth; }
};

#if NAT_AR_DOTS
inline void prefetch(const Factor& factor, int64_t place) {
  _mm_prefetch(static_cast<const char*>(factor.values) + place * (factor.is_rounded ? 2 : 4), _MM_HINT_T0);
}

// 16 neighbours in memory, of which the first `count` are there.
inline __m512 load(const Factor& factor, int64_t from, int64_t count) {
  const __mmask16 mask = count >= 16 ? 0xffff : count <= 0 ? 0 : (1 << count) - 1;
  if (!factor.is_rounded) return _mm512_maskz_loadu_ps(mask, static_cast<const float*>(factor.values) + from);
  const __m256i narrow = _mm256_maskz_loadu_epi16(mask, static_cast<const uint16_t*>(factor.values) + from);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16));
}

// Rows and columns of 16 x 16 pairs exchanged.
inline void exchange(__m512i rows[16]) {
  __m512i t[16];
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i) {
    rows[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    rows[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    rows[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    rows[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(rows[i], rows[4 + i], 0x88);
    t[4 + i] = _mm512_shuffle_i32x4(rows[i], rows[4 + i], 0xdd);
    t[8 + i] = _mm512_shuffle_i32x4(rows[8 + i], rows[12 + i], 0x88);
    t[12 + i] = _mm512_shuffle_i32x4(rows[8 + i], rows[12 + i], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
    rows[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88);
    rows[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
    rows[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd);
  }
}

void copy_tile(const Factor& factor, int64_t place, int64_t deep, bool has_pairs, uint16_t* to) {
  __m512i rows[16];
  if (factor.is_deep) {
    for (int64_t i = 0; i < kTile; ++i) {
      if (place + i >= factor.places) {
        rows[i] = _mm512_setzero_si512();
        continue;
      }
      const int64_t from = (place + i) * factor.depth + deep, count = factor.depth - deep;
      prefetch(factor, from + kTile * factor.depth);
      rows[i] = (__m512i)_mm512_cvtne2ps_pbh(load(factor, from + 16, count - 16), load(factor, from, count));
    }
  } else {
    const __m512i in_pairs = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                              21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    for (int64_t i = 0; i < kTile; ++i) {
      const int64_t row = deep + 2 * i, from = row * factor.places + place, count = factor.places - place;
      prefetch(factor, from + kDepth * factor.places);
      prefetch(factor, from + (kDepth + 1) * factor.places);
      const __m512 even = load(factor, from, row < factor.depth ? count : 0);
      const __m512 odd = load(factor, from + factor.places, row + 1 < factor.depth ? count : 0);
      rows[i] = _mm512_permutexvar_epi16(in_pairs, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
    }
  }
  if (factor.is_deep == has_pairs) exchange(rows);
  for (int64_t i = 0; i < kTile; ++i) _mm512_store_si512(to + i * kDepth, rows[i]);
}
#else
void copy_tile(const Factor& factor, int64_t place, int64_t deep, bool has_pairs, uint16_t* to) {
  for (int64_t i = 0; i < kTile; ++i)
    for (int64_t k = 0; k < kDepth; ++k) {
      const int64_t row = place + i, column = deep + k;
      const int64_t from = factor.is_deep ? row * factor.depth + column : column * factor.places + row;
      const bool is_there = row < factor.places && column < factor.depth;
      uint16_t value = 0;
      if (is_there && factor.is_rounded) value = static_cast<const uint16_t*>(factor.values)[from];
      if (is_there && !factor.is_rounded) value = rounded(static_cast<const float*>(factor.values)[from]);
      to[has_pairs ? k / 2 * kDepth + 2 * i + k % 2 : i * kDepth + k] = value;
    }
}
#endif

// One row of tiles: [deep_tiles, kTileValues].
void copy_tiles(const Factor& factor, int64_t row_tile, bool has_pairs, uint16_t* to) {
  for (int64_t k = 0; k < factor.deep_tiles(); ++k, to += kTileValues)
    copy_tile(factor, row_tile * kTile, k * kDepth, has_pairs, to);
}

// Of rows of tiles from `row_tile` on those from `first` along the depth, zeros past the last place: [count, deep,
// kTileValues].
void copy_stretch(const Factor& factor, int64_t row_tile, int64_t count, int64_t first, int64_t deep, bool has_pairs,
                  uint16_t* to) {
  for (int64_t k = 0; k < deep; ++k)
    for (int64_t i = 0; i < count; ++i)
      copy_tile(factor, (row_tile + i) * kTile, (first + k) * kDepth, has_pairs, to + (i * deep + k) * kTileValues);
}

// 64-byte aligned room that a thread keeps from call to call.
template <typename Value>
Value* room(std::vector<Value>& kept, int64_t values) {
  constexpr int64_t kMore = 64 / sizeof(Value);
  if (static_cast<int64_t>(kept.size()) < values + kMore) kept.resize(values + kMore);
  const auto address = reinterpret_cast<uintptr_t>(kept.data());
  return kept.data() + (-address % 64) / sizeof(Value);
}

struct CopyRight {
  Factor right;
  uint16_t* tiles;  // [right.row_tiles(), right.deep_tiles(), kTileValues]

  void run(int64_t row_tile) const {
    copy_tiles(right, row_tile, true, tiles + row_tile * right.deep_tiles() * kTileValues);
  }
};

// Where the sums of a product go.
struct Results {
  void* values;       // [places, width]
  const float* bias;  // [width], or null
  int64_t places, width;
  bool is_rectified, is_rounded;  // at least 0; in bfloat16

  // sums: [kSide, kSide], of results from a row and a column on.
  void finish(const float* sums, int64_t row, int64_t column) const;
};

struct BlocksOfRows {
  Factor left;
  const uint16_t* right;  // tiles
  Results results;
  int64_t tiles_of_block, level;

  void run(int64_t block) const;
};

// For factors whose places lie side by side: blocks of kMostTiles rows of tiles by columns_of_block.
struct BlocksByDepth {
  static constexpr int64_t kStretch = 8;         // tiles along the depth
  static constexpr int64_t kMostColumns = 512;  // a multiple of kSide, as columns_of_block

  Factor left, right;
  Results results;
  int64_t columns_of_block, level;

  int64_t blocks_of_rows() const { return (left.row_tiles() + kMostTiles - 1) / kMostTiles; }
  int64_t blocks_of_columns() const { return (right.places + columns_of_block - 1) / columns_of_block; }
  void run(int64_t block) const;
};

// Two rows of tiles of a factor, `deep` of each that count; the second begins `next` tiles after the first.
struct Pair {
  const uint16_t* tiles;
  int64_t next;
};

// sums: [kSide, kSide], `stride` from row to row, of two rows of tiles each; added to what is there, or instead of it.
void sums_plain(Pair left, Pair right, int64_t deep, bool are_added, float* sums, int64_t stride) {
  for (int64_t row = 0; row < (are_added ? 0 : kSide); ++row) std::fill_n(sums + row * stride, kSide, 0.0f);
  for (int64_t i = 0; i < 2; ++i)
    for (int64_t j = 0; j < 2; ++j)
      for (int64_t k = 0; k < deep; ++k) {
        const uint16_t* a = left.tiles + (i * left.next + k) * kTileValues;
        const uint16_t* b = right.tiles + (j * right.next + k) * kTileValues;
        for (int64_t row = 0; row < kTile; ++row)
          for (int64_t pair = 0; pair < kTile; ++pair)
            for (int64_t column = 0; column < kTile; ++column)
              for (int64_t of = 0; of < 2; ++of)
                sums[(i * kTile + row) * stride + j * kTile + column] +=
                    widened(a[row * kDepth + 2 * pair + of]) * widened(b[pair * kDepth + 2 * column + of]);
      }
}

#if NAT_AR_DOTS
// kRows rows of sums_dots; their sums stay in registers.
template <int kRows>
inline void rows_of_dots(const uint16_t* left, Pair right, int64_t deep, bool are_added, float* sums, int64_t stride) {
  __m512 low[kRows], high[kRows];
  for (int i = 0; i < kRows; ++i) {
    low[i] = are_added ? _mm512_loadu_ps(sums + i * stride) : _mm512_setzero_ps();
    high[i] = are_added ? _mm512_loadu_ps(sums + i * stride + kTile) : _mm512_setzero_ps();
  }
  const uint16_t *first = right.tiles, *second = first + right.next * kTileValues;
  for (int64_t k = 0; k < deep * kTileValues; k += kTileValues)
    for (int64_t pair = 0; pair < kTile; ++pair) {
      const __m512bh low_pairs = (__m512bh)_mm512_load_si512(first + k + pair * kDepth);
      const __m512bh high_pairs = (__m512bh)_mm512_load_si512(second + k + pair * kDepth);
      for (int i = 0; i < kRows; ++i) {
        int32_t two;
        std::memcpy(&two, left + k + i * kDepth + 2 * pair, sizeof(two));
        const __m512bh both = (__m512bh)_mm512_set1_epi32(two);
        low[i] = _mm512_dpbf16_ps(low[i], both, low_pairs);
        high[i] = _mm512_dpbf16_ps(high[i], both, high_pairs);
      }
    }
  for (int i = 0; i < kRows; ++i) {
    _mm512_storeu_ps(sums + i * stride, low[i]);
    _mm512_storeu_ps(sums + i * stride + kTile, high[i]);
  }
}

inline void sums_dots(Pair left, Pair right, int64_t deep, bool are_added, float* sums, int64_t stride) {
  constexpr int kRows = 8;
  for (int64_t row = 0; row < kSide; row += kRows) {
    const uint16_t* own = left.tiles + row / kTile * left.next * kTileValues + row % kTile * kDepth;
    rows_of_dots<kRows>(own, right, deep, are_added, sums + row * stride, stride);
  }
}
#endif

#if NAT_AR_AMX
void set_tiles() {
  struct alignas(64) {
    uint8_t palette = 1, start = 0, unused[14] = {};
    uint16_t bytes[16] = {};  // of a row
    uint8_t rows[16] = {};
  } shapes;
  for (int tile = 0; tile < 8; ++tile) shapes.bytes[tile] = 64, shapes.rows[tile] = 16;
  _tile_loadconfig(&shapes);
}

inline void sums_amx(Pair left, Pair right, int64_t deep, bool are_added, float* sums, int64_t stride) {
  const int64_t bytes = stride * sizeof(float);
  float* lower_sums = sums + kTile * stride;
  if (are_added) {
    _tile_loadd(0, sums, bytes);
    _tile_loadd(1, sums + kTile, bytes);
    _tile_loadd(2, lower_sums, bytes);
    _tile_loadd(3, lower_sums + kTile, bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  const uint16_t *upper = left.tiles, *lower = upper + left.next * kTileValues;
  const uint16_t *first = right.tiles, *second = first + right.next * kTileValues;
  for (int64_t k = 0; k < deep * kTileValues; k += kTileValues) {
    _tile_loadd(4, upper + k, 64);
    _tile_loadd(6, first + k, 64);
    _tile_loadd(7, second + k, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, lower + k, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, sums, bytes);
  _tile_stored(1, sums + kTile, bytes);
  _tile_stored(2, lower_sums, bytes);
  _tile_stored(3, lower_sums + kTile, bytes);
}
#endif

// The instructions are ready while one of these is there.
struct Tiles {
  explicit Tiles(int64_t level) : level(level) {
#if NAT_AR_AMX
    if (level == kAmx) set_tiles();
#endif
  }
  ~Tiles() {
#if NAT_AR_AMX
    if (level == kAmx) _tile_release();
#endif
  }
  const int64_t level;
};

inline void add_up(int64_t level, Pair left, Pair right, int64_t deep, bool are_added, float* sums, int64_t stride) {
#if NAT_AR_AMX
  if (level == kAmx) return sums_amx(left, right, deep, are_added, sums, stride);
#endif
#if NAT_AR_DOTS
  if (level == kDots) return sums_dots(left, right, deep, are_added, sums, stride);
#endif
  sums_plain(left, right, deep, are_added, sums, stride);
}

void Results::finish(const float* sums, int64_t row, int64_t column) const {
  const int64_t rows = std::min(kSide, places - row), columns = std::min(kSide, width - column);
  const float smallest = is_rectified ? 0.0f : -INFINITY;
  float offsets[kSide] = {};
  if (bias != nullptr) std::memcpy(offsets, bias + column, columns * sizeof(float));
  for (int64_t i = 0; i < rows; ++i) {
    const float* from = sums + i * kSide;
    const int64_t to = (row + i) * width + column;
#if NAT_AR_DOTS
    if (columns == kSide) {
      const __m512 least = _mm512_set1_ps(smallest);
      // The second operand of max is the result where one is NaN: a sum that is not finite stays.
      const __m512 low = _mm512_max_ps(least, _mm512_add_ps(_mm512_load_ps(from), _mm512_loadu_ps(offsets)));
      const __m512 high =
          _mm512_max_ps(least, _mm512_add_ps(_mm512_load_ps(from + kTile), _mm512_loadu_ps(offsets + kTile)));
      if (is_rounded) {
        _mm512_storeu_si512(static_cast<uint16_t*>(values) + to, (__m512i)_mm512_cvtne2ps_pbh(high, low));
      } else {
        _mm512_storeu_ps(static_cast<float*>(values) + to, low);
        _mm512_storeu_ps(static_cast<float*>(values) + to + kTile, high);
      }
      continue;
    }
#endif
    for (int64_t j = 0; j < columns; ++j) {
      const float sum = from[j] + offsets[j];
      const float result = sum < smallest ? smallest : sum;
      if (is_rounded) static_cast<uint16_t*>(values)[to + j] = rounded(result);
      if (!is_rounded) static_cast<float*>(values)[to + j] = result;
    }
  }
}

void BlocksOfRows::run(int64_t block) const {
  const int64_t deep = left.deep_tiles(), stretch = deep * kTileValues;
  const int64_t first = block * tiles_of_block, tiles = std::min(tiles_of_block, left.row_tiles() - first);
  thread_local std::vector<uint16_t> kept;
  uint16_t* rows = room(kept, (tiles + 1) * stretch);
  for (int64_t i = 0; i < tiles; ++i) copy_tiles(left, first + i, false, rows + i * stretch);
  if (tiles % 2) std::memset(rows + tiles * stretch, 0, stretch * sizeof(uint16_t));
  const int64_t columns = (results.width + kSide - 1) / kSide;
  alignas(64) float sums[kSide * kSide];
  const Tiles ready(level);
  for (int64_t column = 0; column < columns; ++column)
    for (int64_t i = 0; i < tiles; i += 2) {
      add_up(level, {rows + i * stretch, deep}, {right + column * 2 * stretch, deep}, deep, false, sums, kSide);
      results.finish(sums, (first + i) * kTile, column * kSide);
    }
}

void BlocksByDepth::run(int64_t block) const {
  const int64_t first = block / blocks_of_columns() * kMostTiles;
  const int64_t begin = block % blocks_of_columns() * columns_of_block;
  const int64_t tiles = (std::min(kMostTiles, left.row_tiles() - first) + 1) / 2 * 2, rows = tiles * kTile;
  const int64_t columns = std::min(columns_of_block, right.places - begin);
  thread_local std::vector<uint16_t> kept;
  thread_local std::vector<float> kept_sums;
  uint16_t* left_tiles = room(kept, (kMostTiles + 2) * kStretch * kTileValues);
  uint16_t* right_tiles = left_tiles + kMostTiles * kStretch * kTileValues;
  float* sums = room(kept_sums, rows * columns_of_block);  // [columns in steps of kSide, rows, kSide]
  const Tiles ready(level);
  for (int64_t deep = 0; deep < left.deep_tiles(); deep += kStretch) {
    const int64_t here = std::min(kStretch, left.deep_tiles() - deep);
    copy_stretch(left, first, tiles, deep, here, false, left_tiles);
    for (int64_t column = 0; column < columns; column += kSide) {
      copy_stretch(right, (begin + column) / kTile, 2, deep, here, true, right_tiles);
      for (int64_t i = 0; i < tiles; i += 2)
        add_up(level, {left_tiles + i * here * kTileValues, here}, {right_tiles, here}, here, deep > 0,
               sums + column * rows + i * kTile * kSide, kSide);
    }
  }
  for (int64_t column = 0; column < columns; column += kSide)
    for (int64_t row = 0; row < rows; row += kSide)
      results.finish(sums + column * rows + row * kSide, first * kTile + row, begin + column);
}

}  // namespace

#endif  // NAT_AR_BFLOAT16_PRODUCTS_H_
