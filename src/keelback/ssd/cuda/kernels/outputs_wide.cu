// As outputs.cuh says, by products of warpgroups. Each warpgroup has a head of its own at a time; its warps have the 16
// steps of their number, and in a chunk of 128 the 16 that lie as far from its end, which is as much work for all.
#include "panels.cuh"
#include "outputs.cuh"

struct OutputsWideArguments {
  TensorMap x, B, C;
  OutputsArguments outputs;
};

constexpr int kGroups = 2;
constexpr int kThreads = kGroups * kGroupThreads;
constexpr int kSteps16 = kChunk / 16;
constexpr bool kUpper = kSteps16 > kGroupWarps;
static_assert(kChunk == 64 || kChunk == 128, "64 rows to a product");

struct OutputsStage {
  Panels<kChunk, kHeadTile> x;
  Tile<kHeadTile, kPaddedStates> h;
  ChunkSteps steps;
};

using Factors = Panels<kChunk, kPaddedStates>;

struct OutputsWideShared {
  Factors C;
  alignas(1024) unsigned char of_B[kOwnB ? sizeof(Factors) : 1024];
  union {
    OutputsStage stages[kGroups][kStages];
    Factors shared_B;  // until the scores are there
  };
  int firsts[kChunk];
  CopyBarrier full[kGroups][kStages], factors;

  INLINE Factors& B() { return kOwnB ? reinterpret_cast<Factors&>(of_B) : shared_B; }
};

EXPORTED_SIZE(outputs_wide_shared_bytes, OutputsWideShared)

INLINE void fetch_unit(OutputsStage& stage, CopyBarrier& full, const OutputsWideArguments& arguments, const OutputsPlace& place,
                       int unit, bool states, int thread) {
  if (kHalf && thread) return;
  const OutputsArguments& p = arguments.outputs;
  const int head = unit / kHeadTiles, number = unit % kHeadTiles * kHeadTile;
  constexpr int kFloats = (kStepFields - 2) * kChunk;
  if (kHalf) expect_bytes(full, sizeof(stage.x) + (states ? sizeof(stage.h) : 0) + kFloats * 4);
  fetch_rows<kGroupThreads>(stage.x, arguments.x, p.x, number, place.heads.first + head, place.time, place.row, place.rows,
                            p.sizes.head_dim - number, full, thread);
  if (states) {
    const Index slot = (Index(place.row) * p.sizes.chunks + place.chunk) * slots_of(p.sizes) + place.heads.slot(p.sizes, head);
    fetch_blocks<kGroupThreads>(stage.h, p.states + slot * kStateNumbers + Index(number) * kPaddedStates, full, thread);
  }
  const float* steps = p.steps.fields + steps_of(p.sizes, place.row, place.heads.first + head, place.chunk);
  fetch_floats<kGroupThreads, kFloats>(stage.steps.sizes, steps + 2 * kChunk, full, thread);
}

// Scores of the 16 steps of a warp with the first 16 of the chunk, the next, and so on, a product (16, 16) each.
struct Scores {
  float lower[kGroupWarps][2][4], upper[kUpper ? kSteps16 : 1][2][4];
};

template <int kCount>
INLINE void find_scores(float (&scores)[kCount][2][4], OutputsWideShared& shared, int rows, int lane) {
  clear(scores);
#pragma unroll
  for (int k = 0; k < kPaddedStates / 8; k += 2) {
    Fragment left;
    load_left(left, shared.C, rows * 2, k, lane);
    multiply_together<true>(scores, left, shared.B(), k, 0);
  }
  finish(scores);
}

INLINE void add_states(Outputs& y, const OutputsStage& stage, const OutputsWideShared& shared, int rows, int lane) {
#pragma unroll
  for (int k = 0; k < kPaddedStates / 16; ++k) {
    Fragment left;
    load_left(left, shared.C, rows * 2, k * 2, lane);
    multiply_together<true>(y, left, stage.h, k * 2, 0);
  }
}

// The outputs of a unit: of the 16 lower steps of each warp and, in a chunk of 128, of its 16 upper ones.
INLINE void find_outputs(const Scores& scores, const OutputsStage& stage, const OutputsWideShared& shared,
                         const OutputsArguments& p, const OutputsPlace& place, int unit, bool states, int lower, int upper,
                         int lane) {
  const Seat seat(lane);
  const LaneSteps of_lower(stage.steps, shared.firsts, lower, seat), of_upper(stage.steps, shared.firsts, upper, seat);
  const int head = place.heads.first + unit / kHeadTiles, first_column = unit % kHeadTiles * kHeadTile;
  const float skip = skip_of(p, head);
  Outputs y_lower, y_upper;
  clear(y_lower);
  clear(y_upper);
  if (states) {
    add_states(y_lower, stage, shared, lower, lane);
    if constexpr (kUpper) add_states(y_upper, stage, shared, upper, lane);
    finish(y_lower);
    decay_states(y_lower, stage.steps, lower, lane);
    if constexpr (kUpper) {
      finish(y_upper);
      decay_states(y_upper, stage.steps, upper, lane);
    }
  }
#pragma unroll
  for (int j = 0; j < kGroupWarps; ++j) {
    Fragment left, left_upper;
    find_weights_of_group<kStraight>(left, scores.lower[j], of_lower, stage.steps, lower, j, seat);
    if constexpr (kUpper) find_weights<Kept::kAll>(left_upper, scores.upper[j], of_upper, stage.steps, j, seat);
    multiply_together<false>(y_lower, left, stage.x, j * 2, 0);
    if constexpr (kUpper) multiply_together<false>(y_upper, left_upper, stage.x, j * 2, 0);
  }
  if constexpr (kUpper) {
#pragma unroll
    for (int j = kGroupWarps; j < kSteps16; ++j) {
      Fragment left;
      find_weights_of_group<kStraight>(left, scores.upper[j], of_upper, stage.steps, upper, j, seat);
      multiply_together<false>(y_upper, left, stage.x, j * 2, 0);
    }
  }
  finish(y_lower);
  write_outputs(y_lower, stage.x, p, place, skip, head, first_column, lower, lane);
  if constexpr (kUpper) {
    finish(y_upper);
    write_outputs(y_upper, stage.x, p, place, skip, head, first_column, upper, lane);
  }
}

KERNEL void __launch_bounds__(kThreads, kBlocksPerProcessor) keelback_outputs_wide(const GRID_CONSTANT OutputsWideArguments arguments) {
  SHARED_MEMORY(OutputsWideShared, shared);
  const OutputsArguments& p = arguments.outputs;
  const int thread = threadIdx.x, warp = uniform(thread / 32), lane = thread % 32;
  const int group = warp / kGroupWarps, of_group = thread % kGroupThreads;
  const int lower = warp % kGroupWarps, upper = kSteps16 - 1 - lower;
  const OutputsPlace place(p.sizes, blockIdx.x);
  const int units = place.heads.count * kHeadTiles;
  const bool states = place.chunk > 0 || p.has_start;

  if (thread == 0) {
#pragma unroll
    for (int i = 0; i < kGroups * kStages; ++i) set_up(shared.full[i / kStages][i % kStages]);
    set_up(shared.factors);
    publish_barriers();
  }
  synchronize_block();
  if (!kHalf || thread == 0) {
    if (kHalf) expect_bytes(shared.factors, 2 * sizeof(shared.C));
    fetch_rows<kThreads>(shared.C, arguments.C, p.C, 0, place.heads.group, place.time, place.row, place.rows, p.sizes.states,
                         shared.factors, thread);
    fetch_rows<kThreads>(shared.B(), arguments.B, p.B, 0, place.heads.group, place.time, place.row, place.rows, p.sizes.states,
                         shared.factors, thread);
  }
  if constexpr (kHasReset) {
    for (int i = thread; i < kChunk; i += kThreads) {
      shared.firsts[i] = p.steps.firsts[Index(place.row) * p.sizes.chunks * kChunk + place.time + i];
    }
  }
  const auto fetch = [&](int unit, int at) {
    if (unit < units) fetch_unit(shared.stages[group][at], shared.full[group][at], arguments, place, unit, states, of_group);
  };
  const auto fetch_first = [&] {
#pragma unroll
    for (int i = 0; i < kStages; ++i) fetch(group + i * kGroups, i);
  };
  if (kOwnB) fetch_first();
  if constexpr (kHalf) wait_for_bytes(shared.factors, 0);
  else publish_to_matrix_unit();
  synchronize_block();
  Scores scores;
  find_scores(scores.lower, shared, lower, lane);
  if constexpr (kUpper) find_scores(scores.upper, shared, upper, lane);
  synchronize_block();
  if (!kOwnB) fetch_first();
  int at = 0, parity = 0;
#pragma unroll 1
  for (int unit = group; unit < units; unit += kGroups) {
    if constexpr (kHalf) {
      wait_for_bytes(shared.full[group][at], parity);
    } else {
      publish_to_matrix_unit();
      synchronize_group(group);
    }
    const OutputsStage& stage = shared.stages[group][at];
    find_outputs(scores, stage, shared, p, place, unit, states, lower, upper, lane);
    synchronize_group(group);
    fetch(unit + kStages * kGroups, at);
    if (++at == kStages) at = 0, parity ^= 1;
  }
}
