// The loops of word alignment over all token pairs. model.py has the formulas.
//
// The corpus is sorted by source type: all occurrences of a type are adjacent, each with the target tokens of its
// sentence. While they are read, the type's row of the lexical table lies in cache, spread out by target type, so that
// no token pair is looked up. Each iteration has two sweeps: the first sums, for each target token, the scores of all
// its source tokens; the second divides by these sums and counts. The order of the sentences cannot be predicted by the
// processor, hence the prefetches.
//
// The diagonal prior is geometric on either side of the diagonal: exp(-tension |i/m - j/n|) is that of the nearest i
// on its side times a power of exp(-tension / m). Neither depends on the types, so both are computed once: the powers
// for each m, the nearest terms for each (j, m, n).
//
// Sums are in double precision and in a fixed order: the same corpus gives the same bits.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int64_t kLanes = 4;
constexpr int64_t kAhead = 12;        // occurrences; as many may be read past the last one, as in native_backend.py
constexpr int64_t kLine = 64;         // bytes of a cache line
constexpr int64_t kSumLines = 4;      // 32 target tokens; the processor prefetches the rest itself
constexpr double kEqual = 1e-12;      // relative difference of scores that rounding may cause
constexpr double kSmallest = 1e-200;  // products of probabilities below it are added to the log-likelihood

typedef double Vector __attribute__((vector_size(sizeof(double) * kLanes), aligned(alignof(double)), may_alias));
typedef float Floats __attribute__((vector_size(sizeof(float) * kLanes)));
typedef int64_t Integers __attribute__((vector_size(sizeof(int64_t) * kLanes)));

inline Vector load(const double* from) { return *reinterpret_cast<const Vector*>(from); }
inline void store(double* to, Vector value) { *reinterpret_cast<Vector*>(to) = value; }
inline Vector everywhere(double x) { return Vector{x, x, x, x}; }
inline Integers everywhere(int64_t x) { return Integers{x, x, x, x}; }

// A source token: the first target token of its sentence, and the index of its (j, m, n).
struct Occurrence {
  uint32_t start, column;
};

// The same as _Corpus in native_backend.py.
struct Corpus {
  const void* tokens;      // of all targets, followed by kLanes that may be read, too
  int64_t token_bytes;     // 2: uint16_t, 4: int32_t
  const int64_t* offsets;  // [rows + 1], of the targets
  const int64_t* first;    // [rows], index of its first target token in Positions
  int64_t rows, source_size, target_size;
  Occurrence* occurrences;
  int64_t* spans;           // [source_size + 1], the occurrences of each source type
  const int64_t* position;  // [source_positions], j
  const int64_t* length;    // [source_positions], m
  const int64_t* width;     // [source_positions], n
  int64_t source_positions;
};

// t(f|e), sorted by source type and then by target type.
struct Table {
  const int64_t* keys;   // source type * target_size + target type
  const int64_t* edges;  // [source_size + 1]
  const float* probability;
};

// Calls `work` with the tokens as a pointer of their type.
template <typename Work>
auto with_tokens(const void* tokens, int64_t bytes, Work work) {
  if (bytes == 2) return work(static_cast<const uint16_t*>(tokens));
  return work(static_cast<const int32_t*>(tokens));
}

// exp(-tension |i/m - j/n|) for all i of a (j, m, n).
struct Column {
  double left, right;  // for the last i with i/m <= j/n, and for the next i
  double step, at;     // 1/m, j/n
  int32_t before;      // number of i with i/m <= j/n
  int32_t length;      // m
  int32_t position;    // j - 1
  uint32_t powers;     // index of exp(-tension 0/m)
};

struct Diagonal {
  std::vector<Column> columns;
  std::vector<double> powers;  // exp(-tension |k|/m) for k = -m .. m, for each m

  Diagonal(const Corpus& corpus, double tension) : columns(corpus.source_positions) {
    std::vector<int64_t> middle;
    for (int64_t index = 0; index < corpus.source_positions; ++index) {
      const int64_t j = corpus.position[index], m = corpus.length[index], n = corpus.width[index];
      if (m == 0) continue;
      if (static_cast<int64_t>(middle.size()) <= m) middle.resize(m + 1, -1);
      if (middle[m] < 0) {
        middle[m] = powers.size() + m;
        for (int64_t k = -m; k <= m; ++k) powers.push_back(std::exp(-tension * (std::abs(k) / static_cast<double>(m))));
        powers.resize(powers.size() + 2 * kLanes);  // read, not used
      }
      const int64_t before = j * m / n;
      const double whole = static_cast<double>(m) * n;
      columns[index] = {std::exp(-tension * ((j * m - before * n) / whole)),
                       std::exp(-tension * (((before + 1) * n - j * m) / whole)),
                       1.0 / m,
                       j / static_cast<double>(n),
                       static_cast<int32_t>(before),
                       static_cast<int32_t>(m),
                       static_cast<int32_t>(j - 1),
                       static_cast<uint32_t>(middle[m])};
    }
  }

  // Calls work(i, prior) for the target positions i .. i + kLanes, from 0; the prior is 0 past the end.
  template <typename Work>
  void along(const Column& column, Work work) const {
    const double* power = powers.data() + column.powers - column.before;
    const Integers before = everywhere(static_cast<int64_t>(column.before));
    const Integers length = everywhere(static_cast<int64_t>(column.length));
    Integers lane = {0, 1, 2, 3};
    for (int64_t i = 0; i < column.length; i += kLanes, lane += kLanes) {
      const Vector prior = lane < before ? load(power + i + 1) * column.left : load(power + i) * column.right;
      work(i, lane < length ? prior : Vector{});
    }
  }
};

// Reads all occurrences of a source type in their order, and calls work(occurrence).
template <typename Token, typename Work>
inline void for_occurrences(const Corpus& corpus, const Token* tokens, const double* sums, int64_t type, Work work) {
  for (int64_t k = corpus.spans[type]; k < corpus.spans[type + 1]; ++k) {
    const int64_t next = corpus.occurrences[k + kAhead].start;
    __builtin_prefetch(tokens + next);
    __builtin_prefetch(reinterpret_cast<const char*>(tokens + next) + kLine);
    for (int64_t line = 0; sums != nullptr && line < kSumLines; ++line)
      __builtin_prefetch(reinterpret_cast<const char*>(sums + next) + line * kLine, 1);
    work(corpus.occurrences[k]);
  }
}

// Calls work(entry, target type) for the row of a source type.
template <typename Work>
inline void for_row(const Table& table, int64_t target_size, int64_t type, Work work) {
  for (int64_t entry = table.edges[type]; entry < table.edges[type + 1]; ++entry)
    work(entry, table.keys[entry] - type * target_size);
}

template <typename Token>
void list_occurrences(const Corpus& corpus, const Token* source, const int64_t* offsets, const int64_t* first) {
  std::fill_n(corpus.spans, corpus.source_size + 1, 0);
  for (int64_t k = 0; k < offsets[corpus.rows]; ++k) ++corpus.spans[source[k] + 1];
  for (int64_t type = 0; type < corpus.source_size; ++type) corpus.spans[type + 1] += corpus.spans[type];
  std::vector<int64_t> next(corpus.spans, corpus.spans + corpus.source_size);
  for (int64_t row = 0; row < corpus.rows; ++row)
    for (int64_t k = offsets[row]; k < offsets[row + 1]; ++k)
      corpus.occurrences[next[source[k]]++] = {static_cast<uint32_t>(corpus.offsets[row]),
                                               static_cast<uint32_t>(first[row] + k - offsets[row])};
}

template <typename Token>
int64_t list_types(const Corpus& corpus, const Token* tokens, int64_t type, int64_t capacity, int64_t* keys,
                   int64_t* filled) {
  std::vector<uint8_t> met(corpus.target_size);
  int64_t* end = keys;
  for (; type < corpus.source_size && end - keys + corpus.target_size <= capacity; ++type) {
    if (corpus.spans[type] == corpus.spans[type + 1]) continue;
    for_occurrences(corpus, tokens, nullptr, type, [&](Occurrence here) {
      const Token* target = tokens + here.start;
      for (int64_t i = 0; i < corpus.length[here.column]; ++i) met[target[i]] = 1;
    });
    // Without a branch: the next key overwrites that of a type that does not co-occur.
    for (int64_t f = 0; f < corpus.target_size; ++f) {
      *end = type * corpus.target_size + f;
      end += met[f];
      met[f] = 0;
    }
  }
  *filled = end - keys;
  return type;
}

// sums[target token] = sum over j of exp(tension h) t(f|e)
template <typename Token>
void add_scores(const Corpus& corpus, const Table& table, const Diagonal& diagonal, const Token* tokens, double* sums) {
  std::vector<double> row(corpus.target_size);
  for (int64_t type = 0; type < corpus.source_size; ++type) {
    for_row(table, corpus.target_size, type, [&](int64_t entry, int64_t f) { row[f] = table.probability[entry]; });
    for_occurrences(corpus, tokens, sums, type, [&](Occurrence here) {
      const Token* target = tokens + here.start;
      double* sum = sums + here.start;
      diagonal.along(diagonal.columns[here.column], [&](int64_t i, Vector prior) {
        const Token* f = target + i;
        store(sum + i, load(sum + i) + prior * Vector{row[f[0]], row[f[1]], row[f[2]], row[f[3]]});
      });
    });
  }
}

// Replaces the sums by scale / p(f), the factor from scores to posteriors. Counts the null word.
// Returns the log-likelihood.
template <typename Token>
double divide(const Corpus& corpus, const Token* tokens, const double* scale, double p0, const double* null_probability,
              double* sums, double* null_counts, double* mass) {
  double log_likelihood = 0.0, product = 1.0;
  for (int64_t row = 0; row < corpus.rows; ++row) {
    const int64_t to_position = corpus.first[row] - corpus.offsets[row];
    for (int64_t i = corpus.offsets[row]; i < corpus.offsets[row + 1]; ++i) {
      const double null = p0 * null_probability[tokens[i]];
      const double total = scale[i + to_position] * sums[i] + null;
      product *= total;  // one logarithm for many tokens
      if (product < kSmallest) {
        log_likelihood += std::log(product);
        product = 1.0;
      }
      sums[i] = scale[i + to_position] / total;
      null_counts[tokens[i]] += null / total;
      mass[i + to_position] += 1.0 - null / total;
    }
  }
  return log_likelihood + std::log(product);
}

// The sums of the posteriors of each entry. Returns the sum of posterior * h.
template <typename Token>
double count(const Corpus& corpus, const Table& table, const Diagonal& diagonal, const Token* tokens,
             const double* sums, float* counts) {
  struct Entry {
    double probability, count;
  };
  std::vector<Entry> row(corpus.target_size);
  Vector feature = {};
  for (int64_t type = 0; type < corpus.source_size; ++type) {
    for_row(table, corpus.target_size, type,
            [&](int64_t entry, int64_t f) { row[f] = {table.probability[entry], 0.0}; });
    for_occurrences(corpus, tokens, sums, type, [&](Occurrence here) {
      const Column& column = diagonal.columns[here.column];
      const Token* target = tokens + here.start;
      const double* share = sums + here.start;
      const Vector steps = Vector{1.0, 2.0, 3.0, 4.0} * column.step - column.at;
      diagonal.along(column, [&](int64_t i, Vector prior) {
        Entry* entries[kLanes];
        for (int64_t lane = 0; lane < kLanes; ++lane) entries[lane] = &row[target[i + lane]];
        const Vector posterior = prior * load(share + i) *
                                 Vector{entries[0]->probability, entries[1]->probability, entries[2]->probability,
                                        entries[3]->probability};
        for (int64_t lane = 0; lane < kLanes; ++lane) entries[lane]->count += posterior[lane];
        const Vector distance = steps + i * column.step;
        feature -= posterior * (distance < 0.0 ? -distance : distance);
      });
    });
    for_row(table, corpus.target_size, type,
            [&](int64_t entry, int64_t f) { counts[entry] = static_cast<float>(row[f].count); });
  }
  return (feature[0] + feature[1]) + (feature[2] + feature[3]);
}

template <typename Token>
void best_links(const Corpus& corpus, const Table& table, const Diagonal& diagonal, const Token* tokens, double unmet,
                double* best, int32_t* links) {
  std::vector<double> row(corpus.target_size, unmet);
  for (int64_t type = 0; type < corpus.source_size; ++type) {
    if (corpus.spans[type] == corpus.spans[type + 1]) continue;
    for_row(table, corpus.target_size, type, [&](int64_t entry, int64_t f) { row[f] = table.probability[entry]; });
    for_occurrences(corpus, tokens, best, type, [&](Occurrence here) {
      const Column& column = diagonal.columns[here.column];
      const Token* target = tokens + here.start;
      double* score = best + here.start;
      int32_t* link = links + here.start;
      diagonal.along(column, [&](int64_t i, Vector prior) {
        for (int64_t lane = 0; lane < std::min(kLanes, column.length - i); ++lane) {
          const double here = prior[lane] * row[target[i + lane]], most = score[i + lane];
          if (here < most * (1.0 - kEqual)) continue;
          if (here > most * (1.0 + kEqual) || column.position < link[i + lane]) link[i + lane] = column.position;
          score[i + lane] = std::max(here, most);
        }
      });
    });
    for_row(table, corpus.target_size, type, [&](int64_t, int64_t f) { row[f] = unmet; });
  }
}

// exp(x) for -700 < x < 700, to within rounding.
inline Vector exponential(Vector x) {
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: adding and subtracting it rounds to an integer
  constexpr int kTerms = 13;
  const Vector shifted = x * 1.4426950408889634 + kRound, power = shifted - kRound;
  const Vector rest = (x - power * 0.693147180369123816490) - power * 1.90821492927058770002e-10;  // ln 2 in two parts
  Vector sum = everywhere(1.0);  // Taylor: the 14th term is below 5e-18 on [-ln 2 / 2, ln 2 / 2]
  for (int term = kTerms; term > 0; --term) sum = sum * rest * (1.0 / term) + 1.0;
  const Integers exponent = ((Integers)shifted + 1023) << 52;
  return sum * (Vector)exponent;
}

// exp(digamma(x)) for x > 0. With y = x + 8, digamma(x) = digamma(y) - sum over k < 8 of 1/(x + k), and around
// z = y - 1/2 digamma(y) = log z - sum over k of B_2k(1/2) / (2k z^2k), B the Bernoulli polynomials; z >= 7.5, so that
// the 7th term is below 5e-14. The exponential cancels the logarithm.
inline Vector exp_digamma(Vector x) {
  constexpr int kShift = 8;
  constexpr double kSeries[] = {1.0 / 24,       -7.0 / 960,    31.0 / 8064,
                                -127.0 / 30720, 511.0 / 67584, -1414477.0 / 67092480};
  Vector product = x, derivative = everywhere(1.0);  // of x (x + 1) ... ; their ratio is the sum of 1/(x + k)
  for (int k = 1; k < kShift; ++k) {
    derivative = derivative * (x + k) + product;
    product *= x + k;
  }
  const Vector z = x + (kShift - 0.5), inverse = 1.0 / (z * z);
  Vector series = {};
  for (int k = 5; k >= 0; --k) series = (series + kSeries[k]) * inverse;
  const Vector exponent = series - derivative / product;
  return z * exponential(exponent < -690.0 ? everywhere(-690.0) : exponent);
}

inline double exp_digamma(double x) { return exp_digamma(everywhere(x))[0]; }

}  // namespace

extern "C" {

// Fills in the spans and the occurrences.
void NatArListOccurrences(const Corpus* corpus, const void* source, const int64_t* offsets, const int64_t* first) {
  with_tokens(source, corpus->token_bytes,
              [&](const auto* tokens) { list_occurrences(*corpus, tokens, offsets, first); });
}

// Writes the keys of the source types from `type` on, as many whole rows as surely fit.
// Returns the first type that is left.
int64_t NatArListTypes(const Corpus* corpus, int64_t type, int64_t capacity, int64_t* keys, int64_t* filled) {
  return with_tokens(corpus->tokens, corpus->token_bytes,
                     [&](const auto* tokens) { return list_types(*corpus, tokens, type, capacity, keys, filled); });
}

// The E-step. sums: scratch, one for each target token and kLanes more. totals: feature, log-likelihood.
void NatArExpectation(const Corpus* corpus, const int64_t* keys, const int64_t* edges, const float* probability,
                      double tension, double p0, const double* scale, const double* null_probability, double* sums,
                      float* counts, double* null_counts, double* mass, double* totals) {
  const Table table{keys, edges, probability};
  const Diagonal diagonal(*corpus, tension);
  std::fill_n(sums, corpus->offsets[corpus->rows] + kLanes, 0.0);
  with_tokens(corpus->tokens, corpus->token_bytes, [&](const auto* tokens) {
    add_scores(*corpus, table, diagonal, tokens, sums);
    totals[1] = divide(*corpus, tokens, scale, p0, null_probability, sums, null_counts, mass);
    totals[0] = count(*corpus, table, diagonal, tokens, sums, counts);
  });
}

// The most probable source position; ties go to the left. sums: scratch, as above.
void NatArLinks(const Corpus* corpus, const int64_t* keys, const int64_t* edges, const float* probability,
                double tension, double unmet, double* sums, int32_t* links) {
  const Table table{keys, edges, probability};
  const Diagonal diagonal(*corpus, tension);
  const int64_t target_tokens = corpus->offsets[corpus->rows];
  std::fill_n(sums, target_tokens, 0.0);
  std::fill_n(links, target_tokens, INT32_MAX);
  with_tokens(corpus->tokens, corpus->token_bytes,
              [&](const auto* tokens) { best_links(*corpus, table, diagonal, tokens, unmet, sums, links); });
}

// The M-step, in place. With concentration 0 it is maximum likelihood.
void NatArNormalise(const Corpus* corpus, float* counts, const int64_t* edges, double concentration, double smallest) {
  for (int64_t row = 0; row < corpus->source_size; ++row) {
    const int64_t end = edges[row + 1];
    double total = 0.0;
    for (int64_t entry = edges[row]; entry < end; ++entry) total += counts[entry];
    const double divisor = concentration > 0.0 ? exp_digamma(total + concentration * (end - edges[row]))
                                               : std::max(total, smallest);
    const auto share_of = [&](Vector count) {
      const Vector share = (concentration > 0.0 ? exp_digamma(count + concentration) : count) * (1.0 / divisor);
      return __builtin_convertvector(share < smallest ? everywhere(smallest) : share, Floats);
    };
    int64_t entry = edges[row];
    for (Floats here; entry + kLanes <= end; entry += kLanes) {
      std::memcpy(&here, counts + entry, sizeof here);
      here = share_of(__builtin_convertvector(here, Vector));
      std::memcpy(counts + entry, &here, sizeof here);
    }
    for (; entry < end; ++entry) counts[entry] = share_of(everywhere(static_cast<double>(counts[entry])))[0];
  }
}

void NatArExpDigamma(const double* x, int64_t num, double* result) {
  for (int64_t i = 0; i < num; ++i) result[i] = exp_digamma(x[i]);
}

}  // extern "C"
