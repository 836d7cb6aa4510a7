// Softmax over a vocabulary at many positions, of which a loss wants the normaliser and the logits of a few words; part
// of training_kernels.cc.
//
// The logits of all positions would go to memory and back some eight times. Here those of 128 positions and 256 words
// are used while they lie in a cache: forward for maximum, sum of exponentials and the words that are asked for; backward
// they are computed again, become their gradient, and go through both products. Factors are rounded to bfloat16 as in
// bfloat16_products.h.
//
// Backward, the vocabulary has parts, each of which one thread takes through all positions: it alone adds up the gradient
// of its part of the table. The gradients of states that the parts give are added up in their order, so that no result
// depends on the number of threads.

#ifndef NAT_AR_TRAINING_VOCABULARY_H_
#define NAT_AR_TRAINING_VOCABULARY_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "bfloat16_products.h"
#include "vectors.h"

namespace {

constexpr int64_t kPositions = 128, kPositionTiles = kPositions / kTile;  // whose logits are computed together
constexpr int64_t kWords = 256, kWordTiles = kWords / kTile;              // with so many words at a time
constexpr int64_t kMostNever = 16;                                        // words
constexpr int64_t kMostParts = 8;                                         // of a vocabulary, backward

inline int64_t rounded_up(int64_t number, int64_t to) { return (number + to - 1) / to * to; }

// What positions and vocabulary are, and which words are asked for.
struct Vocabulary {
  Factor states;          // the positions in use: [positions, depth]
  const int64_t* places;  // [positions in use]: where they stand among all
  const uint16_t* table;  // tiles, a right factor of [depth, words]
  int64_t words, level;
  const int32_t* asked;   // [groups, num_asked]
  int64_t num_asked, of_group;  // words for each group of so many positions
  const int32_t* never;         // [num_never]: words that are not the likeliest anywhere
  int64_t num_never;

  int64_t blocks() const { return (states.places + kPositions - 1) / kPositions; }
  int64_t positions(int64_t block) const { return std::min(kPositions, states.places - block * kPositions); }

  // The tiles of a block's states, [kPositionTiles, deep tiles].
  void copy_states(int64_t block, uint16_t* to) const {
    const int64_t stretch = states.deep_tiles() * kTileValues;
    for (int64_t i = 0; i < kPositionTiles; ++i) {
      const int64_t tile = block * kPositionTiles + i;
      if (tile < states.row_tiles()) copy_tiles(states, tile, false, to + i * stretch);
      else std::memset(to + i * stretch, 0, stretch * sizeof(uint16_t));
    }
  }

  // The logits of a block and kWords words from `first` on, [kPositions, kWords]; 0 past the vocabulary.
  void logits(const uint16_t* rows, int64_t first, float* to) const {
    const int64_t deep = states.deep_tiles(), stretch = deep * kTileValues;
    const int64_t known = rounded_up(words, kSide);
    for (int64_t column = 0; column < kWords; column += kSide) {
      if (first + column >= known) {
        for (int64_t i = 0; i < kPositions; ++i) std::fill_n(to + i * kWords + column, kSide, 0.0f);
        continue;
      }
      const Pair right{table + (first + column) / kTile * stretch, deep};
      for (int64_t i = 0; i < kPositionTiles; i += 2)
        add_up(level, {rows + i * stretch, deep}, right, deep, false, to + i * kTile * kWords + column, kWords);
    }
  }

  // Calls see(which, word) for each word asked for at a position that is among the kWords words from `first` on.
  template <typename See>
  void each_asked(int64_t position, int64_t first, const See& see) const {
    const int32_t* own = asked + places[position] / of_group * num_asked;
    for (int64_t k = 0; k < num_asked; ++k) {
      const int64_t word = own[k] - first;
      if (word >= 0 && word < std::min(kWords, words - first)) see(k, word);
    }
  }
};

// Of the logits of a position that have come by.
struct Running {
  float largest = -INFINITY, likeliest = -INFINITY, exponentials = 0.0f, total = 0.0f;
};

struct VocabularyForward {
  Vocabulary vocabulary;
  float *normaliser, *mean, *likeliest, *chosen;  // [all positions] three times, [all positions, num_asked]

  void run(int64_t block) const {
    thread_local std::vector<uint16_t> kept_rows;
    thread_local std::vector<float> kept_logits;
    uint16_t* rows = room(kept_rows, kPositionTiles * vocabulary.states.deep_tiles() * kTileValues);
    float* logits = room(kept_logits, kPositions * kWords);
    Running of[kPositions];
    const int64_t count = vocabulary.positions(block);
    const Tiles ready(vocabulary.level);
    vocabulary.copy_states(block, rows);
    for (int64_t first = 0; first < vocabulary.words; first += kWords) {
      vocabulary.logits(rows, first, logits);
      for (int64_t i = 0; i < count; ++i) {
        float* own = logits + i * kWords;
        const int64_t position = block * kPositions + i;
        vocabulary.each_asked(position, first, [&](int64_t k, int64_t word) {
          chosen[vocabulary.places[position] * vocabulary.num_asked + k] = own[word];
        });
        add(own, first, of[i]);
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      const int64_t place = vocabulary.places[block * kPositions + i];
      normaliser[place] = of[i].largest + std::log(of[i].exponentials);
      mean[place] = of[i].total / static_cast<float>(vocabulary.words);
      likeliest[place] = of[i].likeliest;
    }
  }

  // kWords more logits of a position, or those up to the last word.
  void add(float* logits, int64_t first, Running& of) const {
    const int64_t count = std::min(kWords, vocabulary.words - first);
    Wide all = {}, most = -INFINITY - Wide{};
    for (int64_t j = 0; j < kWords; j += kWide) all += load_wide(logits + j);
    std::fill_n(logits + count, kWords - count, -INFINITY);
    float largest = of.largest, kept[kMostNever];
    for (int64_t k = 0; k < vocabulary.num_never; ++k) {
      const int64_t word = vocabulary.never[k] - first;
      if (word < 0 || word >= count) continue;
      kept[k] = logits[word];
      largest = kept[k] > largest ? kept[k] : largest;
      logits[word] = -INFINITY;
    }
    for (int64_t j = 0; j < kWords; j += kWide) {
      const Wide x = load_wide(logits + j);
      most = x > most ? x : most;
    }
    for (int64_t lane = 0; lane < kWide; ++lane) of.likeliest = most[lane] > of.likeliest ? most[lane] : of.likeliest;
    for (int64_t k = 0; k < vocabulary.num_never; ++k) {
      const int64_t word = vocabulary.never[k] - first;
      if (word >= 0 && word < count) logits[word] = kept[k];
    }
    largest = of.likeliest > largest ? of.likeliest : largest;
    Wide exponentials = {};
    for (int64_t j = 0; j < kWords; j += kWide) exponentials += exponential_of<Wide>(load_wide(logits + j) - largest);
    of.exponentials = of.exponentials == 0.0f ? 0.0f : of.exponentials * std::exp(of.largest - largest);
    for (int64_t lane = 0; lane < kWide; ++lane) of.exponentials += exponentials[lane], of.total += all[lane];
    of.largest = largest;
  }
};

struct VocabularyBackward {
  Vocabulary of;
  const uint16_t* by_word;  // tiles of the table, a right factor of [words, depth]
  const float *normaliser, *to_normaliser, *to_mean, *to_chosen;  // of all positions, as VocabularyForward has them
  int64_t words_of_part;          // a multiple of kWords
  float *to_states, *to_table;    // [parts, positions in use, depth], [words, depth]

  void run(int64_t part) const {
    const int64_t depth = of.states.depth, deep = of.states.deep_tiles(), width = rounded_up(depth, kSide);
    const int64_t begin = part * words_of_part, end = std::min(begin + words_of_part, of.words);
    thread_local std::vector<uint16_t> kept_rows, kept_tiles;
    thread_local std::vector<float> kept_logits, kept_states, kept_table;
    constexpr int64_t kGradientTiles = kPositionTiles * kWordTiles / 2;  // as many with words along the depth
    uint16_t* rows = room(kept_rows, (kPositionTiles * deep + width / kTile * kPositionTiles / 2) * kTileValues);
    uint16_t* columns = rows + kPositionTiles * deep * kTileValues;  // the same states, a right factor
    uint16_t* tiles = room(kept_tiles, kGradientTiles * kTileValues);
    float* logits = room(kept_logits, kPositions * kWords);
    float* states = room(kept_states, kPositions * width);
    float* table = room(kept_table, words_of_part * width);
    std::fill_n(table, words_of_part * width, 0.0f);
    const Tiles ready(of.level);
    for (int64_t block = 0; block < of.blocks(); ++block) {
      of.copy_states(block, rows);
      copy_columns(block, width, columns);
      std::fill_n(states, kPositions * width, 0.0f);
      for (int64_t first = begin; first < end; first += kWords) {
        of.logits(rows, first, logits);
        for (int64_t i = 0; i < kPositions; ++i) differentiate(block, i, first, logits + i * kWords);
        add_to_states(logits, first, width, tiles, states);
        add_to_table(logits, columns, width, tiles, table + (first - begin) * width);
      }
      for (int64_t i = 0; i < of.positions(block); ++i)
        std::copy_n(states + i * width, depth,
                    to_states + (part * of.states.places + block * kPositions + i) * depth);
    }
    for (int64_t word = begin; word < end; ++word)
      std::copy_n(table + (word - begin) * width, depth, to_table + word * depth);
  }

  // The states of a block as a right factor, positions along the depth: [width / kTile, kPositionTiles / 2 tiles].
  void copy_columns(int64_t block, int64_t width, uint16_t* to) const {
    const int64_t depth = of.states.depth, size = of.states.is_rounded ? 2 : 4;
    const Factor own{static_cast<const char*>(of.states.values) + block * kPositions * depth * size, depth,
                     of.positions(block), false, of.states.is_rounded};
    for (int64_t place = 0; place < width; place += kTile)
      for (int64_t k = 0; k < kPositions; k += kDepth, to += kTileValues) {
        if (place < depth && k < own.depth) copy_tile(own, place, k, true, to);
        else std::memset(to, 0, kTileValues * sizeof(uint16_t));
      }
  }

  // Turns the logits of a position into their gradient.
  void differentiate(int64_t block, int64_t i, int64_t first, float* own) const {
    if (i >= of.positions(block)) {
      std::fill_n(own, kWords, 0.0f);
      return;
    }
    const int64_t position = block * kPositions + i, place = of.places[position];
    const float less = normaliser[place], scale = to_normaliser[place];
    const float evenly = to_mean[place] / static_cast<float>(of.words);
    for (int64_t j = 0; j < kWords; j += kWide)
      store_wide(own + j, exponential_of<Wide>(load_wide(own + j) - less) * scale + evenly);
    const int64_t count = std::min(kWords, of.words - first);
    std::fill_n(own + count, kWords - count, 0.0f);
    of.each_asked(position, first,
                  [&](int64_t k, int64_t word) { own[word] += to_chosen[place * of.num_asked + k]; });
  }

  void add_to_states(const float* gradient, int64_t first, int64_t width, uint16_t* tiles, float* states) const {
    constexpr int64_t kDeep = kWords / kDepth;
    const Factor left{gradient, kPositions, kWords, true, false};
    for (int64_t i = 0; i < kPositionTiles; ++i) copy_tiles(left, i, false, tiles + i * kDeep * kTileValues);
    const int64_t all = (of.words + kDepth - 1) / kDepth, deep = std::min(kDeep, all - first / kDepth);
    for (int64_t i = 0; i < kPositionTiles; i += 2)
      for (int64_t column = 0; column < width; column += kSide)
        add_up(of.level, {tiles + i * kDeep * kTileValues, kDeep},
               {by_word + (column / kTile * all + first / kDepth) * kTileValues, all}, deep, true,
               states + i * kTile * width + column, width);
  }

  void add_to_table(const float* gradient, const uint16_t* columns, int64_t width, uint16_t* tiles, float* table) const {
    constexpr int64_t kDeep = kPositions / kDepth;
    const Factor left{gradient, kWords, kPositions, false, false};
    for (int64_t i = 0; i < kWordTiles; ++i) copy_tiles(left, i, false, tiles + i * kDeep * kTileValues);
    for (int64_t i = 0; i < kWordTiles; i += 2)
      for (int64_t column = 0; column < width; column += kSide)
        add_up(of.level, {tiles + i * kDeep * kTileValues, kDeep},
               {columns + column / kTile * kDeep * kTileValues, kDeep}, kDeep, true,
               table + i * kTile * width + column, width);
  }
};

}  // namespace

#endif  // NAT_AR_TRAINING_VOCABULARY_H_
