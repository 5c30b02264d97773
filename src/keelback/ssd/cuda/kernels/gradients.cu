// As gradients.cuh says, with kSplit warps for 16 steps j, each of which has its part of the columns.
#include "places.cuh"

template <int kRows, int kColumns>
using RowsTile = Tile<kRows, kColumns>;

#include "gradients.cuh"

constexpr int kWarps = kSumWarps;
constexpr int kThreads = kWarps * 32;


struct GradientsShared {
  Tile<kChunk, kPaddedStates> B, C;
  Pack<float, 4> scores[kRowWarps][kRowWarps * 2][32];  // S, as the lanes hold it
  HeadSums sums[2];
  int firsts[kChunk];
  union {
    GradientsStage stages[kStages];
    Tile<kChunk, kChunk> dS;  // at the end
  };
};

EXPORTED_SIZE(gradients_shared_bytes, GradientsShared)

INLINE void load_unit(GradientsStage& stage, const GradientsArguments& p, const GradientsPlace& place, int unit, bool enters,
                      bool leaves, int thread) {
  const int head = unit / kHeadTiles, tile = unit % kHeadTiles, columns = p.sizes.head_dim - tile * kHeadTile;
  const Stored* x = p.x.of(place.row, place.time, place.heads.first + head) + tile * kHeadTile;
  const Stored* dy = p.dy.of(place.row, place.time, place.heads.first + head) + tile * kHeadTile;
  copy_rows<kThreads>(stage.x, x, p.x.time, place.rows, columns, thread);
  copy_rows<kThreads>(stage.dy, dy, p.dy.time, place.rows, columns, thread);
  const Index slot = (Index(place.row) * p.sizes.chunks + place.chunk) * slots_of(p.sizes) + place.heads.slot(p.sizes, head);
  const Index at = slot * kStateNumbers + Index(tile) * kHeadTile * kPaddedStates;
  if (enters) copy_blocks<kThreads>(stage.h, p.states + at, thread);
  if (leaves) copy_blocks<kThreads>(stage.g, p.adjoints + at, thread);
  const float* steps = p.steps.fields + steps_of(p.sizes, place.row, place.heads.first + head, place.chunk);
  copy_floats<kThreads, kStepFields * kChunk>(stage.steps.driving, steps, thread);
}

INLINE void find_scores(GradientsShared& shared, const GradientsPlace& place, int lane) {
  if (place.split) return;
#pragma unroll 1
  for (int i = place.row_warp; i < kRowWarps; ++i) {
    float sums[2][4] = {};
#pragma unroll
    for (int k = 0; k < kPaddedStates / 8; k += 2) {
      Fragment left, right;
      load_left(left, shared.B, place.row_warp * 2, k, lane);
      load_right_transposed(right, shared.C, i * 2, k, lane);
      multiply(sums, left, right);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Pack<float, 4> four;
#pragma unroll
      for (int e = 0; e < 4; ++e) four.at[e] = sums[half][e];
      shared.scores[place.row_warp][i * 2 + half][lane] = four;
    }
  }
}

// What a warp has of the chunk, for all heads: dS of its steps j with the same steps i, the 16 after, and so on, of which
// the warps that share them have every kSplit-th.
struct Grouped {
  float dB[kOwnStateTiles][2][4], dC[kOwnStateTiles][2][4], dS[kOwnSteps][2][4];

  INLINE Grouped() {
#pragma unroll
    for (int i = 0; i < kOwnStateTiles * 8; ++i) dB[i / 8][i / 4 % 2][i % 4] = dC[i / 8][i / 4 % 2][i % 4] = 0.0f;
#pragma unroll
    for (int i = 0; i < kOwnSteps * 8; ++i) dS[i / 8][i / 4 % 2][i % 4] = 0.0f;
  }
};

// The factors of x, which several products share, in registers where there is room.
struct LeftRows {
  Fragment at[kKeepLeft ? kHeadTiles16 : 1];

  INLINE void keep(const Tile<kChunk, kHeadTile>& tile, int rows, int lane) {
    if constexpr (kKeepLeft) {
#pragma unroll
      for (int k = 0; k < kHeadTiles16; ++k) load_left(at[k], tile, rows, k * 2, lane);
    }
  }
  INLINE Fragment part(const Tile<kChunk, kHeadTile>& tile, int rows, int k, int lane) const {
    if constexpr (kKeepLeft) return at[k];
    Fragment left;
    load_left(left, tile, rows, k * 2, lane);
    return left;
  }
};

// du of what goes past the chunk's end.
INLINE void add_leaving(Du& du, const Unit& unit) {
  const Seat seat(unit.lane);
#pragma unroll
  for (int k = 0; k < kPaddedStates / 8; k += 2) {
    Fragment left;
    load_left(left, unit.B, unit.rows(), k, unit.lane);
#pragma unroll
    for (int n = 0; n < kOwnHeadTiles; ++n) {
      Fragment right;
      load_right_transposed(right, unit.stage.g, unit.own_column() + n * 2, k, unit.lane);
      multiply(du[n], left, right);
    }
  }
  const RowPair leaving = rows_of(unit.stage.steps.leaving, unit.first);
#pragma unroll
  for (int n = 0; n < kOwnHeadTiles; ++n)
#pragma unroll
    for (int i = 0; i < 8; ++i) du[n][i / 4][i % 4] *= leaving.at[i % 4 / 2];
  RowPair leaves = {};
  add_dots(leaves, du, unit.stage.x, unit);
  put_rows(unit.sums.leaves[unit.place.split], leaves, unit.first, unit.adds, seat);
}

// du of the outputs within the chunk, and dS.
INLINE void add_pairs(Du& du, Grouped& grouped, const LeftRows& x, const GradientsShared& shared, const Unit& unit) {
  const GradientsStage& stage = unit.stage;
  const Seat seat(unit.lane);
  const RowPair logs = rows_of(stage.steps.logs, unit.first), sizes = rows_of(stage.steps.sizes, unit.first);
  RowPair lows = {}, weights_of_row = {}, own_weights = {};
  float skip = 0.0f;
  if (!kHalf) lows = rows_of(stage.steps.rests, unit.first);
#pragma unroll
  for (int later = 0; later < kRowWarps; ++later) {
    const int i = unit.place.row_warp + later;
    if (i >= kRowWarps) break;
    float products[2][4] = {}, factors[2][4], weights_of_column[4];
#pragma unroll
    for (int k = 0; k < kHeadTiles16; ++k) {
      Fragment right;
      load_right_transposed(right, stage.dy, i * 2, k * 2, unit.lane);
      multiply(products, x.part(stage.x, unit.rows(), k, unit.lane), right);
    }
    if (later == 0) skip = of_diagonal(products, seat);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Pack<float, 4> scores = shared.scores[unit.place.row_warp][i * 2 + half][unit.lane];
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int column = i * 16 + half * 8 + seat.column + e;
        const float log = stage.steps.logs[column], low = kHalf ? 0.0f : stage.steps.rests[column];
        const int first_kept = kHasReset ? unit.firsts[column] : 0;
        weights_of_column[half * 2 + e] = 0.0f;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int row = unit.first + r * 8;
          float exponent = log - logs.at[r];
          if (!kHalf) exponent += low - lows.at[r];
          const bool keeps = (later > 0 || column >= row) && (!kHasReset || row >= first_kept);
          const float decay = keeps ? power_of_two(exponent) : 0.0f;
          const float score = scores.at[r * 2 + e];
          const float product = keeps ? products[half][r * 2 + e] * decay : 0.0f;
          factors[half][r * 2 + e] = keeps ? score * decay : 0.0f;
          products[half][r * 2 + e] = product * sizes.at[r];
          const bool itself = later == 0 && column == row;
          weights_of_row.at[r] += itself ? 0.0f : product * score;
          own_weights.at[r] += itself ? product * score : 0.0f;
          weights_of_column[half * 2 + e] += itself ? 0.0f : product * score * sizes.at[r];
        }
      }
    }
    if (kSplit == 1 || later % kSplit == unit.place.split) {
#pragma unroll
      for (int j = 0; j < 8; ++j) grouped.dS[later / kSplit][j / 4][j % 4] += products[j / 4][j % 4];
    }
    Fragment left;
    set_left(left, factors);
#pragma unroll
    for (int n = 0; n < kOwnHeadTiles; ++n) {
      Fragment right;
      load_right(right, stage.dy, i * 2, unit.own_column() + n * 2, unit.lane);
      multiply(du[n], left, right);
    }
    if (kSplit > 1 && unit.place.split) continue;
    transpose_sum<28>(weights_of_column, unit.lane);
    if (seat.row < 4) {
      float& to = unit.sums.weights_of_column[unit.place.row_warp][i * 16 + seat.row / 2 * 8 + seat.column + seat.row % 2];
      to = unit.adds ? to + weights_of_column[0] : weights_of_column[0];
    }
  }
  if (unit.place.split) return;
  put_rows(unit.sums.weights_of_row, weights_of_row, unit.first, unit.adds, seat);
  put_rows(unit.sums.own_weights, own_weights, unit.first, unit.adds, seat);
  if (!kSkipPerNumber) put_sum(unit.sums.skips[unit.place.row_warp][0], skip, unit.adds, unit.lane);
}

// dB of what goes past the chunk's end.
INLINE void add_to_dB(Grouped& grouped, const LeftRows& x, const Unit& unit) {
  const RowPair factors = rows_of(unit.stage.steps.driving, unit.first);
#pragma unroll
  for (int n = 0; n < kOwnStateTiles; ++n) {
    float products[2][4] = {};
#pragma unroll
    for (int k = 0; k < kHeadTiles16; ++k) {
      Fragment right;
      load_right(right, unit.stage.g, k * 2, (unit.place.split * kOwnStateTiles + n) * 2, unit.lane);
      multiply(products, x.part(unit.stage.x, unit.rows(), k, unit.lane), right);
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) grouped.dB[n][i / 4][i % 4] += factors.at[i % 4 / 2] * products[i / 4][i % 4];
  }
}

// dC of what enters the chunk.
INLINE void add_to_dC(Grouped& grouped, const Unit& unit) {
  const Seat seat(unit.lane);
  const RowPair factors = rows_of(unit.stage.steps.entering, unit.first);
  LeftRows dy;
  dy.keep(unit.stage.dy, unit.rows(), unit.lane);
  RowPair enters = {};
#pragma unroll
  for (int n = 0; n < kOwnStateTiles; ++n) {
    const int column = (unit.place.split * kOwnStateTiles + n) * 2;
    float products[2][4] = {};
#pragma unroll
    for (int k = 0; k < kHeadTiles16; ++k) {
      Fragment right;
      load_right(right, unit.stage.h, k * 2, column, unit.lane);
      multiply(products, dy.part(unit.stage.dy, unit.rows(), k, unit.lane), right);
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) grouped.dC[n][i / 4][i % 4] += factors.at[i % 4 / 2] * products[i / 4][i % 4];
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        enters.add_dot(products, half, unit.C.pair(unit.rows() + r, column + half, seat), r);
      }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) enters.at[r] *= factors.at[r];
  put_rows(unit.sums.enters[unit.place.split], enters, unit.first, unit.adds, seat);
}

// Adds what dS gives, by products of the whole chunk.
INLINE void add_scores(Grouped& grouped, GradientsShared& shared, const GradientsPlace& place, int lane) {
  const Seat seat(lane);
#pragma unroll
  for (int i = 0; i < kOwnSteps; ++i) {
    const int block = place.row_warp + i * kSplit + place.split;
    if (block >= kRowWarps) break;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      shared.dS.set(place.row_warp * 2 + j % 2, block * 2 + j / 2, seat, split(grouped.dS[i][j / 2][j % 2 * 2], grouped.dS[i][j / 2][j % 2 * 2 + 1]));
    }
  }
  synchronize_block();
#pragma unroll 1
  for (int k = 0; k < kRowWarps; ++k) {
    Fragment left;
    if (k >= place.row_warp) {
      load_left(left, shared.dS, place.row_warp * 2, k * 2, lane);
#pragma unroll
      for (int n = 0; n < kOwnStateTiles; ++n) {
        Fragment right;
        load_right(right, shared.C, k * 2, (place.split * kOwnStateTiles + n) * 2, lane);
        multiply(grouped.dB[n], left, right);
      }
    }
    if (k <= place.row_warp) {
      load_left_transposed(left, shared.dS, k * 2, place.row_warp * 2, lane);
#pragma unroll
      for (int n = 0; n < kOwnStateTiles; ++n) {
        Fragment right;
        load_right(right, shared.B, k * 2, (place.split * kOwnStateTiles + n) * 2, lane);
        multiply(grouped.dC[n], left, right);
      }
    }
  }
}

KERNEL void __launch_bounds__(kThreads, kBlocksPerProcessor) keelback_gradients(const GradientsArguments p) {
  SHARED_MEMORY(GradientsShared, shared);
  const int thread = threadIdx.x, warp = uniform(thread / 32), lane = thread % 32;
  const GradientsPlace place(p.sizes, blockIdx.x, warp);
  const int units = place.heads.count * kHeadTiles;
  const bool enters = place.chunk > 0 || p.has_start, leaves = place.chunk + 1 < p.sizes.chunks || p.has_end;
  const auto load = [&](int unit) {
    if (unit < units) load_unit(shared.stages[unit % kStages], p, place, unit, enters, leaves, thread);
    close_copies();
  };

  copy_rows<kThreads>(shared.B, p.B.of(place.row, place.time, place.heads.group), p.B.time, place.rows, p.sizes.states, thread);
  copy_rows<kThreads>(shared.C, p.C.of(place.row, place.time, place.heads.group), p.C.time, place.rows, p.sizes.states, thread);
  close_copies();
  constexpr int kAhead = kStages > 1 ? kStages - 1 : 1;
#pragma unroll
  for (int unit = 0; unit < kAhead; ++unit) load(unit);
  if constexpr (kHasReset) {
    for (int i = thread; i < kChunk; i += kThreads) {
      shared.firsts[i] = p.steps.firsts[Index(place.row) * p.sizes.chunks * kChunk + place.time + i];
    }
  }
  wait_for_copies<kAhead>();
  synchronize_block();
  find_scores(shared, place, lane);

  Grouped grouped;
#pragma unroll 1
  for (int i = 0; i < units; ++i) {
    wait_for_copies<kAhead - 1>();
    synchronize_block();
    if (kStages > 1) load(i + kAhead);
    const int number = i / kHeadTiles, tile = i % kHeadTiles, head = place.heads.first + number;
    if (tile == 0 && number > 0 && warp == number % kWarps) finish_head(shared.sums[(number - 1) % 2], p, place, head - 1, lane);
    const Unit unit{shared.stages[i % kStages], shared.B, shared.C, shared.firsts, shared.sums[number % 2], place, lane,
                    place.row_warp * 16 + lane / 4, tile > 0, tile};
    Du du = {};
    if (leaves) add_leaving(du, unit);
    else put_rows(unit.sums.leaves[place.split], RowPair{}, unit.first, unit.adds, Seat(lane));
    LeftRows x;
    x.keep(unit.stage.x, unit.rows(), lane);
    add_pairs(du, grouped, x, shared, unit);
    if (kSkipPerNumber) find_skips(unit);
    write_dx(du, p, unit, head);
    if (leaves) add_to_dB(grouped, x, unit);
    if (enters) add_to_dC(grouped, unit);
    else put_rows(unit.sums.enters[place.split], RowPair{}, unit.first, unit.adds, Seat(lane));
    if (place.split == 0) find_passing(unit, enters && leaves);
    if (kStages == 1) {
      synchronize_block();
      load(i + 1);
    }
  }
  wait_for_copies<0>();
  synchronize_block();
  if (warp == 0) finish_head(shared.sums[(place.heads.count - 1) % 2], p, place, place.heads.first + place.heads.count - 1, lane);
  add_scores(grouped, shared, place, lane);
  write_grouped(p.dB, p.dB_sums, grouped.dB, p, place, lane);
  write_grouped(p.dC, p.dC_sums, grouped.dC, p, place, lane);
}
