// As gradients.cuh says: first what is summed over the values, some at a time; then over the steps of the chunk.
#include "gradients.cuh"

struct GradientsArguments {
  TensorMap of_q, of_k, of_v, of_outputs;
  Sizes sizes;
  Sequences q, k, v, dy;
  const unsigned char* reset;
  Index reset_row, reset_time;
  struct {
    float scale, nothing;
  } options;
  const ChunkSteps* steps;  // (row, head, chunk), as what follows
  const Stored* states;     // before each chunk, (value, key)
  const Stored* adjoints;   // of those after, (value, key)
  const Stored* written;    // u, (value, step)
  const Stored* solved;     // z, (value, step)
  StoredOfGroups *dq, *dk;  // (row, time, head, key)
  Stored* dv;               // (row, time, head, value)
  StoredDecay* dg;          // (row, time, head)
  StoredBeta* dbeta;        // (row, time, head)
};

// Sums over the keys or values of a warp, of which a step's gradients are made:
enum Sum { kQueries, kRead, kWritten, kMoved, kErased, kDriven, kSums };

struct GradientsShared {
  Operand<kChunk, kKey> q, k;
  union {
    ValueStage stages[kStages];
    struct {
      Tile<kChunk, kChunk> of_keys, of_queries;
    };
  };
  ChunkSteps steps;
  float sums[kSums][kParts][kChunk];
  float across[kWarps];
  CopyBarrier operands, values[kStages];
};

EXPORTED_SIZE(gradients_shared_bytes, GradientsShared)

// The sum over a tile of the products of two.
template <int kRows, int kColumns>
INLINE float product_of_tiles(const Tile<kRows, kColumns>& left, const Tile<kRows, kColumns>& right, int thread) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kRows * kColumns / 2 / kThreads; ++i) {
    const int pair = i * kThreads + thread, block = pair / 32;
    const int row_block = block / Tile<kRows, kColumns>::kColumnBlocks, column_block = block % Tile<kRows, kColumns>::kColumnBlocks;
    const Words a = left.pair(row_block, column_block, Seat(pair % 32)), b = right.pair(row_block, column_block, Seat(pair % 32));
    sum += a.low() * b.low() + a.high() * b.high();
  }
  return sum;
}

// The products of sums (16, kPart) of a warp's steps and keys with its tile of k or q, added up over the keys: for each of
// a lane's two rows.
template <int kTiles>
INLINE void sum_rows(float (&to)[2], const float (&sums)[kTiles][2][4], const Operand<kChunk, kKey>& tile, int rows,
                     int column, const Seat& seat) {
  to[0] = to[1] = 0.0f;
#pragma unroll
  for (int n = 0; n < kTiles * 2; ++n)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const Words words = tile.pair(rows * 2 + i, column / 8 + n, seat);
      to[i] += sums[n / 2][n % 2][i * 2] * words.low() + sums[n / 2][n % 2][i * 2 + 1] * words.high();
    }
}

// The gradients of the log decays and of beta, by a warp.
INLINE void write_steps(GradientsShared& shared, const GradientsArguments& p, const Place& place, int lane) {
  constexpr int kSteps = kChunk / 32;
  float across = 0.0f;
#pragma unroll
  for (int i = 0; i < kWarps; ++i) across += shared.across[i];
  float moved = 0.0f, logs[kSteps];
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    const int step = lane * kSteps + i;
    // The last step's decay comes before what it writes.
    const float to_end = step == kChunk - 1 ? 0.0f : sum_of_parts(shared, kMoved, step);
    logs[i] = sum_of_parts(shared, kQueries, step) + sum_of_parts(shared, kRead, step) - sum_of_parts(shared, kWritten, step) - to_end;
    moved += to_end;
  }
  moved = sum_of_warp(moved);
  if (lane == 31) logs[kSteps - 1] += moved + across * shared.steps.across();
  // Sums over later steps leave what lies between.
#pragma unroll
  for (int i = kSteps - 2; i >= 0; --i) logs[i] += logs[i + 1];
  float after = logs[0];
#pragma unroll
  for (int lanes = 1; lanes < 32; lanes *= 2) {
    const float other = from_upper_lane(after, lanes);
    if (lane + lanes < 32) after += other;
  }
  after = from_upper_lane(after, 1);
  if (lane == 31) after = 0.0f;
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    const int step = lane * kSteps + i, time = place.time + step;
    if (step >= place.rows) continue;
    const Index at = (Index(place.row) * p.sizes.length + time) * p.sizes.heads + place.head;
    float dlog = logs[i] + after;
    if constexpr (kHasReset) {
      if (p.reset[place.row * p.reset_row + time * p.reset_time]) dlog = 0.0f;  // Nothing is left to decay there.
    }
    store(p.dg + at, dlog);
    store(p.dbeta + at, sum_of_parts(shared, kDriven, step) - shared.steps.entering[step] * sum_of_parts(shared, kErased, step));
  }
}

// The gradients of the scores, each times its decay, to shared memory. Those of keys with keys are -beta solved u^T; what
// such a score adds to the gradient of beta is summed up.
INLINE void keep_pairs(GradientsShared& shared, KeySums& sums, float (&driven)[2], int rows, int part, int lane) {
  const Seat seat(lane);
  Sums<kRowBlocks> scores;
  clear(scores);
  if (part == 0) {
#pragma unroll
    for (int k = 0; k < kKey / 8; k += 2) {
      Fragment left;
      load_left(left, shared.k, rows * 2, k, lane);
      add_to<true>(scores, left, shared.k, k, 0, lane);
    }
    end_products(scores);
  }
  Tile<kChunk, kChunk>& to = part ? shared.of_queries : shared.of_keys;
  const LaneSteps own(shared.steps, rows, seat);
  float factors[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) factors[i] = part ? 1.0f : -shared.steps.beta[rows * 16 + i * 8 + seat.row];
#pragma unroll
  for (int n = 0; n < kRowBlocks * 2; ++n) {
    const int from = n * 8 + seat.column;
    float decays[2][2];
    own.find_decays(decays, shared.steps, from);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int step = rows * 16 + i * 8 + seat.row;
      float pair[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const bool within = from + j < step + part;
        const float found = within ? sums.pairs[n / 2][n % 2][i * 2 + j] * decays[i][j] : 0.0f;
        pair[j] = factors[i] * found;
        driven[i] -= found * scores[n / 2][n % 2][i * 2 + j];
      }
      to.set(rows * 2 + i, n, seat, split(pair[0], pair[1]));
    }
  }
}

// Rows of a tile times what they are to be multiplied by.
INLINE void scale_rows_of(Operand<kChunk, kKey>& tile, const float* factors, int thread) {
  constexpr int kPairs = kChunk * kKey / 2;
#pragma unroll
  for (int i = 0; i < kPairs / kThreads; ++i) {
    const int pair = i * kThreads + thread, block = pair / 32, row_block = block / (kKey / 8), column_block = block % (kKey / 8);
    const Seat seat(pair % 32);
    const float factor = factors[row_block * 8 + seat.row];
    const Words words = tile.pair(row_block, column_block, seat);
    tile.set(row_block, column_block, seat, split(words.low() * factor, words.high() * factor));
  }
}

KERNEL void __launch_bounds__(kThreads, 1) keelback_gradients(const GRID_CONSTANT GradientsArguments p) {
  SHARED_MEMORY(GradientsShared, shared);
  const int thread = threadIdx.x, warp = uniform(thread / 32), lane = thread % 32;
  const int rows = warp % kRowBlocks, part = warp / kRowBlocks, column = part * kPart;
  const Place place(p.sizes, blockIdx.x);
  const Seat seat(lane);
  start_chunk(shared, p, place, thread);
  arrive_with_copies<kStages>();
  if constexpr (kWide) wait_for_bytes(shared.operands, 0);
  scale_rows_of(shared.q, shared.steps.q_factors, thread);
  scale_rows_of(shared.k, shared.steps.k_factors, thread);
  share();

  KeySums sums;
  float driven[2] = {}, across = 0.0f;
  sum_values(sums, driven, shared, p, place, rows, part, thread, [&](const ValueStage& stage) {
    across += product_of_tiles(stage.states, stage.adjoints, thread);
  });
  across = sum_of_warp(across);
  if (lane == 0) shared.across[warp] = across;
  if (part < 2) keep_pairs(shared, sums, driven, rows, part, lane);
  keep_sums(shared, kDriven, driven, part, rows, seat);
  float row_sums[2];
  sum_rows(row_sums, sums.of_states[1], shared.k, rows, column, seat);
  keep_sums(shared, kErased, row_sums, part, rows, seat);
  share();

  // From here on with q and k as they were multiplied: their gradients, part by part.
  const float* steps[2] = {&shared.steps.entering[rows * 16 + seat.row], &shared.steps.beta[rows * 16 + seat.row]};
  Sums<kPart / 16>&dq = sums.of_states[0], &dread = sums.of_states[1], &dk = sums.of_adjoints;
  scale_rows_of(dq, steps[0][0], steps[0][8]);
  scale_rows_of(dread, -steps[0][0] * steps[1][0], -steps[0][8] * steps[1][8]);
  scale_rows_of(dk, shared.steps.leaving[rows * 16 + seat.row], shared.steps.leaving[rows * 16 + seat.row + 8]);
  sum_rows(row_sums, dk, shared.k, rows, column, seat);
  keep_sums(shared, kMoved, row_sums, part, rows, seat);
  Sums<kPart / 16> dwritten;
  clear(dwritten);
#pragma unroll
  for (int k = 0; k < kRowBlocks; ++k) {
    Fragment lefts[4];
    load_left(lefts[0], shared.of_queries, rows * 2, k * 2, lane);
    load_left(lefts[1], shared.of_keys, rows * 2, k * 2, lane);
    load_left_transposed(lefts[2], shared.of_queries, k * 2, rows * 2, lane);
    load_left_transposed(lefts[3], shared.of_keys, k * 2, rows * 2, lane);
    add_to<false>(dq, lefts[0], shared.k, k * 2, column / 8, lane);
    add_to<false>(dread, lefts[1], shared.k, k * 2, column / 8, lane);
    add_to<false>(dwritten, lefts[2], shared.q, k * 2, column / 8, lane);
    add_to<false>(dwritten, lefts[3], shared.k, k * 2, column / 8, lane);
  }
  end_products(dq);
  end_products(dread);
  end_products(dwritten);
  sum_rows(row_sums, dq, shared.q, rows, column, seat);
  keep_sums(shared, kQueries, row_sums, part, rows, seat);
  sum_rows(row_sums, dread, shared.k, rows, column, seat);
  keep_sums(shared, kRead, row_sums, part, rows, seat);
  sum_rows(row_sums, dwritten, shared.k, rows, column, seat);
  keep_sums(shared, kWritten, row_sums, part, rows, seat);
  synchronize_block();
  if (warp == 0) write_steps(shared, p, place, lane);

  float along_q[2] = {}, along_k[2] = {};
  if constexpr (kNormalise) {
    const float size = p.options.scale * p.options.scale;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int step = rows * 16 + i * 8 + seat.row;
      along_q[i] = size > 0.0f ? sum_of_parts(shared, kQueries, step) / size : 0.0f;
      along_k[i] = sum_of_parts(shared, kRead, step) + sum_of_parts(shared, kWritten, step) + sum_of_parts(shared, kMoved, step);
    }
  }
#pragma unroll
  for (int i = 0; i < kPart / 2; ++i) {
    (&dk[0][0][0])[i] += (&dread[0][0][0])[i] + (&dwritten[0][0][0])[i];
  }
  write_rows(p.dq, p, place, dq, shared.q, shared.steps.q_factors, along_q, rows, column, seat);
  write_rows(p.dk, p, place, dk, shared.k, shared.steps.k_factors, along_k, rows, column, seat);
}
