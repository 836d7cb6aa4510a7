// All blocks of an encoder or a decoder as a single call; part of cpu_kernels.cc. Three of them: new positions of a decoder
// over its caches, all positions of an encoder or a decoder at once, and the keys and values of a source for all blocks
// of a decoder.
//
// XLA runs some sixteen operations a block, each of which takes longer to start than a small network's products last. Here
// they follow each other within one call, over the same arrays and by the same functions as the single kernels: a
// state has the bits that these give. Keys and values are written where attention reads them, into the caches or into
// arrays that all blocks use, where XLA would transpose and copy them first.
//
// Threads wait for each other after every product (crew.h).

namespace {

// Floats from the start of a cache line on, so that threads which write neighbouring panels share none.
class Room {
 public:
  explicit Room(int64_t size) : floats(static_cast<float*>(::operator new[](size * sizeof(float), kLine))) {}
  ~Room() { ::operator delete[](floats, kLine); }
  Room(const Room&) = delete;
  Room& operator=(const Room&) = delete;
  float* get() const { return floats; }

 private:
  static constexpr std::align_val_t kLine{64};
  float* floats;
};

// The arrays that come in any number, taken one after the other.
class Arrays {
 public:
  explicit Arrays(ffi::RemainingArgs arrays) : arrays(arrays) {}

  template <ffi::DataType type>
  ffi::NativeType<type>* next(int64_t size) {
    const auto array = arrays.get<ffi::Buffer<type>>(taken++);
    if (array.has_error() || static_cast<int64_t>(array->element_count()) != size) {
      fit = false;
      return nullptr;
    }
    return array->typed_data();
  }

  Linear linear(int64_t depth, int64_t width, int64_t level, bool is_rectified = false) {
    const int64_t panels = (width + kPanel - 1) / kPanel, quads = (depth + int8::kQuad - 1) / int8::kQuad;
    Linear linear;
    linear.depth = depth, linear.width = width, linear.level = level, linear.is_rectified = is_rectified;
    if (level == kFloats) {
      linear.panels = next<ffi::F32>(panels * depth * kPanel);
    } else {
      linear.integers = next<ffi::S8>(panels * quads * int8::kQuad * kPanel);
      linear.sums = next<ffi::S32>(panels * kPanel);
      linear.scale = next<ffi::F32>(width);
    }
    linear.bias = next<ffi::F32>(width);
    return linear;
  }

  static constexpr int64_t kFloats = -1;  // instead of a level of int8_products.h
  bool are_all_taken() const { return fit && taken == arrays.size(); }

 private:
  ffi::RemainingArgs arrays;
  size_t taken = 0;
  bool fit = true;
};

struct LayerNorm {
  LayerNorm(Arrays& weights, int64_t width)
      : scale(weights.next<ffi::F32>(width)), bias(weights.next<ffi::F32>(width)) {}
  const float *scale, *bias;
};

// Attention to a source.
struct SourceAttention {
  SourceAttention(Arrays& weights, int64_t d_model, int64_t level)
      : before(weights, d_model),
        query(weights.linear(d_model, d_model, level)),
        output(weights.linear(d_model, d_model, level)) {}

  LayerNorm before;
  Linear query, output;
};

// Of a decoder, or of an encoder, which reads no source.
struct Block {
  Block(Arrays& weights, int64_t d_model, int64_t d_hidden, int64_t level, bool reads_source)
      : before_itself(weights, d_model),
        project(weights.linear(d_model, 3 * d_model, level)),
        output(weights.linear(d_model, d_model, level)),
        source(reads_source ? std::make_optional<SourceAttention>(weights, d_model, level) : std::nullopt),
        before_hidden(weights, d_model),
        expand(weights.linear(d_model, d_hidden, level, true)),
        contract(weights.linear(d_hidden, d_model, level)) {}

  LayerNorm before_itself;  // of a post-norm network: after it
  Linear project, output;
  std::optional<SourceAttention> source;
  LayerNorm before_hidden;
  Linear expand, contract;
};

// The positions of a batch that are computed, and what they attend to.
struct Pass {
  int64_t batch, queries, heads, d_model, d_hidden;
  int64_t places, positions;  // of keys and values, as Attention has them
  const int32_t* written;     // [batch, queries], the place of each; null: its own position
  const int32_t* counts;      // [batch] or [batch, queries], positions that are seen
  bool has_own_counts;        // each query
  const int32_t* origin;      // as Attention has it
  int64_t sources, source_length;
  const int32_t* source_lengths;  // [sources]; batch / sources neighbours read the same source
  bool is_pre;
  float epsilon;

  int64_t rows() const { return batch * queries; }
};

// Moves the keys and values of one head of one sentence to their places.
struct Write {
  const float* keys_and_values;  // [batch, queries, stride], those of a row one after the other
  float* keys;                   // [batch, heads, depth, places]
  float* values;                 // [batch, heads, places, depth]
  const int32_t* written;        // as Pass has it
  int64_t queries, heads, depth, places, stride;

  void run(int64_t part) const {
    const int64_t sentence = part / heads, head = part % heads;
    for (int64_t query = 0; query < queries; ++query) {
      const int64_t row = sentence * queries + query, place = written == nullptr ? query : written[row];
      if (place < 0 || place >= places) continue;
      const float* from = keys_and_values + row * stride + head * depth;
      for (int64_t k = 0; k < depth; ++k) keys[(part * depth + k) * places + place] = from[k];
      std::memcpy(values + (part * places + place) * depth, from + heads * depth, depth * sizeof(float));
    }
  }
};

// x += y, row by row.
struct Add {
  float* x;        // [rows, width]
  const float* y;  // [rows, width]
  int64_t width;

  void run(int64_t row) const {
    for (int64_t i = row * width; i < (row + 1) * width; ++i) x[i] += y[i];
  }
};

class Blocks {
 public:
  Blocks(const Pass& pass, const Crew& crew, float* x)
      : pass(pass), crew(crew), x(x), memory(pass.rows() * (6 * pass.d_model + pass.d_hidden)) {
    const int64_t size = pass.rows() * pass.d_model;
    normal = memory.get();
    mixed = normal + size;
    y = mixed + size;
    projected = y + size;
    hidden = projected + 3 * size;
  }

  void run(const Block& block, float* keys, float* values, const float* source_keys, const float* source_values) const {
    const int64_t rows = pass.rows(), depth = pass.d_model / pass.heads;
    multiply_by(crew, block.project, enter(block.before_itself), rows, projected);
    crew(Write{projected + pass.d_model, keys, values, pass.written, pass.queries, pass.heads, depth, pass.places,
               3 * pass.d_model},
         pass.batch * pass.heads, rows * pass.d_model);
    attend(Attention{projected, keys, values, pass.counts, pass.origin, mixed, pass.batch, pass.queries, pass.heads,
                     depth, pass.places, pass.positions, pass.has_own_counts, 3 * pass.d_model});
    multiply_by(crew, block.output, mixed, rows, y);
    leave(block.before_itself);
    if (block.source) {
      multiply_by(crew, block.source->query, enter(block.source->before), rows, projected);
      attend(Attention{projected, source_keys, source_values, pass.source_lengths, nullptr, mixed, pass.sources,
                       rows / pass.sources, pass.heads, depth, pass.source_length, pass.source_length, false,
                       pass.d_model});
      multiply_by(crew, block.source->output, mixed, rows, y);
      leave(block.source->before);
    }
    multiply_by(crew, block.expand, enter(block.before_hidden), rows, hidden);
    multiply_by(crew, block.contract, hidden, rows, y);
    leave(block.before_hidden);
  }

  void normalise(const LayerNorm& norm, float* results) const {
    crew(Norm{x, norm.scale, norm.bias, results, pass.d_model, pass.epsilon}, pass.rows(),
         pass.rows() * pass.d_model);
  }

 private:
  const float* enter(const LayerNorm& norm) const {
    if (!pass.is_pre) return x;
    normalise(norm, normal);
    return normal;
  }

  void leave(const LayerNorm& norm) const {
    crew(Add{x, y, pass.d_model}, pass.rows(), pass.rows() * pass.d_model);
    if (!pass.is_pre) normalise(norm, x);
  }

  void attend(const Attention& attention) const {
    crew(attention, attention.batch * attention.heads, pass.rows() * pass.d_model * attention.places / 2);
  }

  const Pass& pass;
  const Crew& crew;
  float* x;
  Room memory;
  float *normal, *mixed, *y, *projected, *hidden;
};

// Operations of a product for which a thread is worth waking, of as many rows.
int64_t work_of(int64_t weights, int64_t rows, bool is_int8) {
  const int64_t work = weights * std::max<int64_t>(1, rows / 4);
  return is_int8 ? work / 3 : work;
}

// What the weights of all blocks are, and of the last norm of a pre-norm network.
struct Network {
  Network(Arrays& weights, const Pass& pass, int64_t num, bool reads_source, bool is_int8)
      : work(work_of(num * pass.d_model * ((reads_source ? 6 : 4) * pass.d_model + 2 * pass.d_hidden), pass.rows(),
                     is_int8)) {
    const int64_t level = is_int8 ? int8::best() : Arrays::kFloats;
    for (int64_t i = 0; i < num; ++i) blocks.emplace_back(weights, pass.d_model, pass.d_hidden, level, reads_source);
    if (pass.is_pre) last.emplace(weights, pass.d_model);
  }

  // `x`: inputs, and then the states. Of each block a key and a value, of its own and of the source.
  void run(ffi::ThreadPool& pool, const Pass& pass, float* x, const std::vector<float*>& kept,
           const std::vector<float*>& sources) const {
    const Crew crew(pool, work);
    const Blocks all(pass, crew, x);
    for (size_t i = 0; i < blocks.size(); ++i)
      all.run(blocks[i], kept[2 * i], kept[2 * i + 1], sources[2 * i], sources[2 * i + 1]);
    if (last) all.normalise(*last, x);
  }

  int64_t work;
  std::vector<Block> blocks;
  std::optional<LayerNorm> last;
};

const char* const kWrongWeights = "expected weights in the order and of the sizes of fused_blocks.h";

// Arrays: for each block its keys and values, then for each those of the source, then for each its weights, in the order
// of Block, and the last norm of a pre-norm decoder. Results: the states, and the caches, which are the ones that
// came in.
ffi::Error step_decoder(ffi::ThreadPool pool, Floats inputs, Integers written, Integers counts, Integers origin,
                        Integers lengths, ffi::RemainingArgs arrays, int64_t blocks, int64_t heads, int64_t d_hidden,
                        int64_t places, int64_t source_length, bool is_pre, bool is_int8, float epsilon,
                        ffi::ResultBuffer<ffi::F32> states, ffi::RemainingRets caches) {
  const auto shape = inputs.dimensions(), from = origin.dimensions();
  if (shape.size() != 3 || heads < 1 || shape[2] % heads != 0 || states->element_count() != inputs.element_count() ||
      static_cast<int64_t>(written.element_count()) != shape[0] * shape[1] ||
      counts.element_count() != written.element_count() ||
      static_cast<int64_t>(lengths.element_count()) != shape[0] || caches.size() != static_cast<size_t>(2 * blocks) ||
      (from.size() != 1 && (from.size() != 3 || from[0] != shape[0] || from[1] != shape[1] || places % from[2] != 0)))
    return ffi::Error::InvalidArgument(
        "expected inputs [batch, queries, d_model], written and counts [batch, queries], origin [batch, queries, "
        "positions] or [0], lengths [batch], and two caches a block");
  const bool has_slots = from.size() == 3;
  const Pass pass{shape[0],
                  shape[1],
                  heads,
                  shape[2],
                  d_hidden,
                  places,
                  has_slots ? from[2] : places,
                  written.typed_data(),
                  counts.typed_data(),
                  true,
                  has_slots ? origin.typed_data() : nullptr,
                  shape[0],
                  source_length,
                  lengths.typed_data(),
                  is_pre,
                  epsilon};
  Arrays given(arrays);
  std::vector<float*> kept, sources;
  for (int64_t i = 0; i < 2 * blocks; ++i) {
    auto result = caches.get<ffi::Buffer<ffi::F32>>(i);
    kept.push_back(given.next<ffi::F32>(pass.batch * pass.d_model * places));
    if (result.has_error() || (*result)->typed_data() != kept.back())
      return ffi::Error::InvalidArgument("expected caches that are results as well");
  }
  for (int64_t i = 0; i < 2 * blocks; ++i)
    sources.push_back(given.next<ffi::F32>(pass.batch * pass.d_model * source_length));
  const Network decoder(given, pass, blocks, true, is_int8);
  if (!given.are_all_taken()) return ffi::Error::InvalidArgument(kWrongWeights);
  std::memcpy(states->typed_data(), inputs.typed_data(), inputs.element_count() * sizeof(float));
  decoder.run(pool, pass, states->typed_data(), kept, sources);
  return ffi::Error::Success();
}

// All positions of each sentence. Arrays: for each block keys and values of the source, of a decoder; then for each its
// weights, in the order of Block, and the last norm of a pre-norm network.
ffi::Error pass_blocks(ffi::ThreadPool pool, Floats inputs, Integers lengths, Integers source_lengths,
                       ffi::RemainingArgs arrays, int64_t blocks, int64_t heads, int64_t d_hidden,
                       int64_t source_length, bool reads_source, bool is_pre, bool is_int8, float epsilon,
                       ffi::ResultBuffer<ffi::F32> states) {
  const auto shape = inputs.dimensions();
  const int64_t sources = source_lengths.element_count();
  if (shape.size() != 3 || heads < 1 || shape[2] % heads != 0 || states->element_count() != inputs.element_count() ||
      static_cast<int64_t>(lengths.element_count()) != shape[0] ||
      (reads_source && (sources == 0 || shape[0] % sources != 0)))
    return ffi::Error::InvalidArgument(
        "expected inputs [batch, length, d_model], lengths [batch], and source_lengths of which batch is a multiple");
  const Pass pass{shape[0], shape[1],      heads,  shape[2], d_hidden,      shape[1],
                  shape[1], nullptr,       lengths.typed_data(),            false,
                  nullptr,  reads_source ? sources : shape[0],              source_length,
                  source_lengths.typed_data(), is_pre, epsilon};
  Arrays given(arrays);
  const Room keys(inputs.element_count()), values(inputs.element_count());
  std::vector<float*> kept, read(2 * blocks, nullptr);
  for (int64_t i = 0; i < blocks; ++i) kept.insert(kept.end(), {keys.get(), values.get()});  // one block after the other
  for (int64_t i = 0; reads_source && i < 2 * blocks; ++i)
    read[i] = given.next<ffi::F32>(sources * pass.d_model * source_length);
  const Network network(given, pass, blocks, reads_source, is_int8);
  if (!given.are_all_taken()) return ffi::Error::InvalidArgument(kWrongWeights);
  std::memcpy(states->typed_data(), inputs.typed_data(), inputs.element_count() * sizeof(float));
  network.run(pool, pass, states->typed_data(), kept, read);
  return ffi::Error::Success();
}

// Keys and values of a source for each block of a decoder. Arrays: of each the weight of both.
ffi::Error project_sources(ffi::ThreadPool pool, Floats states, ffi::RemainingArgs arrays, int64_t heads, bool is_int8,
                           ffi::RemainingRets results) {
  const auto shape = states.dimensions();
  if (shape.size() != 3 || heads < 1 || shape[2] % heads != 0 || results.size() % 2 != 0)
    return ffi::Error::InvalidArgument("expected states [batch, length, d_model], and keys and values as results");
  const int64_t rows = shape[0] * shape[1], d_model = shape[2], blocks = results.size() / 2;
  Arrays given(arrays);
  std::vector<Linear> weights;
  for (int64_t i = 0; i < blocks; ++i)
    weights.push_back(given.linear(d_model, 2 * d_model, is_int8 ? int8::best() : Arrays::kFloats));
  if (!given.are_all_taken()) return ffi::Error::InvalidArgument(kWrongWeights);

  const Crew crew(pool, work_of(blocks * d_model * 2 * d_model, rows, is_int8));
  const Room projected(rows * 2 * d_model);
  for (int64_t i = 0; i < blocks; ++i) {
    auto keys = results.get<ffi::Buffer<ffi::F32>>(2 * i), values = results.get<ffi::Buffer<ffi::F32>>(2 * i + 1);
    if (keys.has_error() || values.has_error() ||
        static_cast<int64_t>((*keys)->element_count()) != rows * d_model ||
        static_cast<int64_t>((*values)->element_count()) != rows * d_model)
      return ffi::Error::InvalidArgument("expected keys and values of as many positions as there are states");
    multiply_by(crew, weights[i], states.typed_data(), rows, projected.get());
    crew(Write{projected.get(), (*keys)->typed_data(), (*values)->typed_data(), nullptr, shape[1], heads,
               d_model / heads, shape[1], 2 * d_model},
         shape[0] * heads, rows * d_model);
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(NatArDecoderStep, step_decoder,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<Integers>()
                                  .Arg<Integers>()
                                  .Arg<Integers>()
                                  .Arg<Integers>()
                                  .RemainingArgs()
                                  .Attr<int64_t>("blocks")
                                  .Attr<int64_t>("heads")
                                  .Attr<int64_t>("d_hidden")
                                  .Attr<int64_t>("places")
                                  .Attr<int64_t>("source_length")
                                  .Attr<bool>("is_pre")
                                  .Attr<bool>("is_int8")
                                  .Attr<float>("epsilon")
                                  .Ret<Floats>()
                                  .RemainingRets());
XLA_FFI_DEFINE_HANDLER_SYMBOL(NatArPassBlocks, pass_blocks,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<Integers>()
                                  .Arg<Integers>()
                                  .RemainingArgs()
                                  .Attr<int64_t>("blocks")
                                  .Attr<int64_t>("heads")
                                  .Attr<int64_t>("d_hidden")
                                  .Attr<int64_t>("source_length")
                                  .Attr<bool>("reads_source")
                                  .Attr<bool>("is_pre")
                                  .Attr<bool>("is_int8")
                                  .Attr<float>("epsilon")
                                  .Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(NatArProjectSources, project_sources,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .RemainingArgs()
                                  .Attr<int64_t>("heads")
                                  .Attr<bool>("is_int8")
                                  .RemainingRets());
