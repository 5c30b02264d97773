// What a chunk holds before the states that enter it are known: a block has a chunk of one head of one row.
//
// With N the scores of keys with keys before them, each times beta of the later one, T = (1 + N)^-1 is found in float32 by
// substitution, block by block: powers of N would cancel where keys are alike. Then
//     erasing = -T (beta * entered k),   written = T (beta * v),   weights = scores of queries with keys up to them.
// Source: Yang et al. 2024 (arXiv 2406.06484), section 3.2, with the decays of arXiv 2412.06464.
#include "chunks.cuh"

struct InsideArguments {
  TensorMap of_q, of_k, of_v;
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

// Rows of floats, which begin in different banks.
using Rows = float[kChunk][kChunk + 4];

struct InsideShared {
  Operand<kChunk, kKey> k;
  Operand<kChunk, kValues> v;
  union {  // one after the other
    Operand<kChunk, kKey> q;
    Rows lower;
    struct {
      Tile<kChunk, kChunk> of_values, of_keys;  // T times beta, and what k is multiplied by, down its columns
    };
  };
  Rows inverse;
  ChunkSteps steps;
  CopyBarrier full;
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
INLINE float factor_of_row(const Operand<kChunk, kKey>& tile, int row, int quarter) {
  if constexpr (!kNormalise) return 1.0f;
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kKey / 32; ++i) {
    Pack<unsigned, 4> pieces[kPlanes];
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) {
      pieces[p] = *reinterpret_cast<const Pack<unsigned, 4>*>(tile.row(p, row / 8, i * 4 + quarter, row % 8));
    }
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      Words words;
#pragma unroll
      for (int p = 0; p < kPlanes; ++p) words.plane[p] = pieces[p].at[pair];
      sum += words.low() * words.low() + words.high() * words.high();
    }
  }
  return 1.0f / sqrtf(sum_of_quad(sum) + kNormEpsilon);
}

// By all warps but the first, which finds the steps meanwhile.
INLINE void find_factors(InsideShared& shared, float scale, int thread) {
  static_assert(kKey % 32 == 0, "four lanes have the same of a row");
#pragma unroll 1
  for (int piece = thread - 32; piece < 2 * kChunk * 4; piece += kThreads - 32) {
    const int row = piece / 4 % kChunk;
    if (piece / 4 < kChunk) {
      const float factor = factor_of_row(shared.q, row, piece % 4) * scale;
      if (piece % 4 == 0) shared.steps.q_factors[row] = factor;
    } else {
      const float factor = factor_of_row(shared.k, row, piece % 4);
      if (piece % 4 == 0) shared.steps.k_factors[row] = factor;
    }
  }
}

// Scores of 16 steps with those up to them, of keys or queries, before they are multiplied by what belongs to the steps.
INLINE void find_scores(Sums<kRowBlocks>& scores, const InsideShared& shared, bool of_queries, int rows, int lane) {
  clear(scores);
#pragma unroll
  for (int k = 0; k < kKey / 8; k += 2) {
    Fragment left;
    if (of_queries) load_left(left, shared.q, rows * 2, k, lane);
    else load_left(left, shared.k, rows * 2, k, lane);
    add_to<true>(scores, left, shared.k, k, 0, lane);
  }
  end_products(scores);
}

// These, those of keys to `lower`, of queries to global memory.
INLINE void keep_scores(InsideShared& shared, Stored* weights, const Sums<kRowBlocks>& scores, bool of_queries, int rows, int lane) {
  const Seat seat(lane);
  const ChunkSteps& steps = shared.steps;
  const LaneSteps own(steps, rows, seat);
  float of_rows[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int to = rows * 16 + i * 8 + seat.row;
    of_rows[i] = of_queries ? steps.q_factors[to] : steps.k_factors[to] * steps.beta[to];
  }
#pragma unroll
  for (int n = 0; n < kRowBlocks * 2; ++n) {
    const int from = n * 8 + seat.column;
    const auto factors = *reinterpret_cast<const Pack<float, 2>*>(&steps.k_factors[from]);
    float decays[2][2];
    own.find_decays(decays, steps, from);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int to = rows * 16 + i * 8 + seat.row;
      float pair[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const bool within = from + j < to + of_queries;
        pair[j] = within ? scores[n / 2][n % 2][i * 2 + j] * factors.at[j] * of_rows[i] * decays[i][j] : 0.0f;
      }
      if (of_queries) store_pair<kChunk>(weights, rows * 2 + i, n, seat, pair[0], pair[1]);
      else *reinterpret_cast<Pack<float, 2>*>(&shared.lower[to][from]) = Pack<float, 2>{{pair[0], pair[1]}};
    }
  }
}

// The blocks of T on the diagonal: a thread has a column of 16, whose rows are those of the unit matrix less those before
// them, by what a row of `lower` holds.
INLINE void find_diagonal(InsideShared& shared, int thread) {
  const int first = thread / 16 * 16, column = thread % 16;
  float x[16];
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    float sum = i == column ? 1.0f : 0.0f;
#pragma unroll
    for (int j = 0; j < (i + 3) / 4; ++j) {
      const Pack<float, 4> four = *reinterpret_cast<const Pack<float, 4>*>(&shared.lower[first + i][first + j * 4]);
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        if (j * 4 + m < i) sum -= four.at[m] * x[j * 4 + m];
      }
    }
    x[i] = i < column ? 0.0f : sum;
    shared.inverse[first + i][first + column] = x[i];
  }
}

// to (kWidth, kWidth) = sign left right, for as many blocks as there are pairs of that width on the diagonal; a thread has
// four columns of a row. One factor is an inverse, of which what lies above its blocks on the diagonal does not count.
template <int kWidth, bool kLeftIsInverse>
INLINE void multiply_blocks(Rows& to, int to_row, int to_column, const Rows& left, int left_row, int left_column,
                            const Rows& right, int right_row, int right_column, float sign, int thread) {
  constexpr int kPieces = kWidth * kWidth / 4;
  for (int piece = thread; piece < kChunk / (2 * kWidth) * kPieces; piece += kThreads) {
    const int first = piece / kPieces * 2 * kWidth, row = piece % kPieces / (kWidth / 4), column = piece % (kWidth / 4) * 4;
    Pack<float, 4> sums = {};
    const int begin = kLeftIsInverse ? 0 : column / 16 * 16, end = kLeftIsInverse ? row / 16 * 16 + 16 : kWidth;
#pragma unroll 4
    for (int k = begin; k < end; k += 4) {
      const auto of_left = *reinterpret_cast<const Pack<float, 4>*>(&left[first + left_row + row][first + left_column + k]);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const auto of_right = *reinterpret_cast<const Pack<float, 4>*>(&right[first + right_row + k + j][first + right_column + column]);
#pragma unroll
        for (int i = 0; i < 4; ++i) sums.at[i] += of_left.at[j] * of_right.at[i];
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) sums.at[i] *= sign;
    *reinterpret_cast<Pack<float, 4>*>(&to[first + to_row + row][first + to_column + column]) = sums;
  }
}

// Two inverses on the diagonal become one of twice the width: below the first lies -second lower first. What is between
// the two products takes the place above the diagonal, where nothing is.
template <int kWidth>
INLINE void join_inverses(InsideShared& shared, int thread) {
  if constexpr (kWidth < kChunk) {
    multiply_blocks<kWidth, false>(shared.inverse, 0, kWidth, shared.lower, kWidth, 0, shared.inverse, 0, 0, 1.0f, thread);
    synchronize_block();
    multiply_blocks<kWidth, true>(shared.inverse, kWidth, 0, shared.inverse, kWidth, kWidth, shared.inverse, 0, kWidth, -1.0f, thread);
    synchronize_block();
    join_inverses<2 * kWidth>(shared, thread);
  }
}

// T as the products take it: times beta, and times what k is multiplied by, down its columns.
INLINE void keep_inverse(InsideShared& shared, Stored* inverse, int thread) {
  const ChunkSteps& steps = shared.steps;
#pragma unroll
  for (int i = 0; i < kChunk * kChunk / 2 / kThreads; ++i) {
    const int pair = i * kThreads + thread, block = pair / 32;
    const Seat seat(pair % 32);
    const int row_block = block / (kChunk / 8), column_block = block % (kChunk / 8);
    const int row = row_block * 8 + seat.row, column = column_block * 8 + seat.column;
    const Pack<float, 2> two = *reinterpret_cast<const Pack<float, 2>*>(&shared.inverse[row][column]);
    const float low = column <= row ? two.at[0] : 0.0f, high = column < row ? two.at[1] : 0.0f;
    const float beta[2] = {steps.beta[column], steps.beta[column + 1]};
    shared.of_values.set(row_block, column_block, seat, split(low * beta[0], high * beta[1]));
    const float keys[2] = {steps.k_factors[column] * steps.entering[column], steps.k_factors[column + 1] * steps.entering[column + 1]};
    shared.of_keys.set(row_block, column_block, seat, split(low * beta[0] * keys[0], high * beta[1] * keys[1]));
    if (inverse) store_pair<kChunk>(inverse, row_block, column_block, seat, low, high);
  }
}

KERNEL void __launch_bounds__(kThreads, kBlocksPerProcessor) keelback_inside(const GRID_CONSTANT InsideArguments p) {
  SHARED_MEMORY(InsideShared, shared);
  const int thread = threadIdx.x, warp = uniform(thread / 32), lane = thread % 32;
  const Place place(p.sizes, blockIdx.x);
  const int group = p.sizes.group_of(place.head);
  if (!kWide || thread == 0) {
    if constexpr (kWide) {
      set_up(shared.full);
      publish_barriers();
      expect_bytes(shared.full, sizeof(shared.q) + sizeof(shared.k) + sizeof(shared.v));
    }
    fetch<kThreads>(shared.k, p.of_k, p.k, place.row, place.time, group, 0, place.rows, kKey, shared.full, thread);
    fetch<kThreads>(shared.q, p.of_q, p.q, place.row, place.time, group, 0, place.rows, kKey, shared.full, thread);
    fetch<kThreads>(shared.v, p.of_v, p.v, place.row, place.time, place.head, 0, place.rows, p.sizes.value, shared.full, thread);
  }
  if constexpr (kWide) {
    synchronize_block();
    if (warp > 0) wait_for_bytes(shared.full, 0);
  } else {
    close_copies();
    arrive_with_copies<0>();
  }
  if (warp == 0) find_steps(shared.steps, p, place, lane);
  if (warp > 0) find_factors(shared, p.options.scale, thread);
  synchronize_block();
  if constexpr (kWide) wait_for_bytes(shared.full, 0);
  const bool scores_of_queries = warp >= kRowBlocks, scores_for = warp < 2 * kRowBlocks;
  Sums<kRowBlocks> scores;
  if (scores_for) find_scores(scores, shared, scores_of_queries, warp % kRowBlocks, lane);
  for (int i = thread; i < kChunk; i += kThreads) {
    shared.steps.entered_q[i] = shared.steps.entering[i] * shared.steps.q_factors[i];
    shared.steps.left_k[i] = shared.steps.leaving[i] * shared.steps.k_factors[i];
  }
  synchronize_block();
  Stored* weights = p.weights + place.number * (kChunk * kChunk);
  if (scores_for) keep_scores(shared, weights, scores, scores_of_queries, warp % kRowBlocks, lane);
  synchronize_block();
  if (thread < kChunk) {
    find_diagonal(shared, thread);
  } else {
    const auto from = reinterpret_cast<const Pack<unsigned, 4>*>(&shared.steps);
    auto to = reinterpret_cast<Pack<unsigned, 4>*>(p.steps + place.number);
    for (int i = thread - kChunk; i < kStepsBytes / 16; i += kThreads - kChunk) to[i] = from[i];
  }
  synchronize_block();
  join_inverses<16>(shared, thread);
  keep_inverse(shared, p.inverse ? p.inverse + place.number * (kChunk * kChunk) : nullptr, thread);
  share();

  // Written, (value, step), is v^T (T beta)^T.
#pragma unroll 1
  for (int block = warp; block < kValues / 16; block += kWarps) {
    Sums<kRowBlocks> sums;
    clear(sums);
#pragma unroll
    for (int k = 0; k < kRowBlocks; ++k) {
      Fragment left;
      load_left_transposed(left, shared.v, k * 2, block * 2, lane);
      add_to<true>(sums, left, shared.of_values, k * 2, 0, lane);
    }
    end_products(sums);
    store_blocks<kChunk>(p.written + place.number * (kValues * kChunk), block * 2, 0, sums, lane);
  }
  const int rows = warp % kRowBlocks, part = warp / kRowBlocks;
  Sums<kPart / 16> sums;
  clear(sums);
#pragma unroll
  for (int k = 0; k < kRowBlocks; ++k) {
    Fragment left;
    load_left(left, shared.of_keys, rows * 2, k * 2, lane);
    add_to<false>(sums, left, shared.k, k * 2, part * (kPart / 8), lane);
  }
  end_products(sums);
  scale_rows_of(sums, -1.0f, -1.0f);
  store_blocks<kKey>(p.erasing + place.number * (kChunk * kKey), rows * 2, part * (kPart / 8), sums, lane);
}
