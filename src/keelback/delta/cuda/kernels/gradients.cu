// As gradients.cuh says: first what is summed over the values, some at a time; then over the steps of the chunk.
#include "gradients.cuh"

// What a warp has: 16 steps, and a part of the keys.
struct KeySums {
  float of_states[2][kPart / 16][2][4];  // dy h^T, and solved h^T
  Sums<kPart / 16> of_adjoints;          // u dh^T
  Sums<kRowBlocks> pairs;                // of the first part solved u^T, of the second dy u^T
};

// solved = T^T du for 16 steps and some values, dv = beta solved, and its sum with v.
INLINE void solve(GradientsShared& shared, const ValueStage& stage, const GradientsArguments& p, const Place& place, int tile,
                  float (&driven)[2], int rows, int part, int lane) {
  const Seat seat(lane);
  Sums<kValuePart / 16> sums;
  clear(sums);
#pragma unroll
  for (int k = 0; k < kRowBlocks; ++k) {
    if (k < rows) continue;
    Fragment left;
    load_left_transposed(left, shared.inverse, k * 2, rows * 2, lane);
    add_product<true>(sums, left, stage.dwritten, k * 2, part * (kValuePart / 8), lane);
  }
  const int first = tile * kWidth + part * kValuePart;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int step = rows * 16 + i * 8 + seat.row;
    const float beta = shared.steps.beta[step];
    const Stored* v = p.v.of(place.row, place.time + step, place.head) + first + seat.column;
    Stored* dv = p.dv + ((Index(place.row) * p.sizes.length + place.time + step) * p.sizes.heads + place.head) * p.sizes.value + first + seat.column;
#pragma unroll
    for (int n = 0; n < kValuePart / 8; ++n) {
      const float low = sums[n / 2][n % 2][i * 2], high = sums[n / 2][n % 2][i * 2 + 1];
      shared.solved.set(rows * 2 + i, part * (kValuePart / 8) + n, seat, split(low, high));
      if (step >= place.rows || first + n * 8 >= p.sizes.value) continue;
      if constexpr (kHalf) {
        const unsigned word = *reinterpret_cast<const unsigned*>(v + n * 8);
        driven[i] += low * widen_low(Element(), word) + high * widen_high(Element(), word);
      } else {
        driven[i] += low * widen(v[n * 8]) + high * widen(v[n * 8 + 1]);
      }
      store_two(dv + n * 8, beta * low, beta * high);
    }
  }
}

INLINE void add_values(KeySums& sums, const GradientsShared& shared, const ValueStage& stage, int rows, int part, int lane) {
#pragma unroll
  for (int k = 0; k < kWidth / 8; k += 2) {
    Fragment lefts[2], written;
    load_left(lefts[0], stage.dy, rows * 2, k, lane);
    load_left(lefts[1], shared.solved, rows * 2, k, lane);
    load_left_transposed(written, stage.written, k, rows * 2, lane);
    add_products<false>(sums.of_states, lefts, stage.states, k, part * (kPart / 8), lane);
    add_product<false>(sums.of_adjoints, written, stage.adjoints, k, part * (kPart / 8), lane);
    if (part > 1) continue;
#pragma unroll
    for (int n = 0; n < kRowBlocks; ++n) {
      if (n > rows) continue;
      Fragment right;
      load_right(right, stage.written, k, n * 2, lane);
      multiply(sums.pairs[n], part ? lefts[0] : lefts[1], right);
    }
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
#pragma unroll
      for (int n = 0; n < kRowBlocks; ++n) {
        if (n > rows) continue;
        Fragment right;
        load_right_transposed(right, shared.k, n * 2, k, lane);
        multiply(scores[n], left, right);
      }
    }
  }
  Tile<kChunk, kChunk>& to = part ? shared.of_queries : shared.of_keys;
#pragma unroll
  for (int n = 0; n < kRowBlocks * 2; ++n)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int step = rows * 16 + i * 8 + seat.row, from = n * 8 + seat.column;
      float pair[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const bool within = part ? from + j <= step : from + j < step;
        const float found = within ? sums.pairs[n / 2][n % 2][i * 2 + j] * shared.steps.decay(step, from + j) : 0.0f;
        pair[j] = part ? found : -shared.steps.beta[step] * found;
        driven[i] -= found * scores[n / 2][n % 2][i * 2 + j];
      }
      to.set(rows * 2 + i, n, seat, split(pair[0], pair[1]));
    }
}

KERNEL void __launch_bounds__(kThreads, 1) keelback_gradients(const GradientsArguments p) {
  SHARED_MEMORY(GradientsShared, shared);
  const int thread = threadIdx.x, warp = uniform(thread / 32), lane = thread % 32;
  const int rows = warp % kRowBlocks, part = warp / kRowBlocks, column = part * kPart;
  const Place place(p.sizes, blockIdx.x);
  const Seat seat(lane);
  const int group = p.sizes.group_of(place.head);
  copy_rows<kThreads>(shared.q, p.q.of(place.row, place.time, group), p.q.time, place.rows, kKey, thread);
  copy_rows<kThreads>(shared.k, p.k.of(place.row, place.time, group), p.k.time, place.rows, kKey, thread);
  copy_blocks<kThreads>(shared.inverse, p.inverse + place.number * (kChunk * kChunk), thread);
  copy_floats<kThreads, kStepsBytes / 4>(reinterpret_cast<float*>(&shared.steps), reinterpret_cast<const float*>(p.steps + place.number), thread);
  const auto load = [&](int tile) {
    if (tile < kValueTiles) load_values(shared.stages[tile % kStages], p, place, tile, thread);
    close_copies();
  };
#pragma unroll
  for (int i = 0; i < kStages; ++i) load(i);
  arrive_with_copies<kStages - 1>();
  scale_tile(shared.q, shared.steps.q_factors, thread);
  scale_tile(shared.k, shared.steps.k_factors, thread);

  KeySums sums;
  clear(sums.of_states[0]), clear(sums.of_states[1]), clear(sums.of_adjoints), clear(sums.pairs);
  float driven[2] = {}, across = 0.0f;
#pragma unroll 1
  for (int tile = 0; tile < kValueTiles; ++tile) {
    arrive_with_copies<kStages - 1>();
    const ValueStage& stage = shared.stages[tile % kStages];
    solve(shared, stage, p, place, tile, driven, rows, part, lane);
    across += product_of_tiles(stage.states, stage.adjoints, thread);
    synchronize_block();
    add_values(sums, shared, stage, rows, part, lane);
    synchronize_block();
    load(tile + kStages);
  }
  wait_for_copies<0>();
  across = sum_of_warp(across);
  if (lane == 0) shared.across[warp] = across;
  if (part < 2) keep_pairs(shared, sums, driven, rows, part, lane);
  keep_sums(shared, kDriven, driven, part, rows, seat);
  float row_sums[2];
  sum_rows(row_sums, sums.of_states[1], shared.k, rows, column, seat);
  keep_sums(shared, kErased, row_sums, part, rows, seat);
  synchronize_block();

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
    Fragment left;
    if (k <= rows) {
      load_left(left, shared.of_queries, rows * 2, k * 2, lane);
      add_product<false>(dq, left, shared.k, k * 2, column / 8, lane);
      load_left(left, shared.of_keys, rows * 2, k * 2, lane);
      add_product<false>(dread, left, shared.k, k * 2, column / 8, lane);
    }
    if (k >= rows) {
      load_left_transposed(left, shared.of_queries, k * 2, rows * 2, lane);
      add_product<false>(dwritten, left, shared.q, k * 2, column / 8, lane);
      load_left_transposed(left, shared.of_keys, k * 2, rows * 2, lane);
      add_product<false>(dwritten, left, shared.k, k * 2, column / 8, lane);
    }
  }
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
