// As gradients.cu, with a decay per key channel.
//
// What pairs of steps add is summed up block by block of 16 steps, and decayed on the way (channels.cuh). For the log decays
// each sum is multiplied by what the products had, rounded as there: what a pair adds at its later step and takes away at
// its earlier one must cancel at all steps before both.
#include "channels.cuh"
#include "gradients.cuh"

struct GradientsChannelsArguments {
  TensorMap of_q, of_k, of_v, of_outputs;
  Sizes sizes;
  Sequences q, k, v, dy;
  const StoredDecay* g;
  Index g_row, g_time, g_head;
  const unsigned char* reset;
  Index reset_row, reset_time;
  struct {
    float scale, nothing;
  } options;
  const ChannelSteps* steps;  // (row, head, chunk), as what follows
  const Stored* states;       // before each chunk, (value, key)
  const Stored* adjoints;     // of those after, (value, key)
  const Stored* written;      // u, (value, step)
  const Stored* solved;       // z, (value, step)
  StoredOfGroups *dq, *dk;    // (row, time, head, key)
  Stored* dv;                 // (row, time, head, value)
  StoredDecay* dg;            // (row, time, head, key)
  StoredBeta* dbeta;          // (row, time, head)
};

// Sums over the keys or values of a warp, of which a step's gradients are made:
enum Sum { kQueries, kKeys, kErased, kDriven, kSums };

struct GradientsChannelsShared {
  Operand<kChunk, kKey> q, k;
  union {
    ValueStage stages[kStages];
    struct {
      Tile<kChunk, kChunk> of_keys, of_queries;  // solved u^T and dy u^T
      // q times the decays from the start of its block; k too, times -beta; k times those to the end of its block.
      Tile<kChunk, kKey> entered_q, entered_k, leaving;
    };
  };
  Logs logs;  // at last, the gradients of the logs from the chunk's start up to and with each step
  BlockDecays blocks;
  ChannelSteps steps;
  float moved[kRowBlocks][kKey], later[kRowBlocks][kKey], crossed[kKey];
  float sums[kSums][kParts][kChunk];
  CopyBarrier operands, values[kStages];
};

EXPORTED_SIZE(gradients_channels_shared_bytes, GradientsChannelsShared)

INLINE Pair sum_of_rows(Pair pair) {
#pragma unroll
  for (int lanes = 4; lanes < 32; lanes *= 2) pair = pair + Pair{{exchange(pair.at[0], lanes), exchange(pair.at[1], lanes)}};
  return pair;
}

INLINE void scale_tile(float (&sums)[2][4], const float* factors, const Seat& seat) {
#pragma unroll
  for (int n = 0; n < 2; ++n)
#pragma unroll
    for (int i = 0; i < 2; ++i) set_pair(sums, n, i, pair_in(sums, n, i) * pair_of(factors + n * 8 + seat.column));
}

// The products of the states and their gradients, added up over the values: a warp has every kWarps-th block of keys.
constexpr int kBlocksOfWarp = (kKey / 8 + kWarps - 1) / kWarps;

INLINE void add_crossed(Pair (&sums)[kBlocksOfWarp], const ValueStage& stage, int warp, const Seat& seat) {
#pragma unroll
  for (int i = 0; i < kBlocksOfWarp; ++i) {
    const int block = warp + i * kWarps;
    if (block >= kKey / 8) break;
#pragma unroll
    for (int row = 0; row < kWidth / 8; ++row) {
      sums[i] = sums[i] + numbers_of(stage.states, row, block, seat) * numbers_of(stage.adjoints, row, block, seat);
    }
  }
}

INLINE void keep_crossed(GradientsChannelsShared& shared, const Pair (&sums)[kBlocksOfWarp], int warp, const Seat& seat) {
#pragma unroll
  for (int i = 0; i < kBlocksOfWarp; ++i) {
    const int block = warp + i * kWarps;
    if (block >= kKey / 8) break;
    const Pair sum = sum_of_rows(sums[i]);
    if (seat.row == 0) keep_pair(&shared.crossed[block * 8 + seat.column], sum);
  }
}

// Of the pairs of steps, those that count, to shared memory.
INLINE void keep_pairs(GradientsChannelsShared& shared, const Sums<kRowBlocks>& pairs, int rows, int part, const Seat& seat) {
  Tile<kChunk, kChunk>& to = part ? shared.of_queries : shared.of_keys;
  const int* epochs = shared.steps.epochs;
#pragma unroll
  for (int n = 0; n < kRowBlocks * 2; ++n)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int step = rows * 16 + i * 8 + seat.row, from = n * 8 + seat.column;
      float pair[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const bool within = from + j < step + part && (!kHasReset || epochs[from + j] == epochs[step]);
        pair[j] = within ? pairs[n / 2][n % 2][i * 2 + j] : 0.0f;
      }
      to.set(rows * 2 + i, n, seat, split(pair[0], pair[1]));
    }
}

INLINE void split_decays(GradientsChannelsShared& shared, int warp, const Seat& seat) {
#pragma unroll
  for (int i = 0; i < kBlocksOfWarp; ++i) {
    const int block = i * kWarps + warp, column = block * 8 + seat.column;
    if (block >= kKey / 8) break;
#pragma unroll
    for (int row = 0; row < kChunk / 8; ++row) {
      const int step = row * 8 + seat.row;
      const Pair log = pair_of(&shared.logs[step][column]), all = pair_of(&shared.logs[row / 2 * 16 + 15][column]);
      const Pair q = numbers_of(shared.q, row, block, seat) * shared.steps.q_factors[step], entering = power_of_two(log);
      const Pair k = numbers_of(shared.k, row, block, seat) * shared.steps.k_factors[step];
      set_numbers(shared.entered_q, row, block, seat, q * entering);
      set_numbers(shared.entered_k, row, block, seat, k * entering * -shared.steps.beta[step]);
      set_numbers(shared.leaving, row, block, seat, k * power_of_two(all - log));
    }
  }
}

// What the steps leave of the gradients of the states after the chunk, added up over 16 steps.
INLINE void keep_moved(GradientsChannelsShared& shared, const Sums<kPart / 16>& dk, int rows, int column, const Seat& seat) {
#pragma unroll
  for (int n = 0; n < kPart / 8; ++n) {
    const int at = column + n * 8 + seat.column;
    Pair sum = {};
#pragma unroll
    for (int i = 0; i < 2; ++i) sum = sum + pair_in(dk[n / 2], n % 2, i) * numbers_of(shared.leaving, rows * 2 + i, column / 8 + n, seat);
    for (int block = rows + 1; block < kRowBlocks; ++block) sum = sum * pair_of(&shared.blocks.across[block][at]);
    sum = sum_of_rows(sum);
    if (seat.row == 0) keep_pair(&shared.moved[rows][at], sum);
  }
}

// Adds what the pairs of 16 steps with those up to them give, to sums that are decayed to the start of these steps; to
// their end in channels whose decays are split in their own block too.
INLINE void add_earlier(float (&sums)[2][kPart / 16][2][4], const GradientsChannelsShared& shared, int rows, int column, int lane) {
  Fragment lefts[2];
#pragma unroll 1
  for (int block = 0; block < rows; ++block) {
    scale_columns_of(sums[0], &shared.blocks.across[block][column], lane);
    scale_columns_of(sums[1], &shared.blocks.across[block][column], lane);
    load_left(lefts[0], shared.of_queries, rows * 2, block * 2, lane);
    load_left(lefts[1], shared.of_keys, rows * 2, block * 2, lane);
    add_products<false>(sums, lefts, shared.leaving, block * 2, column / 8, lane);
  }
  load_left(lefts[0], shared.of_queries, rows * 2, rows * 2, lane);
  load_left(lefts[1], shared.of_keys, rows * 2, rows * 2, lane);
#pragma unroll
  for (int tile = 0; tile < kPart / 16; ++tile) {
    if (shared.blocks.exact[rows][column / 16 + tile]) continue;
    Fragment right;
    load_right(right, shared.leaving, rows * 2, column / 8 + tile * 2, lane);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      scale_tile(sums[i][tile], &shared.blocks.across[rows][column + tile * 16], Seat(lane));
      multiply(sums[i][tile], lefts[i], right);
    }
  }
}

// The same for those after them: to sums decayed to the end of these steps, or to their start.
INLINE void add_later(Sums<kPart / 16>& sums, const GradientsChannelsShared& shared, int rows, int column, int lane) {
  Fragment lefts[2];
#pragma unroll 1
  for (int block = kRowBlocks - 1; block > rows; --block) {
    scale_columns_of(sums, &shared.blocks.across[block][column], lane);
    load_left_transposed(lefts[0], shared.of_queries, block * 2, rows * 2, lane);
    load_left_transposed(lefts[1], shared.of_keys, block * 2, rows * 2, lane);
    add_product<false>(sums, lefts[0], shared.entered_q, block * 2, column / 8, lane);
    add_product<false>(sums, lefts[1], shared.entered_k, block * 2, column / 8, lane);
  }
  load_left_transposed(lefts[0], shared.of_queries, rows * 2, rows * 2, lane);
  load_left_transposed(lefts[1], shared.of_keys, rows * 2, rows * 2, lane);
#pragma unroll
  for (int tile = 0; tile < kPart / 16; ++tile) {
    if (shared.blocks.exact[rows][column / 16 + tile]) continue;
    scale_tile(sums[tile], &shared.blocks.across[rows][column + tile * 16], Seat(lane));
    Fragment right;
    load_right(right, shared.entered_q, rows * 2, column / 8 + tile * 2, lane);
    multiply(sums[tile], lefts[0], right);
    load_right(right, shared.entered_k, rows * 2, column / 8 + tile * 2, lane);
    multiply(sums[tile], lefts[1], right);
  }
}

// What the pairs of a block of steps give to 16 channels by the differences of logs: to what queries and keys read, and
// to what keys write.
struct ExactSums {
  float of_queries[2][4], read[2][4], written[2][4];
};

INLINE float number_at(const Tile<kChunk, kChunk>& matrix, int row, int column) {
  const Pair pair = numbers_at(matrix, row, column);
  return column % 2 ? pair.at[1] : pair.at[0];
}

INLINE void add_to_pair(float (&sums)[2][4], int n, int i, const Pair& pair) { set_pair(sums, n, i, pair_in(sums, n, i) + pair); }

INLINE void find_exactly(ExactSums& found, const GradientsChannelsShared& shared, int rows, int column, const Seat& seat) {
#pragma unroll 1
  for (int other = rows * 16; other < rows * 16 + 16; ++other) {
    const float beta = shared.steps.beta[other], of_q = shared.steps.q_factors[other], of_k = shared.steps.k_factors[other];
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const int at = column + n * 8 + seat.column;
      const Pair q = numbers_at(shared.q, other, at) * of_q, k = numbers_at(shared.k, other, at) * of_k;
      const Pair log = pair_of(&shared.logs[other][at]);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int step = rows * 16 + i * 8 + seat.row;
        const Pair own = pair_of(&shared.logs[step][at]);
        if (other <= step) {
          const Pair moved = k * power_of_two(own - log);
          add_to_pair(found.of_queries, n, i, moved * number_at(shared.of_queries, step, other));
          add_to_pair(found.read, n, i, moved * number_at(shared.of_keys, step, other));
        }
        if (other >= step) {
          const Pair reads = q * number_at(shared.of_queries, other, step) - k * (beta * number_at(shared.of_keys, other, step));
          add_to_pair(found.written, n, i, reads * power_of_two(log - own));
        }
      }
    }
  }
}

// The sums as gradients of q and of k, and the gradients of the logs. Adds up what is summed over the keys.
INLINE void finish_sums(KeySums& sums, GradientsChannelsShared& shared, float (&of_rows)[3][2], int rows, int column, const Seat& seat) {
#pragma unroll
  for (int tile = 0; tile < kPart / 16; ++tile) {
    const bool exact = shared.blocks.exact[rows][column / 16 + tile];
    ExactSums exactly = {};
    if (exact) find_exactly(exactly, shared, rows, column + tile * 16, seat);
    Pair dlogs[2][2];
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const int block = column / 8 + tile * 2 + n, at = block * 8 + seat.column;
      Pair rising = {{1.0f, 1.0f}}, all = {};
      if (exact) all = pair_of(&shared.logs[rows * 16 + 15][at]);
      else rising = pair_of(&shared.blocks.rising[rows][at]);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int row = rows * 2 + i, step = row * 8 + seat.row;
        const Pair log = pair_of(&shared.logs[step][at]), entering = power_of_two(log), leaving = power_of_two(all - log);
        const Pair q = numbers_of(shared.q, row, block, seat) * shared.steps.q_factors[step];
        const Pair k = numbers_of(shared.k, row, block, seat) * shared.steps.k_factors[step];
        const Pair of_queries = pair_in(sums.of_states[0][tile], n, i) * rising, of_read = pair_in(sums.of_states[1][tile], n, i) * rising;
        const Pair of_written = pair_in(sums.of_adjoints[tile], n, i);
        const Pair exact_queries = pair_in(exactly.of_queries, n, i), exact_read = pair_in(exactly.read, n, i);
        const Pair exact_written = pair_in(exactly.written, n, i);
        const float beta = shared.steps.beta[step];
        dlogs[n][i] = numbers_of(shared.entered_q, row, block, seat) * of_queries + numbers_of(shared.entered_k, row, block, seat) * of_read -
                      numbers_of(shared.leaving, row, block, seat) * (of_written * rising);
        if (exact) dlogs[n][i] = dlogs[n][i] + q * exact_queries - k * (exact_read * beta + exact_written);
        const Pair dq = entering * of_queries + exact_queries, read = entering * of_read + exact_read;
        const Pair dk = leaving * of_written + exact_written - read * beta;
        const Pair with_queries = q * dq, with_keys = k * dk, with_read = k * read;
        of_rows[kQueries][i] += with_queries.at[0] + with_queries.at[1];
        of_rows[kKeys][i] += with_keys.at[0] + with_keys.at[1];
        of_rows[kErased][i] += with_read.at[0] + with_read.at[1];
        set_pair(sums.of_states[0][tile], n, i, dq);
        set_pair(sums.of_adjoints[tile], n, i, dk);
      }
    }
    synchronize_warp();  // All have read the logs.
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) keep_pair(&shared.logs[rows * 16 + i * 8 + seat.row][column + tile * 16 + n * 8 + seat.column], dlogs[n][i]);
  }
}

// Of the log decays: sums over the later steps leave what lies between.
INLINE void write_decays(GradientsChannelsShared& shared, const GradientsChannelsArguments& p, const Place& place, int thread) {
  const ColumnPlace own(thread);
  const bool works = thread < kColumnThreads;
  Pair sums[16] = {};
  if (works) {
    Pair sum = {};
#pragma unroll
    for (int i = 15; i >= 0; --i) sums[i] = sum = sum + pair_of(&shared.logs[own.block * 16 + i][own.column]);
    keep_pair(&shared.later[own.block][own.column], sum);
  }
  synchronize_block();
  if (!works) return;
  Pair after = {}, across = {{1.0f, 1.0f}};
#pragma unroll
  for (int block = 0; block < kRowBlocks; ++block) {
    if (block > own.block) after = after + pair_of(&shared.later[block][own.column]);
    after = after + pair_of(&shared.moved[block][own.column]);
    across = across * pair_of(&shared.blocks.across[block][own.column]);
  }
  if (shared.steps.entered(kChunk - 1)) after = after + across * pair_of(&shared.crossed[own.column]);
  const int first = own.block * 16;
  StoredDecay* to = p.dg + ((Index(place.row) * p.sizes.length + place.time + first) * p.sizes.heads + place.head) * kKey + own.column;
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    Pair found = sums[i] + after;
    if (is_reset(p, place, first + i)) found = {};  // Nothing is left to decay there.
    if (first + i < place.rows) store_two(to, found.at[0], found.at[1]);
    to += p.sizes.heads * kKey;
  }
}

KERNEL void __launch_bounds__(kThreads, 1) keelback_gradients_channels(const GRID_CONSTANT GradientsChannelsArguments p) {
  SHARED_MEMORY(GradientsChannelsShared, shared);
  const int thread = threadIdx.x, warp = uniform(thread / 32), lane = thread % 32;
  const int rows = warp % kRowBlocks, part = warp / kRowBlocks, column = part * kPart;
  const Place place(p.sizes, blockIdx.x);
  const Seat seat(lane);
  start_chunk(shared, p, place, thread);
  find_logs(shared.logs, shared.blocks, p, place, thread);
  arrive_with_copies<kStages>();
  if constexpr (kWide) wait_for_bytes(shared.operands, 0);

  KeySums sums;
  float driven[2] = {};
  Pair crossed[kBlocksOfWarp] = {};
  sum_values(sums, driven, shared, p, place, rows, part, thread, [&](const ValueStage& stage) {
    add_crossed(crossed, stage, warp % kWarps, seat);
  });
  keep_crossed(shared, crossed, warp, seat);
  keep_sums(shared, kDriven, driven, part, rows, seat);
  if (part < 2) keep_pairs(shared, sums.pairs, rows, part, seat);
  split_decays(shared, warp % kWarps, seat);
  if constexpr (kHasReset) {
    const int first = rows * 16 + seat.row;
    const float entered[2] = {shared.steps.entered(first) ? 1.0f : 0.0f, shared.steps.entered(first + 8) ? 1.0f : 0.0f};
    scale_rows_of(sums.of_states[0], entered[0], entered[1]);
    scale_rows_of(sums.of_states[1], entered[0], entered[1]);
    scale_rows_of(sums.of_adjoints, shared.steps.leaves(first) ? 1.0f : 0.0f, shared.steps.leaves(first + 8) ? 1.0f : 0.0f);
  }
  synchronize_block();

  keep_moved(shared, sums.of_adjoints, rows, column, seat);
  add_earlier(sums.of_states, shared, rows, column, lane);
  add_later(sums.of_adjoints, shared, rows, column, lane);
  float of_rows[3][2] = {};
  finish_sums(sums, shared, of_rows, rows, column, seat);
#pragma unroll
  for (int which = 0; which < 3; ++which) keep_sums(shared, which, of_rows[which], part, rows, seat);
  synchronize_block();
  write_decays(shared, p, place, thread);
  if (warp == 0) {
    for (int step = lane; step < kChunk && step < place.rows; step += 32) {
      const Index at = (Index(place.row) * p.sizes.length + place.time + step) * p.sizes.heads + place.head;
      store(p.dbeta + at, sum_of_parts(shared, kDriven, step) - sum_of_parts(shared, kErased, step));
    }
  }
  float along_q[2] = {}, along_k[2] = {};
  if constexpr (kNormalise) {
    const float size = p.options.scale * p.options.scale;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int step = rows * 16 + i * 8 + seat.row;
      along_q[i] = size > 0.0f ? sum_of_parts(shared, kQueries, step) / size * shared.steps.q_factors[step] : 0.0f;
      along_k[i] = sum_of_parts(shared, kKeys, step) * shared.steps.k_factors[step];
    }
  }
  write_rows(p.dq, p, place, sums.of_states[0], shared.q, shared.steps.q_factors, along_q, rows, column, seat);
  write_rows(p.dk, p, place, sums.of_adjoints, shared.k, shared.steps.k_factors, along_k, rows, column, seat);
}
