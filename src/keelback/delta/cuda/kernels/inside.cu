// What a chunk holds before the states that enter it are known: a block has a chunk of one head of one row.
//
// With N the scores of keys with keys before them, each times beta of the later one, T = (1 + N)^-1 is found in float32 by
// substitution, block by block: powers of N would cancel where keys are alike. With h the states, what the chunk writes is
//     u = solver (v - entered k h),   solver = T beta,
// and weights are the scores of queries with keys up to them. For the gradients there is also T.
// Source: Yang et al. 2024 (arXiv 2406.06484), section 3.2, with the decays of arXiv 2412.06464.
#include "norms.cuh"
#include "triangles.cuh"

struct InsideArguments {
  TensorMap of_q, of_k;
  Sizes sizes;
  Sequences q, k;
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
  Stored* solver;     // (step, step)
  Stored* weights;    // (step, step)
  Stored* inverse;    // T, (step, step), for the gradients
};

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
// A warp has the scores of 16 steps with all of the chunk or, where there are more warps, with a share of it.
constexpr int kShares = kWarps / kRowBlocks;
constexpr int kShare = kRowBlocks / kShares;  // in 16s
static_assert(kWarps % kRowBlocks == 0 && kRowBlocks % kShares == 0, "all warps have as many");
// Decays below 2^-150 are zero; as logs of this size they do not spoil what is added to them.
constexpr double kSmallestLog = -150.0;

struct InsideShared {
  union {  // one after the other
    struct {
      Operand<kChunk, kKey> k, q;
    };
    struct {
      Rows lower, inverse;
    };
  };
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
    steps.logs[step].set(log), steps.epochs[step] = epoch;
    steps.entering[step] = epoch == 0 ? power_of_two(static_cast<float>(log)) : 0.0f;
    steps.leaving[step] = epoch == last ? power_of_two(static_cast<float>(all - log)) : 0.0f;
  }
}

// Scores of 16 steps with a share of the steps of the chunk, before they are multiplied by what belongs to the steps.
using Scores = Sums<kShare>;

INLINE void find_scores(Scores& scores, Rows16& rows, const Operand<kChunk, kKey>& keys, int share, int lane) {
  add_all<true, true>(scores, rows, keys, lane, share * kShare * 2);
  wait_for<0>(scores);
  release(rows);
}

// Those of keys to `lower`, of queries to global memory. Blocks of steps that come later hold nothing.
INLINE void keep_scores(InsideShared& shared, Stored* weights, const Scores& of_keys, const Scores& of_queries, int rows, int share,
                        int lane) {
  const Seat seat(lane);
  const ChunkSteps& steps = shared.steps;
  const LaneSteps own(steps, rows, seat);
  float key_rows[2], query_rows[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int to = rows * 16 + i * 8 + seat.row;
    key_rows[i] = steps.k_factors[to] * steps.beta[to], query_rows[i] = steps.q_factors[to];
  }
#pragma unroll
  for (int n = 0; n < kShare * 2; ++n) {
    const int block = share * kShare * 2 + n, from = block * 8 + seat.column;
    if (block > rows * 2 + 1) {
#pragma unroll
      for (int i = 0; i < 2; ++i) store_pair<kChunk>(weights, rows * 2 + i, block, seat, 0.0f, 0.0f);
      continue;
    }
    const auto factors = *reinterpret_cast<const Pack<float, 2>*>(&steps.k_factors[from]);
    float decays[2][2];
    own.find_decays(decays, steps, from);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int to = rows * 16 + i * 8 + seat.row;
      Pack<float, 2> keys, queries;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float factor = factors.at[j] * decays[i][j];
        keys.at[j] = from + j < to ? of_keys[n / 2][n % 2][i * 2 + j] * key_rows[i] * factor : 0.0f;
        queries.at[j] = from + j <= to ? of_queries[n / 2][n % 2][i * 2 + j] * query_rows[i] * factor : 0.0f;
      }
      *reinterpret_cast<Pack<float, 2>*>(&shared.lower[to][from]) = keys;
      store_pair<kChunk>(weights, rows * 2 + i, block, seat, queries.at[0], queries.at[1]);
    }
  }
}

// T times beta, down its columns, and for the gradients T.
INLINE void keep_solver(const InsideArguments& p, Index square, const InsideShared& shared, int thread) {
#pragma unroll
  for (int i = 0; i < kChunk * kChunk / 2 / kThreads; ++i) {
    const int pair = i * kThreads + thread, block = pair / 32;
    const Seat seat(pair % 32);
    const int row_block = block / (kChunk / 8), column_block = block % (kChunk / 8);
    const int row = row_block * 8 + seat.row, column = column_block * 8 + seat.column;
    const auto two = *reinterpret_cast<const Pack<float, 2>*>(&shared.inverse[row][column]);
    const auto beta = *reinterpret_cast<const Pack<float, 2>*>(&shared.steps.beta[column]);
    const float low = column <= row ? two.at[0] : 0.0f, high = column < row ? two.at[1] : 0.0f;
    store_pair<kChunk>(p.solver + square, row_block, column_block, seat, low * beta.at[0], high * beta.at[1]);
    if (kForGradients) store_pair<kChunk>(p.inverse + square, row_block, column_block, seat, low, high);
  }
}

// What is needed of the steps, by the threads from kChunk on.
INLINE void keep_steps(ChunkSteps& to, const ChunkSteps& from, int thread) {
  constexpr int kBytes = kForGradients ? kStepsBytes : 5 * kChunk * 4;  // from `entering` to `beta`
  using Sixteen = Pack<unsigned, 4>;
  auto first = reinterpret_cast<Sixteen*>(kForGradients ? static_cast<void*>(&to) : to.entering);
  const auto at = reinterpret_cast<const Sixteen*>(kForGradients ? static_cast<const void*>(&from) : from.entering);
#pragma unroll
  for (int i = 0; i < kBytes / 16; i += kThreads - kChunk) {
    if (i + thread < kBytes / 16) first[i + thread] = at[i + thread];
  }
}

KERNEL void __launch_bounds__(kThreads, kBlocksPerProcessor) keelback_inside(const GRID_CONSTANT InsideArguments p) {
  SHARED_MEMORY(InsideShared, shared);
  const int thread = threadIdx.x, warp = uniform(thread / 32), lane = thread % 32;
  // The last chunks come first: those which are walked through first are in the cache then.
  const Place place(p.sizes, p.sizes.blocks() - 1 - static_cast<int>(blockIdx.x));
  const int group = p.sizes.group_of(place.head);
  if (!kWide || thread == 0) {
    if constexpr (kWide) {
      set_up(shared.full);
      publish_barriers();
      expect_bytes(shared.full, sizeof(shared.q) + sizeof(shared.k));
    }
    fetch<kThreads>(shared.k, p.of_k, p.k, place.row, place.time, group, 0, place.rows, kKey, shared.full, thread);
    fetch<kThreads>(shared.q, p.of_q, p.q, place.row, place.time, group, 0, place.rows, kKey, shared.full, thread);
  }
  if constexpr (kWide) synchronize_block();
  else close_copies();
  if (warp == 0) find_steps(shared.steps, p, place, lane);  // It has the fewest scores.
  if constexpr (kWide) wait_for_bytes(shared.full, 0);
  else arrive_with_copies<0>();
  const int rows = warp % kRowBlocks, share = warp / kRowBlocks;
  const Seat seat(lane);
  Scores of_keys, of_queries;
  {
    Rows16 own;
    load_rows(own, shared.k, rows * 2, lane);
    find_scores(of_keys, own, shared.k, share, lane);
#pragma unroll
    for (int n = 0; n < kShare; ++n) {
      if (share * kShare + n == rows) keep_factors(shared.steps.k_factors + rows * 16, of_keys[n], 1.0f, seat);
    }
    load_rows(own, shared.q, rows * 2, lane);
    find_scores(of_queries, own, shared.k, share, lane);
    Squares squares;
    if constexpr (kNormalise) find_squares(squares, own);
    if (share == 0) keep_factors(shared.steps.q_factors + rows * 16, squares, p.options.scale, seat);
  }
  synchronize_block();
  const Index square = place.number * (kChunk * kChunk);
  keep_scores(shared, p.weights + square, of_keys, of_queries, rows, share, lane);
  if (thread < kChunk) {
    ChunkSteps& steps = shared.steps;
    steps.entered_q[thread] = steps.entering[thread] * steps.q_factors[thread];
    steps.entered_k[thread] = steps.entering[thread] * steps.k_factors[thread];
    steps.left_k[thread] = steps.leaving[thread] * steps.k_factors[thread];
  }
  synchronize_block();
  if (thread < kChunk) find_diagonal(shared.inverse, shared.lower, thread);
  else keep_steps(p.steps[place.number], shared.steps, thread - kChunk);
  synchronize_block();
  join_inverses<kThreads, 16>(shared.inverse, shared.lower, thread);
  keep_solver(p, square, shared, thread);
}
