// As gradients.cuh says: first what is summed over the values, some at a time; then over the steps of the chunk.
#include "gradients.cuh"

// What a warp has: 16 steps, and a part of the keys.
struct KeySums {
  float of_states[2][kPart / 16][2][4];  // dy h^T, and solved h^T
  Sums<kPart / 16> of_adjoints;          // u dh^T
  Sums<kRowBlocks> pairs;                // of the first part solved u^T, of the second dy u^T
};

// dv = beta solved for 16 steps and 16 values, and the sum of solved with v.
INLINE void write_values(const GradientsShared& shared, const ValueStage& stage, const GradientsArguments& p, const Place& place,
                         int first, int column_block, float (&driven)[2], const Fragment& solved, int rows, const Seat& seat) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int step = rows * 16 + i % 2 * 8 + seat.row, block = column_block + i / 2;
    Words words;
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) words.plane[plane] = solved.at[plane][i];
    const Words v = stage.v.pair(rows * 2 + i % 2, block, seat);
    driven[i % 2] += words.low() * v.low() + words.high() * v.high();
    if (step >= place.rows || first + block * 8 >= p.sizes.value) continue;
    const Index row = (Index(place.row) * p.sizes.length + place.time + step) * p.sizes.heads + place.head;
    const float beta = shared.steps.beta[step];
    store_two(p.dv + row * p.sizes.value + first + block * 8 + seat.column, beta * words.low(), beta * words.high());
  }
}

INLINE void add_values(KeySums& sums, float (&driven)[2], const GradientsShared& shared, const ValueStage& stage,
                       const GradientsArguments& p, const Place& place, int tile, int rows, int part, int lane) {
#pragma unroll
  for (int k = 0; k < kWidth / 8; k += 2) {
    Fragment lefts[2], written;
    load_left(lefts[0], stage.dy, rows * 2, k, lane);
    load_left_transposed(lefts[1], stage.solved, k, rows * 2, lane);
    load_left_transposed(written, stage.written, k, rows * 2, lane);
    add_to<false>(sums.of_states[0], lefts[0], stage.states, k, part * (kPart / 8), lane);
    add_to<false>(sums.of_states[1], lefts[1], stage.states, k, part * (kPart / 8), lane);
    add_to<false>(sums.of_adjoints, written, stage.adjoints, k, part * (kPart / 8), lane);
    if (part == 0) add_to<false>(sums.pairs, lefts[1], stage.written, k, 0, lane);
    if (part == 1) add_to<false>(sums.pairs, lefts[0], stage.written, k, 0, lane);
    if (k * 8 / kValuePart == part) write_values(shared, stage, p, place, tile * kWidth, k, driven, lefts[1], rows, Seat(lane));
  }
  end_products(sums.of_states[0]);
  end_products(sums.of_states[1]);
  end_products(sums.of_adjoints);
  end_products(sums.pairs);
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

KERNEL void __launch_bounds__(kThreads, 1) keelback_gradients(const GRID_CONSTANT GradientsArguments p) {
  SHARED_MEMORY(GradientsShared, shared);
  const int thread = threadIdx.x, warp = uniform(thread / 32), lane = thread % 32;
  const int rows = warp % kRowBlocks, part = warp / kRowBlocks, column = part * kPart;
  const Place place(p.sizes, blockIdx.x);
  const Seat seat(lane);
  const int group = p.sizes.group_of(place.head);
  const auto start = [&](int tile) {
    if (tile < kValues / kWidth && (!kWide || thread == 0)) {
      fetch_values(shared.stages[tile % kStages], p, place, tile, shared.values[tile % kStages], thread);
    }
    close_copies();
  };
  if (!kWide || thread == 0) {
    if constexpr (kWide) {
      set_up(shared.operands);
#pragma unroll
      for (int i = 0; i < kStages; ++i) set_up(shared.values[i]);
      publish_barriers();
      expect_bytes(shared.operands, sizeof(shared.q) + sizeof(shared.k) + kStepsBytes);
    }
    fetch<kThreads>(shared.q, p.of_q, p.q, place.row, place.time, group, 0, place.rows, kKey, shared.operands, thread);
    fetch<kThreads>(shared.k, p.of_k, p.k, place.row, place.time, group, 0, place.rows, kKey, shared.operands, thread);
    fetch_numbers<kThreads, kStepsBytes / 4>(reinterpret_cast<float*>(&shared.steps),
                                             reinterpret_cast<const float*>(p.steps + place.number), shared.operands, thread);
  }
  close_copies();
#pragma unroll
  for (int i = 0; i < kStages; ++i) start(i);
  arrive_with_copies<kStages>();
  if constexpr (kWide) wait_for_bytes(shared.operands, 0);
  scale_rows_of(shared.q, shared.steps.q_factors, thread);
  scale_rows_of(shared.k, shared.steps.k_factors, thread);
  share();

  KeySums sums;
  clear(sums.of_states[0]), clear(sums.of_states[1]), clear(sums.of_adjoints), clear(sums.pairs);
  float driven[2] = {}, across = 0.0f;
#pragma unroll 1
  for (int tile = 0; tile < kValues / kWidth; ++tile) {
    if constexpr (kWide) wait_for_bytes(shared.values[tile % kStages], tile / kStages % 2);
    else arrive_with_copies<kStages - 1>();
    const ValueStage& stage = shared.stages[tile % kStages];
    across += product_of_tiles(stage.states, stage.adjoints, thread);
    add_values(sums, driven, shared, stage, p, place, tile, rows, part, lane);
    synchronize_block();
    start(tile + kStages);
  }
  wait_for_copies<0>();
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
