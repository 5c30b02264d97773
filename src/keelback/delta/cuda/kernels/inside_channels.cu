// As inside.cu, with a decay per key channel: what a chunk holds before the states that enter it are known.
//
// Beside the solver, the weights and T, as there, q and k are kept times the decays from the chunk's start, and k times those
// to its end, as the walks multiply by them. Sources: those of inside.cu and of channels.cuh.
#include "channels.cuh"
#include "norms.cuh"
#include "triangles.cuh"

struct InsideChannelsArguments {
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
  ChannelSteps* steps;                     // (row, head, chunk), as all that follows
  ChannelNumbers* numbers;
  Stored *entered_q, *left_k, *entered_k;  // (step, key)
  Stored *solver, *weights;                // (step, step)
  Stored* inverse;                         // T, (step, step), for the gradients
};

constexpr int kWarps = 2 * kRowBlocks;  // half of them have queries, half keys
constexpr int kThreads = kWarps * 32;
static_assert(kColumnThreads <= kThreads, "each has two channels of 16 steps at most");

struct InsideChannelsShared {
  Operand<kChunk, kKey> k, q;
  union {  // one after the other
    Logs logs;
    // k times the decays to the end of its block, and what rounding takes from them
    struct {
      Tile<kChunk, kKey> leaving, lost;
    };
    struct {
      Rows lower, inverse;
    };
  };
  BlockDecays blocks;
  ChannelSteps steps;
  CopyBarrier full;
};

EXPORTED_SIZE(inside_channels_shared_bytes, InsideChannelsShared)

// Adds what 16 channels give the scores of 16 steps with those of their block up to them, by the differences of logs.
INLINE void add_exactly(float (&scores)[2][4], const InsideChannelsShared& shared, const Operand<kChunk, kKey>& of_later,
                        const float* factors, int rows, int channels, const Seat& seat) {
#pragma unroll 1
  for (int column = channels * 16; column < channels * 16 + 16; column += 2) {
    Pair later[2], logs[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int step = rows * 16 + i * 8 + seat.row;
      later[i] = numbers_at(of_later, step, column) * factors[step];
      logs[i] = pair_of(&shared.logs[step][column]);
    }
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const int from = n / 2 * 8 + seat.column + n % 2, step = rows * 16 + from;
      const Pair earlier = numbers_at(shared.k, step, column) * shared.steps.k_factors[step];
      const Pair before = pair_of(&shared.logs[step][column]);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (from > i * 8 + seat.row) continue;
        const Pair products = later[i] * earlier * power_of_two(logs[i] - before);
        scores[n / 2][i * 2 + n % 2] += products.at[0] + products.at[1];
      }
    }
  }
}

// A warp has every kWarps-th block of eight keys.
constexpr int kBlocksOfWarp = (kKey / 8 + kWarps - 1) / kWarps;

// In shared memory, q and k times the decays from the start of their block of steps, and k times those to its end, in the place
// of the logs; in global memory the same from the start and to the end of the chunk.
INLINE void split_decays(InsideChannelsShared& shared, const InsideChannelsArguments& p, Index number, int warp, int lane) {
  const ChannelSteps& steps = shared.steps;
  const Seat seat(lane);
  const Index place = number * (kChunk * kKey) + warp * kBlockNumbers + lane * 2;
  Stored *entered_k = p.entered_k + place, *entered_q = p.entered_q + place, *left_k = p.left_k + place;
  Pair before[kBlocksOfWarp], after[kBlocksOfWarp][kRowBlocks];
  Words leaving[kBlocksOfWarp][kChunk / 8], lost[kBlocksOfWarp][kChunk / 8];
#pragma unroll
  for (int i = 0; i < kBlocksOfWarp; ++i) {
    const int block = i * kWarps + warp, column = block * 8 + seat.column;
    if (block >= kKey / 8) continue;
    before[i] = after[i][kRowBlocks - 1] = {{1.0f, 1.0f}};
#pragma unroll
    for (int rows = kRowBlocks - 1; rows > 0; --rows) after[i][rows - 1] = after[i][rows] * pair_of(&shared.blocks.across[rows][column]);
  }
#pragma unroll
  for (int row = 0; row < kChunk / 8; ++row) {
    const int step = row * 8 + seat.row, rows = row / 2;
    const float of_q = steps.q_factors[step], of_k = steps.k_factors[step];
    const float reached = steps.entered(step) ? 1.0f : 0.0f, reaching = steps.leaves(step) ? 1.0f : 0.0f;
#pragma unroll
    for (int i = 0; i < kBlocksOfWarp; ++i) {
      const int block = i * kWarps + warp, column = block * 8 + seat.column;
      if (block >= kKey / 8) continue;
      const Pair log = pair_of(&shared.logs[step][column]), all = pair_of(&shared.logs[rows * 16 + 15][column]);
      const Pair k = numbers_of(shared.k, row, block, seat) * of_k, entering = power_of_two(log), k_here = k * entering;
      const Pair q_here = numbers_of(shared.q, row, block, seat) * of_q * entering, left = k * power_of_two(all - log);
      set_numbers(shared.k, row, block, seat, k_here);
      set_numbers(shared.q, row, block, seat, q_here);
      leaving[i][row] = split(left.at[0], left.at[1]);
      lost[i][row] = lost_by(leaving[i][row], left.at[0], left.at[1]);
      constexpr int kRow = kKey / 8 * kBlockNumbers;
      Pair from_start = before[i], to_end = after[i][rows];
      if constexpr (kHasReset) from_start = from_start * reached, to_end = to_end * reaching;
      store_numbers(entered_k + row * kRow + i * kWarps * kBlockNumbers, k_here * from_start);
      store_numbers(entered_q + row * kRow + i * kWarps * kBlockNumbers, q_here * from_start);
      store_numbers(left_k + row * kRow + i * kWarps * kBlockNumbers, left * to_end);
      if (row % 2) before[i] = before[i] * pair_of(&shared.blocks.across[rows][column]);
    }
  }
  ChannelNumbers& numbers = p.numbers[number];
  const bool whole = steps.entered(kChunk - 1);
#pragma unroll
  for (int i = 0; i < kBlocksOfWarp; ++i) {
    const int block = i * kWarps + warp;
    if (block < kKey / 8 && seat.row == 0) keep_pair(&numbers.across[block * 8 + seat.column], whole ? before[i] : Pair{});
  }
  if (warp * 32 + lane < kChunk) numbers.beta[warp * 32 + lane] = steps.beta[warp * 32 + lane];
  synchronize_block();
#pragma unroll
  for (int i = 0; i < kBlocksOfWarp; ++i)
#pragma unroll
    for (int row = 0; row < kChunk / 8; ++row) {
      if (i * kWarps + warp >= kKey / 8) continue;
      shared.leaving.set(row, i * kWarps + warp, seat, leaving[i][row]);
      shared.lost.set(row, i * kWarps + warp, seat, lost[i][row]);
    }
}

// The scores of 16 steps with those of their block and of `back` blocks before it: of keys or queries, without beta.
INLINE void find_scores(Sums<kRowBlocks>& scores, const InsideChannelsShared& shared, bool of_queries, int rows, int lane) {
  const Seat seat(lane);
#pragma unroll
  for (int channels = 0; channels < kKey / 16; ++channels) {
    Fragment left, right;
    if (of_queries) load_left(left, shared.q, rows * 2, channels * 2, lane);
    else load_left(left, shared.k, rows * 2, channels * 2, lane);
    if (!shared.blocks.exact[rows][channels]) {
      Fragment risen = left, rest;
      scale_columns_in_two(risen, rest, shared.blocks.rising[rows] + channels * 16, seat);
      load_right_transposed(right, shared.lost, rows * 2, channels * 2, lane);
      multiply(scores[0], risen, right);
      load_right_transposed(right, shared.leaving, rows * 2, channels * 2, lane);
      multiply(scores[0], rest, right);
      multiply(scores[0], risen, right);
    }
#pragma unroll
    for (int back = 1; back < kRowBlocks; ++back) {
      if (back > rows) break;
      load_right_transposed(right, shared.leaving, (rows - back) * 2, channels * 2, lane);
      multiply(scores[back], left, right);
      if (back < rows) scale_columns(left, shared.blocks.across[rows - back], channels * 16, seat);
    }
  }
}

// These, those of keys times beta to `lower`, of queries to global memory, with zeros after each step.
template <bool kOfQueries>
INLINE void keep_scores(InsideChannelsShared& shared, Stored* weights, const Sums<kRowBlocks>& scores, int rows, int lane) {
  const Seat seat(lane);
  const ChannelSteps& steps = shared.steps;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = i * 8 + seat.row, to = rows * 16 + row, epoch = kHasReset ? steps.epochs[to] : 0;
    const float beta = kOfQueries ? 1.0f : steps.beta[to];
#pragma unroll
    for (int back = 0; back < kRowBlocks; ++back) {
      if (back > rows) break;
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const int column = n * 8 + seat.column, from = (rows - back) * 16 + column;
        Pair pair = pair_in(scores[back], n, i) * beta;
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          bool within = back > 0 || column + j < row + kOfQueries;
          if constexpr (kHasReset) within = within & (steps.epochs[from + j] == epoch);
          pair.at[j] = within ? pair.at[j] : 0.0f;
        }
        if constexpr (kOfQueries) store_pair<kChunk>(weights, rows * 2 + i, (rows - back) * 2 + n, seat, pair.at[0], pair.at[1]);
        else keep_pair(&shared.lower[to][from], pair);
      }
    }
  }
  if constexpr (kOfQueries) {
    for (int n = (rows + 1) * 2; n < kRowBlocks * 2; ++n) {
      for (int i = 0; i < 2; ++i) store_pair<kChunk>(weights, rows * 2 + i, n, seat, 0.0f, 0.0f);
    }
  }
}

// T times beta, down its columns, and for the gradients T; a warp has eight columns.
static_assert(kWarps == kChunk / 8, "warps have as many columns");

INLINE void keep_solver(const InsideChannelsArguments& p, Index square, const InsideChannelsShared& shared, int warp, int lane) {
  const Seat seat(lane);
  const int column = warp * 8 + seat.column;
  const Pair beta = pair_of(&shared.steps.beta[column]);
  Stored *solver = p.solver + square + warp * kBlockNumbers + lane * 2, *inverse = p.inverse + square + warp * kBlockNumbers + lane * 2;
#pragma unroll
  for (int i = 0; i < kChunk / 8; ++i) {
    const int row = i * 8 + seat.row;
    const Pair two = pair_of(&shared.inverse[row][column]);
    const Pair found = {{column <= row ? two.at[0] : 0.0f, column < row ? two.at[1] : 0.0f}};
    store_numbers(solver + i * (kChunk / 8) * kBlockNumbers, found * beta);
    if constexpr (kForGradients) store_numbers(inverse + i * (kChunk / 8) * kBlockNumbers, found);
  }
}

KERNEL void __launch_bounds__(kThreads, kBlocksPerProcessor) keelback_inside_channels(const GRID_CONSTANT InsideChannelsArguments p) {
  SHARED_MEMORY(InsideChannelsShared, shared);
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
  close_copies();
  find_logs(shared.logs, shared.blocks, p, place, thread);
  if (warp == 0) find_rows(shared.steps, p, place, lane);
  arrive_with_copies<0>();
  if constexpr (kWide) wait_for_bytes(shared.full, 0);
  const int rows = warp % kRowBlocks, part = warp / kRowBlocks;
  const bool of_queries = part == 1;
  Squares squares;
  if constexpr (kNormalise) {
    Rows16 own;
    load_rows(own, of_queries ? shared.q : shared.k, rows * 2, lane);
    find_squares(squares, own);
  }
  float* factors = of_queries ? shared.steps.q_factors : shared.steps.k_factors;
  keep_factors(factors + rows * 16, squares, of_queries ? p.options.scale : 1.0f, Seat(lane));
  synchronize_block();

  Sums<kRowBlocks> scores;
  clear(scores);
#pragma unroll 1
  for (int channels = 0; channels < kKey / 16; ++channels) {
    if (!shared.blocks.exact[rows][channels]) continue;
    if (of_queries) add_exactly(scores[0], shared, shared.q, shared.steps.q_factors, rows, channels, Seat(lane));
    else add_exactly(scores[0], shared, shared.k, shared.steps.k_factors, rows, channels, Seat(lane));
  }
  synchronize_block();
  split_decays(shared, p, place.number, warp % kWarps, lane);
  synchronize_block();
  find_scores(scores, shared, of_queries, rows, lane);
  synchronize_block();
  const Index square = place.number * (kChunk * kChunk);
  if (of_queries) keep_scores<true>(shared, p.weights + square, scores, rows, lane);
  else keep_scores<false>(shared, p.weights + square, scores, rows, lane);
  synchronize_block();
  if (thread < kChunk) {
    find_diagonal(shared.inverse, shared.lower, thread);
  } else if constexpr (kForGradients) {
    const auto from = reinterpret_cast<const Pack<unsigned, 4>*>(&shared.steps);
    auto to = reinterpret_cast<Pack<unsigned, 4>*>(p.steps + place.number);
    for (int i = thread - kChunk; i < kChannelStepsBytes / 16; i += kThreads - kChunk) to[i] = from[i];
  }
  synchronize_block();
  join_inverses<kThreads, 16>(shared.inverse, shared.lower, thread);
  keep_solver(p, square, shared, warp % kWarps, lane);
}
