// One position of a whole decoder, or several, as a single call; part of cpu_kernels.cc.
//
// XLA runs some sixteen operations a block, each of which takes longer to start than a small decoder's products last. Here
// they follow each other within one call, over the same arrays and by the same functions as the single kernels: a
// state has the bits that these give. New keys and values are written into the caches, where XLA would transpose
// and copy them first.
//
// Threads wait for each other after every product. Waking one takes longer than a product of one row, so those that help
// look out for the next job until the call is over.

namespace {

// Threads that run one job after the other. A thread that comes late, or never, holds nobody up: parts are taken, not
// given.
class Crew {
 public:
  explicit Crew(ffi::ThreadPool& pool, int64_t work) : shared(std::make_shared<Shared>()) {
    const int64_t threads = std::min<int64_t>(pool.num_threads(), 1 + work / kWorthAThread);
    has_help = threads > 1;
    for (int64_t thread = 1; thread < threads; ++thread)
      pool.Schedule([shared = shared] {
        uint64_t ticket;
        while ((ticket = shared->next.load(std::memory_order_acquire)) != kOver)
          if (is_open(ticket)) {
            shared->take();
          } else {
            RELAX();
          }
      });
  }
  ~Crew() { shared->next.store(kOver, std::memory_order_release); }

  template <typename Job>
  void operator()(const Job& job, int64_t parts, int64_t work) const {
    if (!has_help || parts < 2 || work < kWorthSharing) {
      for (int64_t part = 0; part < parts; ++part) job.run(part);
      return;
    }
    const int64_t size = std::max<int64_t>(1, parts / kPieces), pieces = (parts + size - 1) / size;
    const Pieces<Job> all{job, parts, size};
    shared->job = &all;
    shared->run = [](const void* job, int64_t piece) { static_cast<const Pieces<Job>*>(job)->run(piece); };
    shared->done.store(0, std::memory_order_relaxed);
    shared->next.store(static_cast<uint64_t>(pieces) << 32, std::memory_order_release);
    shared->take();
    while (shared->done.load(std::memory_order_acquire) < pieces) RELAX();
  }

 private:
  static constexpr uint64_t kOver = ~uint64_t{0};
  static constexpr int64_t kWorthSharing = 1 << 12, kPieces = 16;

  template <typename Job>
  struct Pieces {
    const Job& job;
    int64_t parts, size;

    void run(int64_t piece) const {
      for (int64_t part = piece * size; part < std::min(parts, (piece + 1) * size); ++part) job.run(part);
    }
  };

  // A ticket is how many pieces the job has, and the next of them to be taken.
  static bool is_open(uint64_t ticket) { return ticket != kOver && (ticket & 0xffffffff) < ticket >> 32; }

  struct Shared {
    std::atomic<uint64_t> next{0};
    std::atomic<int64_t> done{0};
    const void* job;
    void (*run)(const void*, int64_t);

    // Whoever holds a piece of a job keeps it from ending, so that the job is still there.
    void take() {
      uint64_t ticket = next.load(std::memory_order_acquire);
      while (is_open(ticket)) {
        if (!next.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) continue;
        run(job, static_cast<int64_t>(ticket & 0xffffffff));
        done.fetch_add(1, std::memory_order_release);
        ticket = next.load(std::memory_order_acquire);
      }
    }
  };

  std::shared_ptr<Shared> shared;
  bool has_help;
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

struct DecoderBlock {
  DecoderBlock(Arrays& weights, int64_t d_model, int64_t d_hidden, int64_t level)
      : before_itself(weights, d_model),
        project(weights.linear(d_model, 3 * d_model, level)),
        output(weights.linear(d_model, d_model, level)),
        before_source(weights, d_model),
        source_query(weights.linear(d_model, d_model, level)),
        source_output(weights.linear(d_model, d_model, level)),
        before_hidden(weights, d_model),
        expand(weights.linear(d_model, d_hidden, level, true)),
        contract(weights.linear(d_hidden, d_model, level)) {}

  LayerNorm before_itself;  // of a post-norm decoder: after it
  Linear project, output;
  LayerNorm before_source;
  Linear source_query, source_output;
  LayerNorm before_hidden;
  Linear expand, contract;
};

// The new positions of a batch, and what they attend to.
struct Step {
  int64_t batch, queries, heads, d_model, d_hidden, places, positions, source_length;
  const int32_t* written;  // [batch, queries], the place of each in the caches
  const int32_t* counts;   // [batch, queries], positions that it sees
  const int32_t* origin;   // as Attention has it
  const int32_t* lengths;  // [batch], of the sources
  bool is_pre;
  float epsilon;

  int64_t rows() const { return batch * queries; }
};

// Moves the new keys and values of one sentence into the caches.
struct Write {
  const Step& step;
  const float* projected;  // [rows, 3 * d_model]: queries, keys, values
  float *keys, *values;

  void run(int64_t sentence) const {
    const int64_t depth = step.d_model / step.heads;
    for (int64_t query = 0; query < step.queries; ++query) {
      const int64_t row = sentence * step.queries + query, place = step.written[row];
      if (place < 0 || place >= step.places) continue;
      const float* from = projected + row * 3 * step.d_model + step.d_model;
      for (int64_t head = 0; head < step.heads; ++head, from += depth) {
        const int64_t part = sentence * step.heads + head;
        for (int64_t k = 0; k < depth; ++k) keys[(part * depth + k) * step.places + place] = from[k];
        std::memcpy(values + (part * step.places + place) * depth, from + step.d_model, depth * sizeof(float));
      }
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

class DecoderStep {
 public:
  DecoderStep(const Step& step, const Crew& crew, float* x) : step(step), crew(crew), x(x) {
    thread_local std::vector<float> memory;
    const int64_t rows = step.rows(), d_model = step.d_model;
    memory.resize(rows * (6 * d_model + step.d_hidden));
    normal = memory.data();
    mixed = normal + rows * d_model;
    y = mixed + rows * d_model;
    projected = y + rows * d_model;
    hidden = projected + rows * 3 * d_model;
  }

  void run(const DecoderBlock& block, float* keys, float* values, const float* source_keys,
           const float* source_values) const {
    const int64_t rows = step.rows(), depth = step.d_model / step.heads;
    multiply_by(crew, block.project, enter(block.before_itself), rows, projected);
    crew(Write{step, projected, keys, values}, step.batch, rows * step.d_model);
    attend(Attention{projected, keys, values, step.counts, step.origin, mixed, step.batch, step.queries, step.heads,
                     depth, step.places, step.positions, true, 3 * step.d_model});
    multiply_by(crew, block.output, mixed, rows, y);
    leave(block.before_itself);
    multiply_by(crew, block.source_query, enter(block.before_source), rows, projected);
    attend(Attention{projected, source_keys, source_values, step.lengths, nullptr, mixed, step.batch, step.queries,
                     step.heads, depth, step.source_length, step.source_length, false, step.d_model});
    multiply_by(crew, block.source_output, mixed, rows, y);
    leave(block.before_source);
    multiply_by(crew, block.expand, enter(block.before_hidden), rows, hidden);
    multiply_by(crew, block.contract, hidden, rows, y);
    leave(block.before_hidden);
  }

  void normalise(const LayerNorm& norm, float* results) const {
    crew(Norm{x, norm.scale, norm.bias, results, step.d_model, step.epsilon}, step.rows(),
         step.rows() * step.d_model);
  }

 private:
  const float* enter(const LayerNorm& norm) const {
    if (!step.is_pre) return x;
    normalise(norm, normal);
    return normal;
  }

  void leave(const LayerNorm& norm) const {
    crew(Add{x, y, step.d_model}, step.rows(), step.rows() * step.d_model);
    if (!step.is_pre) normalise(norm, x);
  }

  void attend(const Attention& attention) const {
    crew(attention, step.batch * step.heads, step.rows() * step.d_model * attention.places / 2);
  }

  const Step& step;
  const Crew& crew;
  float *x, *normal, *mixed, *y, *projected, *hidden;
};

// Arrays: for each block its keys and values, then for each those of the source, then for each its weights, in the order
// of DecoderBlock, and the last norm of a pre-norm decoder. Results: the states, and the caches, which are the ones that
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
  const Step step{shape[0],
                  shape[1],
                  heads,
                  shape[2],
                  d_hidden,
                  places,
                  has_slots ? from[2] : places,
                  source_length,
                  written.typed_data(),
                  counts.typed_data(),
                  has_slots ? origin.typed_data() : nullptr,
                  lengths.typed_data(),
                  is_pre,
                  epsilon};
  Arrays given(arrays);
  std::vector<float*> kept, sources;
  for (int64_t i = 0; i < 2 * blocks; ++i) {
    auto result = caches.get<ffi::Buffer<ffi::F32>>(i);
    kept.push_back(given.next<ffi::F32>(step.batch * step.d_model * places));
    if (result.has_error() || (*result)->typed_data() != kept.back())
      return ffi::Error::InvalidArgument("expected caches that are results as well");
  }
  for (int64_t i = 0; i < 2 * blocks; ++i)
    sources.push_back(given.next<ffi::F32>(step.batch * step.d_model * source_length));
  const int64_t level = is_int8 ? int8::best() : Arrays::kFloats;
  std::vector<DecoderBlock> weights;
  for (int64_t i = 0; i < blocks; ++i) weights.emplace_back(given, step.d_model, d_hidden, level);
  std::vector<LayerNorm> last;
  if (is_pre) last.emplace_back(given, step.d_model);
  if (!given.are_all_taken())
    return ffi::Error::InvalidArgument("expected weights in the order and of the sizes of decoder_step.h");

  const int64_t work = blocks * step.d_model * (6 * step.d_model + 2 * d_hidden) * std::max<int64_t>(1, step.rows() / 4);
  const Crew crew(pool, is_int8 ? work / 3 : work);
  float* x = states->typed_data();
  std::memcpy(x, inputs.typed_data(), inputs.element_count() * sizeof(float));
  const DecoderStep decoder(step, crew, x);
  for (int64_t i = 0; i < blocks; ++i)
    decoder.run(weights[i], kept[2 * i], kept[2 * i + 1], sources[2 * i], sources[2 * i + 1]);
  if (is_pre) decoder.normalise(last[0], x);
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
