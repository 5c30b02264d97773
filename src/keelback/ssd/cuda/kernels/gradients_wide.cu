// As gradients.cuh says, by two warpgroups: one has the pairs of steps, du and dS, with 16 steps j to a warp; the other
// has dB, dC and what enters the chunk, with 16 steps to a warp too.
#include "panels.cuh"

template <int kRows, int kColumns>
using RowsTile = Panels<kRows, kColumns>;

#include "gradients.cuh"

struct GradientsWideArguments {
  TensorMap x, B, C, dy;
  GradientsArguments gradients;
};

constexpr int kThreads = 2 * kGroupThreads;
static_assert(kSplit == 1 && kChunk == 64, "a warpgroup has 64 rows");

struct GradientsWideShared {
  Factors B, C;
  union {
    GradientsStage stages[kStages];
    Panels<kChunk, kChunk> dS;  // at the end
  };
  HeadSums sums[2];
  int firsts[kChunk];
  CopyBarrier full[kStages], factors;
};

EXPORTED_SIZE(gradients_wide_shared_bytes, GradientsWideShared)

INLINE void fetch_unit(GradientsStage& stage, CopyBarrier& full, const GradientsWideArguments& arguments,
                       const GradientsPlace& place, int unit, bool enters, bool leaves, int thread) {
  if (kHalf && thread) return;
  const GradientsArguments& p = arguments.gradients;
  const int head = unit / kHeadTiles, number = unit % kHeadTiles * kHeadTile, columns = p.sizes.head_dim - number;
  constexpr int kFloats = kStepFields * kChunk;
  if (kHalf) expect_bytes(full, 2 * sizeof(stage.x) + (enters + leaves) * sizeof(stage.h) + kFloats * 4);
  const int of_all = place.heads.first + head;
  fetch_rows<kThreads>(stage.x, arguments.x, p.x, number, of_all, place.time, place.row, place.rows, columns, full, thread);
  fetch_rows<kThreads>(stage.dy, arguments.dy, p.dy, number, of_all, place.time, place.row, place.rows, columns, full, thread);
  const Index slot = (Index(place.row) * p.sizes.chunks + place.chunk) * slots_of(p.sizes) + place.heads.slot(p.sizes, head);
  const Index at = slot * kStateNumbers + Index(number) * kPaddedStates;
  if (enters) fetch_blocks<kThreads>(stage.h, p.states + at, full, thread);
  if (leaves) fetch_blocks<kThreads>(stage.g, p.adjoints + at, full, thread);
  const float* steps = p.steps.fields + steps_of(p.sizes, place.row, of_all, place.chunk);
  fetch_floats<kThreads, kFloats>(stage.steps.driving, steps, full, thread);
}

using Pairs = float[kRowWarps][2][4];      // 16 steps j of a warp, 16 steps i each
using OfStates = float[kOwnStateTiles][2][4];  // 16 steps of a warp

// S_ji of the warp's steps j.
INLINE void find_scores(Pairs& scores, const GradientsWideShared& shared, const GradientsPlace& place, int lane) {
  clear(scores);
#pragma unroll
  for (int k = 0; k < kPaddedStates / 8; k += 2) {
    Fragment left;
    load_left(left, shared.B, place.row_warp * 2, k, lane);
    multiply_together<true>(scores, left, shared.C, k, 0);
  }
  finish(scores);
}

// What a lane knows of its steps j, in all pairs, and their weights summed over i: other steps, and j itself.
struct LaneSteps {
  RowPair logs, lows, sizes, weights, own_weights;
  int row;
};

// From x_j . dy_i: dS_ji of a head without size_j, which takes its place, the factors S_ji L_ji, and the weights.
template <bool kDiagonal>
INLINE void find_pairs(float (&products)[2][4], float (&factors)[2][4], const float (&scores)[2][4], LaneSteps& own, int i,
                       const Unit& unit) {
  const ChunkSteps& steps = unit.stage.steps;
  const Seat seat(unit.lane);
  float weights_of_column[4];
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int within = half * 8 + seat.column + e, column = i * 16 + within;
      const float log = steps.logs[column], low = kHalf ? 0.0f : steps.rests[column];
      const int first_kept = kHasReset ? unit.firsts[column] : 0;
      float of_column = 0.0f;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float exponent = log - own.logs.at[r];
        if (!kHalf) exponent += low - own.lows.at[r];
        const bool keeps = (!kDiagonal || within >= r * 8 + seat.row) && (!kHasReset || own.row + r * 8 >= first_kept);
        const bool all = !kDiagonal && !kHasReset;
        const int at = r * 2 + e;
        const float decay = power_of_two(exponent), score = scores[half][at];
        const float product = all || keeps ? products[half][at] * decay : 0.0f;
        factors[half][at] = all || keeps ? score * decay : 0.0f;
        const float weight = product * score;
        products[half][at] = product;
        const bool itself = kDiagonal && within == r * 8 + seat.row;
        own.weights.at[r] += itself ? 0.0f : weight;
        if (kDiagonal) own.own_weights.at[r] += itself ? weight : 0.0f;
        of_column += itself ? 0.0f : weight * own.sizes.at[r];
      }
      weights_of_column[half * 2 + e] = of_column;
    }
  transpose_sum<28>(weights_of_column, unit.lane);
  if (seat.row < 4) {
    float& to = unit.sums.weights_of_column[unit.place.row_warp][i * 16 + seat.row / 2 * 8 + seat.column + seat.row % 2];
    to = unit.adds ? to + weights_of_column[0] : weights_of_column[0];
  }
}

// The first warpgroup's part of a unit.
INLINE void work_on_pairs(Pairs& dS, const Pairs& scores, const GradientsArguments& p, const Unit& unit, int head, bool leaves) {
  const GradientsStage& stage = unit.stage;
  const Seat seat(unit.lane);
  Pairs products;
  Du du;
  clear(products);
  clear(du);
#pragma unroll
  for (int k = 0; k < kHeadTiles16; ++k) {
    Fragment left;
    load_left(left, stage.x, unit.rows(), k * 2, unit.lane);
    multiply_together<true>(products, left, stage.dy, k * 2, 0);
  }
  finish(products);
  if (leaves) {
#pragma unroll
    for (int k = 0; k < kPaddedStates / 16; ++k) {
      Fragment left;
      load_left(left, unit.B, unit.rows(), k * 2, unit.lane);
      multiply_together<true>(du, left, stage.g, k * 2, 0);
    }
    finish(du);
    const RowPair leaving = rows_of(stage.steps.leaving, unit.first);
#pragma unroll
    for (int i = 0; i < kOwnHeadTiles * 8; ++i) flat(du)[i] *= leaving.at[i % 4 / 2];
  }
  RowPair of_leaving = {};
  add_dots(of_leaving, du, stage.x, unit);
  put_rows(unit.sums.leaves[0], of_leaving, unit.first, unit.adds, seat);

  LaneSteps own{rows_of(stage.steps.logs, unit.first), rows_of(stage.steps.rests, unit.first),
                rows_of(stage.steps.sizes, unit.first), {}, {}, unit.first};
  float skip = 0.0f;
#pragma unroll
  for (int i = 0; i < kRowWarps; ++i) {
    float of_pairs[2][4] = {};
    if (i == unit.place.row_warp) {
      skip = of_diagonal(products[i], seat);
      find_pairs<true>(products[i], of_pairs, scores[i], own, i, unit);
    } else if (i > unit.place.row_warp) {
      find_pairs<false>(products[i], of_pairs, scores[i], own, i, unit);
    }
    if (i >= unit.place.row_warp) {
#pragma unroll
      for (int j = 0; j < 8; ++j) dS[i][j / 4][j % 4] += own.sizes.at[j % 4 / 2] * products[i][j / 4][j % 4];
    }
    Fragment factors;
    set_left(factors, of_pairs);
    multiply_together<false>(du, factors, stage.dy, i * 2, 0);
  }
  put_rows(unit.sums.weights_of_row, own.weights, unit.first, unit.adds, seat);
  put_rows(unit.sums.own_weights, own.own_weights, unit.first, unit.adds, seat);
  if (!kSkipPerNumber) put_sum(unit.sums.skips[unit.place.row_warp][0], skip, unit.adds, unit.lane);
  if (kSkipPerNumber) find_skips(unit);
  finish(du);
  write_dx(du, p, unit, head);
}

// The second warpgroup's part of a unit.
INLINE void work_on_states(OfStates& dB, OfStates& dC, const Unit& unit, bool enters, bool leaves) {
  const GradientsStage& stage = unit.stage;
  const Seat seat(unit.lane);
  const RowPair entering = rows_of(stage.steps.entering, unit.first);
  Du read;  // h C_i
  clear(read);
  if (enters) {
#pragma unroll
    for (int k = 0; k < kPaddedStates / 16; ++k) {
      Fragment left;
      load_left(left, unit.C, unit.rows(), k * 2, unit.lane);
      multiply_together<true>(read, left, stage.h, k * 2, 0);
    }
#pragma unroll
    for (int k = 0; k < kHeadTiles16; ++k) {
      Fragment left;
      load_left(left, stage.dy, unit.rows(), k * 2, unit.lane);
      scale_rows(left, entering.at[0], entering.at[1]);
      multiply_together<false>(dC, left, stage.h, k * 2, 0);
    }
    finish(read);
    finish(dC);
  }
  if (leaves) {
    const RowPair driving = rows_of(stage.steps.driving, unit.first);
#pragma unroll
    for (int k = 0; k < kHeadTiles16; ++k) {
      Fragment left;
      load_left(left, stage.x, unit.rows(), k * 2, unit.lane);
      scale_rows(left, driving.at[0], driving.at[1]);
      multiply_together<false>(dB, left, stage.g, k * 2, 0);
    }
    finish(dB);
  }
  find_passing(unit, enters && leaves);
  RowPair of_entering = {};
  add_dots(of_entering, read, stage.dy, unit);
#pragma unroll
  for (int r = 0; r < 2; ++r) of_entering.at[r] *= entering.at[r];
  put_rows(unit.sums.enters[0], of_entering, unit.first, unit.adds, seat);
}

// Adds what dS gives, by products of the whole chunk.
INLINE void add_scores(OfStates& dB, OfStates& dC, const GradientsWideShared& shared, const GradientsPlace& place, int lane) {
#pragma unroll
  for (int k = 0; k < kRowWarps; ++k) {
    Fragment left;
    load_left(left, shared.dS, place.row_warp * 2, k * 2, lane);
    multiply_together<false>(dB, left, shared.C, k * 2, 0);
  }
#pragma unroll
  for (int k = 0; k < kRowWarps; ++k) {
    Fragment left;
    load_left_transposed(left, shared.dS, k * 2, place.row_warp * 2, lane);
    multiply_together<false>(dC, left, shared.B, k * 2, 0);
  }
  finish(dB);
  finish(dC);
}

KERNEL void __launch_bounds__(kThreads, kBlocksPerProcessor) keelback_gradients_wide(const GRID_CONSTANT GradientsWideArguments arguments) {
  SHARED_MEMORY(GradientsWideShared, shared);
  const GradientsArguments& p = arguments.gradients;
  const int thread = threadIdx.x, warp = uniform(thread / 32), lane = thread % 32;
  GradientsPlace place(p.sizes, blockIdx.x, warp);
  const bool on_pairs = place.split == 0;
  place.split = 0;
  const int units = place.heads.count * kHeadTiles;
  const bool enters = place.chunk > 0 || p.has_start, leaves = place.chunk + 1 < p.sizes.chunks || p.has_end;
  if (thread == 0) {
#pragma unroll
    for (int i = 0; i < kStages; ++i) set_up(shared.full[i]);
    set_up(shared.factors);
    publish_barriers();
  }
  synchronize_block();
  if (!kHalf || thread == 0) {
    if (kHalf) expect_bytes(shared.factors, 2 * sizeof(Factors));
    fetch_rows<kThreads>(shared.B, arguments.B, p.B, 0, place.heads.group, place.time, place.row, place.rows, p.sizes.states,
                         shared.factors, thread);
    fetch_rows<kThreads>(shared.C, arguments.C, p.C, 0, place.heads.group, place.time, place.row, place.rows, p.sizes.states,
                         shared.factors, thread);
  }
  const auto fetch = [&](int unit, int at) {
    if (unit < units) fetch_unit(shared.stages[at], shared.full[at], arguments, place, unit, enters, leaves, thread);
  };
#pragma unroll
  for (int i = 0; i < kStages; ++i) fetch(i, i);
  if constexpr (kHasReset) {
    for (int i = thread; i < kChunk; i += kThreads) {
      shared.firsts[i] = p.steps.firsts[Index(place.row) * p.sizes.chunks * kChunk + place.time + i];
    }
  }
  if constexpr (kHalf) wait_for_bytes(shared.factors, 0);
  else publish_to_matrix_unit();
  synchronize_block();

  // Goes through the units, with `work(unit, head)` by the threads of one warpgroup.
  const auto for_each_unit = [&](auto work) {
    int at = 0, parity = 0;
#pragma unroll 1
    for (int i = 0; i < units; ++i) {
      if constexpr (kHalf) {
        wait_for_bytes(shared.full[at], parity);
      } else {
        publish_to_matrix_unit();
        synchronize_groups<kThreads>();
      }
      const int number = i / kHeadTiles, tile = i % kHeadTiles;
      const Unit unit{shared.stages[at], shared.B, shared.C, shared.firsts, shared.sums[number % 2], place, lane,
                      place.row_warp * 16 + lane / 4, tile > 0, tile};
      work(unit, number);
      synchronize_groups<kThreads>();
      fetch(i + kStages, at);
      if (++at == kStages) at = 0, parity ^= 1;
    }
  };
  if (on_pairs) {
    Pairs scores, dS;
    find_scores(scores, shared, place, lane);
    clear(dS);
    for_each_unit([&](const Unit& unit, int number) {
      work_on_pairs(dS, scores, p, unit, place.heads.first + number, leaves);
    });
#pragma unroll
    for (int i = 0; i < kRowWarps; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        shared.dS.set(place.row_warp * 2 + j % 2, i * 2 + j / 2, Seat(lane),
                      split(dS[i][j / 2][j % 2 * 2], dS[i][j / 2][j % 2 * 2 + 1]));
      }
    publish_to_matrix_unit();
    synchronize_groups<kThreads>();
  } else {
    OfStates dB, dC;
    clear(dB);
    clear(dC);
    for_each_unit([&](const Unit& unit, int number) {
      if (unit.tile == 0 && number > 0 && place.row_warp == number % kRowWarps) {
        finish_head(shared.sums[(number - 1) % 2], p, place, place.heads.first + number - 1, lane);
      }
      work_on_states(dB, dC, unit, enters, leaves);
    });
    const int last = place.heads.count - 1;
    if (place.row_warp == 0) finish_head(shared.sums[last % 2], p, place, place.heads.first + last, lane);
    synchronize_groups<kThreads>();
    add_scores(dB, dC, shared, place, lane);
    write_grouped(p.dB, p.dB_sums, dB, p, place, lane);
    write_grouped(p.dC, p.dC_sums, dC, p, place, lane);
  }
}
