// What training on a CPU spends its time on, as calls that XLA's programs make; training_kernels.py says what each
// computes.

#if defined(__AVX512F__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("prefer-vector-width=512")  // GCC takes half of a vector where nobody asks
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "bfloat16_products.h"
#include "shared_work.h"
#include "training_attention.h"
#include "training_trees.h"
#include "training_vocabulary.h"
#include "xla/ffi/api/ffi.h"

namespace {

bool is_float(const ffi::AnyBuffer& buffer) {
  return buffer.element_type() == ffi::F32 || buffer.element_type() == ffi::BF16;
}

bool is_rounded(const ffi::AnyBuffer& buffer) { return buffer.element_type() == ffi::BF16; }

// The tiles of a right factor, those of places in pairs; 0 past the last.
const uint16_t* copied(const OnPool& run, const Factor& right, std::vector<uint16_t>& kept) {
  const int64_t tiles = right.row_tiles(), stretch = right.deep_tiles() * kTileValues;
  uint16_t* to = room(kept, (tiles + tiles % 2) * stretch);
  if (tiles % 2) std::memset(to + tiles * stretch, 0, stretch * sizeof(uint16_t));
  run(CopyRight{right, to}, tiles, right.places * right.depth);
  return to;
}

ffi::Error multiply(ffi::ThreadPool pool, ffi::AnyBuffer left, ffi::AnyBuffer right, ffi::Buffer<ffi::F32> bias,
                    bool is_left_transposed, bool is_right_transposed, bool is_rectified, int64_t level,
                    ffi::Result<ffi::AnyBuffer> results) {
  const auto a = left.dimensions(), b = right.dimensions(), written = results->dimensions();
  if (!is_float(left) || !is_float(right) || !is_float(*results) || a.size() != 2 || b.size() != 2 ||
      written.size() != 2)
    return ffi::Error::InvalidArgument("expected two matrices and one as a result, of float32 or bfloat16");
  const Factor rows{left.untyped_data(), a[is_left_transposed], a[!is_left_transposed], !is_left_transposed,
                    is_rounded(left)};
  const Factor columns{right.untyped_data(), b[!is_right_transposed], b[is_right_transposed], is_right_transposed,
                       is_rounded(right)};
  const auto num_biases = static_cast<int64_t>(bias.element_count());
  if (rows.depth != columns.depth || written[0] != rows.places || written[1] != columns.places ||
      (num_biases != 0 && num_biases != columns.places))
    return ffi::Error::InvalidArgument("expected left [rows, depth], right [depth, width] (either may be transposed), "
                                       "bias [width] or [0], and a result [rows, width]");
  level = level < 0 ? best() : level;
  if (level >= kLevels || !is_there(level))
    return ffi::Error::InvalidArgument("this processor has no such instructions");
  if (rows.places == 0 || columns.places == 0) return ffi::Error::Success();
  const OnPool run{pool};
  const Results to{results->untyped_data(), num_biases == 0 ? nullptr : bias.typed_data(), rows.places, columns.places,
                   is_rectified, is_rounded(*results)};
  const int64_t work = rows.places * columns.places * rows.depth / 16, threads = pool.num_threads();
  if (!rows.is_deep && !columns.is_deep) {
    BlocksByDepth blocks{rows, columns, to, BlocksByDepth::kMostColumns, level};
    // As many blocks as there are threads; each copies its rows and columns for itself.
    const int64_t parts = (threads + blocks.blocks_of_rows() - 1) / blocks.blocks_of_rows();
    const int64_t share = (columns.places + parts * kSide - 1) / (parts * kSide) * kSide;
    blocks.columns_of_block = std::min(share, BlocksByDepth::kMostColumns);
    run(blocks, blocks.blocks_of_rows() * blocks.blocks_of_columns(), work);
    return ffi::Error::Success();
  }
  thread_local std::vector<uint16_t> kept;
  const uint16_t* tiles = copied(run, columns, kept);
  int64_t of_block = kLeftBytes / (columns.deep_tiles() * kTileValues * static_cast<int64_t>(sizeof(uint16_t)));
  const int64_t share = (rows.row_tiles() + 2 * threads - 1) / (2 * threads);
  of_block = std::max<int64_t>(2, std::min({of_block, kMostTiles, share}) / 2 * 2);
  run(BlocksOfRows{rows, tiles, to, of_block, level}, (rows.row_tiles() + of_block - 1) / of_block, work);
  return ffi::Error::Success();
}

bool is_like(const ffi::AnyBuffer& one, const ffi::AnyBuffer& other) {
  const auto a = one.dimensions(), b = other.dimensions();
  return one.element_type() == other.element_type() && std::equal(a.begin(), a.end(), b.begin(), b.end());
}

// The positions of a vocabulary's call that are in use, and their states.
struct Used {
  std::vector<int64_t> places;
  std::vector<char> values;

  Used(const ffi::AnyBuffer& states, const ffi::Buffer<ffi::PRED>& is_used) {
    const auto shape = states.dimensions();
    for (int64_t i = 0; i < shape[0]; ++i)
      if (is_used.typed_data()[i]) places.push_back(i);
    const int64_t bytes = shape[1] * (is_rounded(states) ? 2 : 4);
    values.resize(places.size() * bytes);
    for (size_t i = 0; i < places.size(); ++i)
      std::memcpy(values.data() + i * bytes, static_cast<const char*>(states.untyped_data()) + places[i] * bytes, bytes);
  }
};

bool is_vocabulary(const ffi::AnyBuffer& states, const ffi::Buffer<ffi::F32>& table, const ffi::Buffer<ffi::S32>& asked,
                   const ffi::Buffer<ffi::PRED>& is_used) {
  const auto a = states.dimensions(), b = table.dimensions(), c = asked.dimensions();
  return is_float(states) && a.size() == 2 && b.size() == 2 && c.size() == 2 && a[1] == b[1] && b[0] > 0 && c[0] > 0 &&
         a[0] % c[0] == 0 && static_cast<int64_t>(is_used.element_count()) == a[0];
}

constexpr char kVocabulary[] =
    "expected states [positions, depth] of float32 or bfloat16, a table [words, depth], words asked for [groups, number] "
    "of equally many positions, is_used [positions], and an array for all positions, or all words asked for at them, where "
    "one is given or made";

Vocabulary vocabulary_of(const ffi::AnyBuffer& states, const Used& used, const uint16_t* tiles,
                         const ffi::Buffer<ffi::F32>& table, const ffi::Buffer<ffi::S32>& asked, int64_t level) {
  const auto shape = asked.dimensions();
  const Factor rows{used.values.data(), static_cast<int64_t>(used.places.size()), table.dimensions()[1], true,
                    is_rounded(states)};
  return {rows,  used.places.data(), tiles,    table.dimensions()[0],
          level, asked.typed_data(), shape[1], states.dimensions()[0] / shape[0], nullptr, 0};
}

ffi::Error look_up(ffi::ThreadPool pool, ffi::AnyBuffer states, ffi::Buffer<ffi::F32> table,
                   ffi::Buffer<ffi::S32> asked, ffi::Buffer<ffi::PRED> is_used, ffi::Buffer<ffi::S32> never,
                   int64_t level, ffi::ResultBuffer<ffi::F32> normaliser, ffi::ResultBuffer<ffi::F32> mean,
                   ffi::ResultBuffer<ffi::F32> likeliest, ffi::ResultBuffer<ffi::F32> chosen) {
  level = level < 0 ? best() : level;
  const auto positions = static_cast<int64_t>(normaliser->element_count());
  if (!is_vocabulary(states, table, asked, is_used) || level >= kLevels || !is_there(level) ||
      positions != states.dimensions()[0] || static_cast<int64_t>(mean->element_count()) != positions ||
      static_cast<int64_t>(likeliest->element_count()) != positions || never.element_count() > kMostNever ||
      static_cast<int64_t>(chosen->element_count()) != positions * asked.dimensions()[1])
    return ffi::Error::InvalidArgument(kVocabulary);
  for (auto* buffer : {&normaliser, &mean, &likeliest, &chosen})
    std::fill_n((*buffer)->typed_data(), (*buffer)->element_count(), 0.0f);
  const auto shape = table.dimensions();
  const OnPool run{pool};
  const Used used(states, is_used);
  thread_local std::vector<uint16_t> kept;
  const uint16_t* tiles = copied(run, {table.typed_data(), shape[0], shape[1], true, false}, kept);
  Vocabulary of = vocabulary_of(states, used, tiles, table, asked, level);
  of.never = never.typed_data();
  of.num_never = static_cast<int64_t>(never.element_count());
  run(VocabularyForward{of, normaliser->typed_data(), mean->typed_data(), likeliest->typed_data(), chosen->typed_data()},
      of.blocks(), of.states.places * of.words * (of.states.depth / 16 + 1));
  return ffi::Error::Success();
}

ffi::Error look_up_backward(ffi::ThreadPool pool, ffi::AnyBuffer states, ffi::Buffer<ffi::F32> table,
                            ffi::Buffer<ffi::S32> asked, ffi::Buffer<ffi::PRED> is_used,
                            ffi::Buffer<ffi::F32> normaliser, ffi::Buffer<ffi::F32> to_normaliser,
                            ffi::Buffer<ffi::F32> to_mean, ffi::Buffer<ffi::F32> to_chosen, int64_t level,
                            ffi::Result<ffi::AnyBuffer> to_states, ffi::ResultBuffer<ffi::F32> to_table) {
  level = level < 0 ? best() : level;
  if (!is_vocabulary(states, table, asked, is_used) || level >= kLevels || !is_there(level) ||
      !is_like(*to_states, states) || to_table->element_count() != table.element_count() ||
      to_chosen.element_count() != is_used.element_count() * static_cast<size_t>(asked.dimensions()[1]))
    return ffi::Error::InvalidArgument(kVocabulary);
  for (const auto* buffer : {&normaliser, &to_normaliser, &to_mean})
    if (buffer->element_count() != is_used.element_count()) return ffi::Error::InvalidArgument(kVocabulary);
  const int64_t words = table.dimensions()[0], depth = table.dimensions()[1];
  const OnPool run{pool};
  const Used used(states, is_used);
  thread_local std::vector<uint16_t> kept, kept_by_word;
  const uint16_t* tiles = copied(run, {table.typed_data(), words, depth, true, false}, kept);
  const uint16_t* by_word = copied(run, {table.typed_data(), depth, words, false, false}, kept_by_word);
  const Vocabulary of = vocabulary_of(states, used, tiles, table, asked, level);
  const int64_t of_part = rounded_up((words + kMostParts - 1) / kMostParts, kWords);
  const int64_t parts = (words + of_part - 1) / of_part, values = of.states.places * depth;
  std::vector<float> sums(parts * values);
  run(VocabularyBackward{of, by_word, normaliser.typed_data(), to_normaliser.typed_data(), to_mean.typed_data(),
                         to_chosen.typed_data(), of_part, sums.data(), to_table->typed_data()},
      parts, of.states.places * words * (depth / 16 + 1));
  for (int64_t part = 1; part < parts; ++part)
    for (int64_t i = 0; i < values; ++i) sums[i] += sums[part * values + i];
  std::memset(to_states->untyped_data(), 0, to_states->size_bytes());
  for (size_t i = 0; i < used.places.size(); ++i) {
    const float* from = sums.data() + i * depth;
    const int64_t to = used.places[i] * depth;
    if (is_rounded(states))
      for (int64_t j = 0; j < depth; ++j) static_cast<uint16_t*>(to_states->untyped_data())[to + j] = rounded(from[j]);
    else
      std::copy_n(from, depth, static_cast<float*>(to_states->untyped_data()) + to);
  }
  return ffi::Error::Success();
}

bool is_attention(const ffi::AnyBuffer& query, const ffi::AnyBuffer& key, const ffi::AnyBuffer& value,
                  const ffi::Buffer<ffi::S32>& counts) {
  const auto asked = query.dimensions(), known = key.dimensions();
  return is_float(query) && query.element_type() == key.element_type() && is_like(key, value) && asked.size() == 4 &&
         known.size() == 4 && asked[0] == known[0] && asked[2] == known[2] && asked[3] == known[3] &&
         static_cast<int64_t>(counts.element_count()) == asked[0];
}

constexpr char kAttention[] =
    "expected query [batch, queries, heads, depth], key and value [batch, keys, heads, depth], all of float32 or all of "
    "bfloat16, counts [batch], and results like what they are of";

ByHeads by_heads(const ffi::AnyBuffer& buffer) {
  const auto shape = buffer.dimensions();
  return {buffer.untyped_data(), shape[1], shape[2], shape[3], is_rounded(buffer)};
}

int64_t work_of(const ffi::AnyBuffer& query, const ffi::AnyBuffer& key) {
  return static_cast<int64_t>(query.element_count()) * key.dimensions()[1] / 4;
}

ffi::Error attend(ffi::ThreadPool pool, ffi::AnyBuffer query, ffi::AnyBuffer key, ffi::AnyBuffer value,
                  ffi::Buffer<ffi::S32> counts, bool is_causal, ffi::Result<ffi::AnyBuffer> results) {
  if (!is_attention(query, key, value, counts) || !is_like(*results, query))
    return ffi::Error::InvalidArgument(kAttention);
  const TrainingAttention attention{by_heads(query), by_heads(key), by_heads(value), counts.typed_data(), is_causal};
  const auto shape = query.dimensions();
  run_all(pool, AttentionForward{attention, by_heads(*results)}, shape[0] * shape[2], work_of(query, key));
  return ffi::Error::Success();
}

ffi::Error attend_backward(ffi::ThreadPool pool, ffi::AnyBuffer query, ffi::AnyBuffer key, ffi::AnyBuffer value,
                           ffi::Buffer<ffi::S32> counts, ffi::AnyBuffer gradient, bool is_causal,
                           ffi::Result<ffi::AnyBuffer> to_query, ffi::Result<ffi::AnyBuffer> to_key,
                           ffi::Result<ffi::AnyBuffer> to_value) {
  if (!is_attention(query, key, value, counts) || !is_like(gradient, query) || !is_like(*to_query, query) ||
      !is_like(*to_key, key) || !is_like(*to_value, value))
    return ffi::Error::InvalidArgument(kAttention);
  const TrainingAttention attention{by_heads(query), by_heads(key), by_heads(value), counts.typed_data(), is_causal};
  const auto shape = query.dimensions();
  run_all(pool,
          AttentionBackward{attention, by_heads(gradient), by_heads(*to_query), by_heads(*to_key), by_heads(*to_value)},
          shape[0] * shape[2], 3 * work_of(query, key));
  return ffi::Error::Success();
}

// The sizes of some arrays of a call; -1 where one is not of float32.
std::vector<int64_t> sizes_of(const ffi::RemainingArgs& arrays, int64_t first, int64_t count) {
  std::vector<int64_t> sizes;
  for (int64_t i = first; i < first + count; ++i) {
    const auto buffer = arrays.get<ffi::Buffer<ffi::F32>>(i);
    sizes.push_back(buffer.has_value() ? static_cast<int64_t>(buffer->element_count()) : -1);
  }
  return sizes;
}

std::vector<const float*> inputs(const ffi::RemainingArgs& arrays, int64_t first, int64_t count) {
  std::vector<const float*> found;
  for (int64_t i = first; i < first + count; ++i) found.push_back(arrays.get<ffi::Buffer<ffi::F32>>(i)->typed_data());
  return found;
}

std::vector<float*> outputs(const ffi::RemainingRets& arrays, int64_t first, int64_t count) {
  std::vector<float*> found;
  for (int64_t i = first; i < first + count; ++i) {
    auto result = arrays.get<ffi::Buffer<ffi::F32>>(i);
    found.push_back((*result)->typed_data());
  }
  return found;
}

// Whether the arguments are `lists` lists of equal arrays of float32, and the results `made` lists of as many.
bool are_lists(const ffi::RemainingArgs& arrays, int64_t lists, const ffi::RemainingRets& results, int64_t made) {
  const int64_t count = arrays.size() / lists;
  if (static_cast<int64_t>(arrays.size()) != count * lists || static_cast<int64_t>(results.size()) != count * made)
    return false;
  const auto sizes = sizes_of(arrays, 0, count);
  for (int64_t list = 0; list < lists; ++list)
    if (sizes_of(arrays, list * count, count) != sizes) return false;
  for (int64_t i = 0; i < count * made; ++i) {
    auto result = results.get<ffi::Buffer<ffi::F32>>(i);
    if (!result.has_value() || static_cast<int64_t>((*result)->element_count()) != sizes[i % count]) return false;
  }
  return std::find(sizes.begin(), sizes.end(), -1) == sizes.end();
}

int64_t work_of(const std::vector<Stretch>& stretches) { return static_cast<int64_t>(stretches.size()) * kStretch; }

ffi::Error norm(ffi::ThreadPool pool, ffi::RemainingArgs arrays, ffi::ResultBuffer<ffi::F32> result) {
  const auto sizes = sizes_of(arrays, 0, arrays.size());
  if (std::find(sizes.begin(), sizes.end(), -1) != sizes.end() || result->element_count() != 1)
    return ffi::Error::InvalidArgument("expected arrays of float32 and a scalar as a result");
  const auto stretches = stretches_of(sizes);
  const auto from = inputs(arrays, 0, arrays.size());
  std::vector<double> parts(stretches.size());
  run_all(pool, Squares{stretches.data(), from.data(), parts.data()}, stretches.size(), work_of(stretches));
  double sum = 0.0;
  for (const double part : parts) sum += part;
  result->typed_data()[0] = static_cast<float>(std::sqrt(sum));
  return ffi::Error::Success();
}

ffi::Error move(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> rate, ffi::RemainingArgs arrays, bool is_toward,
                ffi::RemainingRets results) {
  if (rate.element_count() != 1 || !are_lists(arrays, 2, results, 1))
    return ffi::Error::InvalidArgument("expected a rate, two lists of equal arrays of float32, and as many results");
  const int64_t count = arrays.size() / 2;
  const auto stretches = stretches_of(sizes_of(arrays, 0, count));
  const auto a = inputs(arrays, 0, count), b = inputs(arrays, count, count);
  const auto to = outputs(results, 0, count);
  run_all(pool,
          Move{stretches.data(), a.data(), b.data(), to.data(), rate.typed_data()[0], is_toward},
          stretches.size(), work_of(stretches));
  return ffi::Error::Success();
}

ffi::Error adam(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> numbers, ffi::RemainingArgs arrays, float beta1,
                float beta2, float epsilon, ffi::RemainingRets results) {
  if (numbers.element_count() != 4 || !are_lists(arrays, 3, results, 3))
    return ffi::Error::InvalidArgument("expected four numbers, and gradients, means and squares of float32, which are the "
                                       "results, too");
  const float* number = numbers.typed_data();
  const int64_t count = arrays.size() / 3;
  const auto stretches = stretches_of(sizes_of(arrays, 0, count));
  const auto gradients = inputs(arrays, 0, count), means = inputs(arrays, count, count);
  const auto squares = inputs(arrays, 2 * count, count);
  const auto updates = outputs(results, 0, count), new_means = outputs(results, count, count);
  const auto new_squares = outputs(results, 2 * count, count);
  run_all(pool,
          Adam{stretches.data(), gradients.data(), means.data(), squares.data(), updates.data(), new_means.data(),
               new_squares.data(), beta1, beta2, epsilon, 1.0f / number[0], 1.0f / number[1], number[2], number[3]},
          stretches.size(), 4 * work_of(stretches));
  return ffi::Error::Success();
}

}  // namespace

// Bit n: this processor can compute products by level n.
extern "C" int64_t NatArBfloat16Levels() {
  int64_t levels = 0;
  for (int64_t level = 0; level < kLevels; ++level) levels |= int64_t{is_there(level)} << level;
  return levels;
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(NatArBfloat16Product, multiply,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Attr<bool>("is_left_transposed")
                                  .Attr<bool>("is_right_transposed")
                                  .Attr<bool>("is_rectified")
                                  .Attr<int64_t>("level")
                                  .Ret<ffi::AnyBuffer>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(NatArVocabulary, look_up,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::PRED>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Attr<int64_t>("level")
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(NatArVocabularyBackward, look_up_backward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::PRED>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Attr<int64_t>("level")
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::Buffer<ffi::F32>>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(NatArTrainingAttention, attend,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Attr<bool>("is_causal")
                                  .Ret<ffi::AnyBuffer>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(NatArTrainingAttentionBackward, attend_backward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Attr<bool>("is_causal")
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    NatArNorm, norm, ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().RemainingArgs().Ret<ffi::Buffer<ffi::F32>>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(NatArMove, move,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .RemainingArgs()
                                  .Attr<bool>("is_toward")
                                  .RemainingRets());
XLA_FFI_DEFINE_HANDLER_SYMBOL(NatArAdam, adam,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .RemainingArgs()
                                  .Attr<float>("beta1")
                                  .Attr<float>("beta2")
                                  .Attr<float>("epsilon")
                                  .RemainingRets());
