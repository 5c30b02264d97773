// What a chunk holds before the states that enter it are known: a block has a chunk of one head of one row.
//
// With N the scores of keys with keys before them, each times beta of the later one, T = (1 + N)^-1 is found column by
// column, by substitution in float32: powers of N would cancel where keys are alike. Then
//     erasing = -T (beta * entered k),   written = T (beta * v),   weights = scores of queries with keys up to them.
// Source: Yang et al. 2024 (arXiv 2406.06484), section 3.2, with the decays of arXiv 2412.06464.
#include "chunks.cuh"

struct InsideArguments {
  Sizes sizes;
  Sequences q, k, v;
  const StoredDecay* g;
  Index g_row, g_time, g_head;
  const StoredBeta* beta;
  Index beta_row, beta_time, beta_head;
  const unsigned char* reset;
  Index reset_row, reset_time;
  struct {
    float scale, nothing;
  } options;
  ChunkSteps* steps;  // (row, head, chunk), as all that follows
  Stored *erasing;    // (step, key)
  Stored *written;    // (value, step)
  Stored *weights;    // (step, step)
  Stored *inverse;    // T, or null
};

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kParts = kWarps / kRowBlocks;  // of the keys, for the warps with the same steps
constexpr int kPart = kKey / kParts;
static_assert(kWarps % kRowBlocks == 0 && kParts >= 2 && kPart % 16 == 0, "warps have whole tiles");
// Decays below 2^-150 are zero; as logs of this size they do not spoil what is added to them.
constexpr double kSmallestLog = -150.0;
constexpr float kNormEpsilon = 1e-6f;

struct InsideShared {
  Tile<kChunk, kKey> q, k;
  Tile<kChunk, kValues> v;
  Tile<kChunk, kChunk> of_values, of_keys;  // T times beta, and what k is multiplied by, down its columns
  float lower[kChunk][kChunk];
  ChunkSteps steps;
};

EXPORTED_SIZE(inside_shared_bytes, InsideShared)

// All but what depends on q and k, by a warp.
INLINE void find_steps(ChunkSteps& steps, const InsideArguments& p, const Place& place, int lane) {
  constexpr int kSteps = kChunk / 32;
  double logs[kSteps], sum = 0.0;
  int epochs[kSteps], count = 0;
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    const int step = lane * kSteps + i, time = place.time + step;
    const bool present = step < place.rows;
    double log = 0.0;
    if (present) log = static_cast<double>(widen(p.g[place.row * p.g_row + time * p.g_time + place.head * p.g_head])) * kLog2OfE;
    sum += log < kSmallestLog ? kSmallestLog : log;
    if constexpr (kHasReset) count += present && p.reset[place.row * p.reset_row + time * p.reset_time];
    logs[i] = sum, epochs[i] = count;
    steps.beta[step] = present ? widen(p.beta[place.row * p.beta_row + time * p.beta_time + place.head * p.beta_head]) : 0.0f;
  }
#pragma unroll
  for (int lanes = 1; lanes < 32; lanes *= 2) {
    const double before = from_lower_lane(sum, lanes);
    const int before_count = from_lower_lane(count, lanes);
    if (lane >= lanes) sum += before, count += before_count;
  }
  double before = from_lower_lane(sum, 1);
  int before_count = from_lower_lane(count, 1);
  if (lane == 0) before = 0.0, before_count = 0;
  const double all = from_lane(sum, 31);
  const int last = from_lane(count, 31);
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    const int step = lane * kSteps + i, epoch = epochs[i] + before_count;
    const double log = logs[i] + before;
    steps.logs[step] = log, steps.epochs[step] = epoch;
    steps.entering[step] = epoch == 0 ? power_of_two(static_cast<float>(log)) : 0.0f;
    steps.leaving[step] = epoch == last ? power_of_two(static_cast<float>(all - log)) : 0.0f;
  }
}

// What the rows of a tile are multiplied by: one over their norms, if they are to be normalised. Four lanes have a row.
template <typename Rows>
INLINE float factor_of_row(const Rows& tile, int row, int quarter) {
  if constexpr (!kNormalise) return 1.0f;
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kKey / 32; ++i) {
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      Words words;
#pragma unroll
      for (int p = 0; p < kPlanes; ++p) {
        words.plane[p] = *reinterpret_cast<const unsigned*>(tile.row(p, row / 8, i * 4 + quarter, row % 8) + pair * 2);
      }
      sum += words.low() * words.low() + words.high() * words.high();
    }
  }
  return 1.0f / sqrtf(sum_of_quad(sum) + kNormEpsilon);
}

INLINE void find_factors(InsideShared& shared, float scale, int thread) {
  static_assert(kKey % 32 == 0, "four lanes have the same of a row");
#pragma unroll
  for (int i = 0; i < 2 * kChunk * 4 / kThreads; ++i) {
    const int piece = i * kThreads + thread, row = piece / 4 % kChunk;
    if (piece / 4 < kChunk) {
      const float factor = factor_of_row(shared.q, row, piece % 4) * scale;
      if (piece % 4 == 0) shared.steps.q_factors[row] = factor;
    } else {
      const float factor = factor_of_row(shared.k, row, piece % 4);
      if (piece % 4 == 0) shared.steps.k_factors[row] = factor;
    }
  }
}

// Scores of 16 steps with those up to them: of keys, to `lower`; of queries, to global memory.
INLINE void find_scores(InsideShared& shared, Stored* weights, bool of_queries, int rows, int lane) {
  Sums<kRowBlocks> scores;
  clear(scores);
#pragma unroll
  for (int k = 0; k < kKey / 8; k += 2) {
    Fragment left;
    if (of_queries) load_left(left, shared.q, rows * 2, k, lane);
    else load_left(left, shared.k, rows * 2, k, lane);
#pragma unroll
    for (int n = 0; n < kRowBlocks; ++n) {
      if (n > rows) continue;
      Fragment right;
      load_right_transposed(right, shared.k, n * 2, k, lane);
      multiply(scores[n], left, right);
    }
  }
  const Seat seat(lane);
  const ChunkSteps& steps = shared.steps;
#pragma unroll
  for (int n = 0; n < kRowBlocks * 2; ++n)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int to = rows * 16 + i * 8 + seat.row, from = n * 8 + seat.column;
      const float of_row = of_queries ? steps.q_factors[to] : steps.k_factors[to] * steps.beta[to];
      float pair[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const bool within = of_queries ? from + j <= to : from + j < to;
        const float score = scores[n / 2][n % 2][i * 2 + j] * steps.k_factors[from + j] * of_row;
        pair[j] = within ? score * steps.decay(to, from + j) : 0.0f;
      }
      if (of_queries) store_pair<kChunk>(weights, rows * 2 + i, n, seat, pair[0], pair[1]);
      else *reinterpret_cast<Pack<float, 2>*>(&shared.lower[to][from]) = Pack<float, 2>{{pair[0], pair[1]}};
    }
}

template <int kRows, int kColumns>
INLINE void set_number(Tile<kRows, kColumns>& tile, int row, int column, float x) {
  const Words words = split(x, 0.0f);
#pragma unroll
  for (int p = 0; p < kPlanes; ++p) {
    const_cast<unsigned short*>(tile.row(p, row / 8, column / 8, row % 8))[column % 8] = static_cast<unsigned short>(words.plane[p]);
  }
}

// A column of T: row i is that of the unit matrix less those before it, by what row i of `lower` holds.
INLINE void find_column(InsideShared& shared, Stored* inverse, int column) {
  const ChunkSteps& steps = shared.steps;
  const float of_value = steps.beta[column], of_key = of_value * steps.k_factors[column] * steps.entering[column];
  float x[kChunk];
#pragma unroll
  for (int i = 0; i < kChunk; ++i) x[i] = 0.0f;
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    float sums[4] = {};
#pragma unroll
    for (int j = 0; j < (i + 3) / 4; ++j) {
      const Pack<float, 4> four = *reinterpret_cast<const Pack<float, 4>*>(&shared.lower[i][j * 4]);
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        if (j * 4 + m < i) sums[m] += four.at[m] * x[j * 4 + m];
      }
    }
    const float sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    x[i] = i == column ? 1.0f : i > column ? -sum : 0.0f;
    set_number(shared.of_values, i, column, x[i] * of_value);
    set_number(shared.of_keys, i, column, x[i] * of_key);
    if (inverse) store(inverse + ((i / 8 * (kChunk / 8) + column / 8) * 8 + i % 8) * 8 + column % 8, x[i]);
  }
}

KERNEL void __launch_bounds__(kThreads, kBlocksPerProcessor) keelback_inside(const InsideArguments p) {
  SHARED_MEMORY(InsideShared, shared);
  const int thread = threadIdx.x, warp = uniform(thread / 32), lane = thread % 32;
  const Place place(p.sizes, blockIdx.x);
  const int group = p.sizes.group_of(place.head);
  copy_rows<kThreads>(shared.q, p.q.of(place.row, place.time, group), p.q.time, place.rows, kKey, thread);
  copy_rows<kThreads>(shared.k, p.k.of(place.row, place.time, group), p.k.time, place.rows, kKey, thread);
  copy_rows<kThreads>(shared.v, p.v.of(place.row, place.time, place.head), p.v.time, place.rows, p.sizes.value, thread);
  close_copies();
  if (warp == 0) find_steps(shared.steps, p, place, lane);
  arrive_with_copies<0>();
  find_factors(shared, p.options.scale, thread);
  synchronize_block();
  Stored* weights = p.weights + place.number * (kChunk * kChunk);
  if (warp < 2 * kRowBlocks) find_scores(shared, weights, warp >= kRowBlocks, warp % kRowBlocks, lane);
  for (int i = thread; i < kChunk; i += kThreads) {
    shared.steps.entered_q[i] = shared.steps.entering[i] * shared.steps.q_factors[i];
    shared.steps.left_k[i] = shared.steps.leaving[i] * shared.steps.k_factors[i];
  }
  synchronize_block();
  if (thread < kChunk) {
    find_column(shared, p.inverse ? p.inverse + place.number * (kChunk * kChunk) : nullptr, thread);
  } else {
    const auto from = reinterpret_cast<const Pack<unsigned, 4>*>(&shared.steps);
    auto to = reinterpret_cast<Pack<unsigned, 4>*>(p.steps + place.number);
    for (int i = thread - kChunk; i < kStepsBytes / 16; i += kThreads - kChunk) to[i] = from[i];
  }
  synchronize_block();

  // Written, (value, step) = v^T (T beta)^T: only steps that are not before those that are added up.
#pragma unroll 1
  for (int block = warp; block < kValues / 16; block += kWarps) {
    Sums<kRowBlocks> sums;
    clear(sums);
#pragma unroll
    for (int k = 0; k < kRowBlocks; ++k) {
      Fragment left;
      load_left_transposed(left, shared.v, k * 2, block * 2, lane);
#pragma unroll
      for (int n = k; n < kRowBlocks; ++n) {
        Fragment right;
        load_right_transposed(right, shared.of_values, n * 2, k * 2, lane);
        multiply(sums[n], left, right);
      }
    }
    store_blocks<kChunk>(p.written + place.number * (kValues * kChunk), block * 2, 0, sums, lane);
  }
  const int rows = warp % kRowBlocks, part = warp / kRowBlocks;
  Sums<kPart / 16> sums;
  clear(sums);
#pragma unroll
  for (int k = 0; k < kRowBlocks; ++k) {
    if (k > rows) continue;
    Fragment left;
    load_left(left, shared.of_keys, rows * 2, k * 2, lane);
    add_product<false>(sums, left, shared.k, k * 2, part * (kPart / 8), lane);
  }
  scale_rows_of(sums, -1.0f, -1.0f);
  store_blocks<kKey>(p.erasing + place.number * (kChunk * kKey), rows * 2, part * (kPart / 8), sums, lane);
}
