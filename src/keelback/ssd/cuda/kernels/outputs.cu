// As outputs.cuh says, with 16 steps to a warp, by products of single warps.
#include "outputs.cuh"

constexpr int kWarps = kChunk / 16;
constexpr int kThreads = kWarps * 32;
constexpr bool kKeepC = kHalf && kPaddedStates <= 128;

struct OutputsStage {
  Tile<kChunk, kHeadTile> x;
  Tile<kHeadTile, kPaddedStates> h;
  ChunkSteps steps;
};

struct OutputsShared {
  Tile<kChunk, kPaddedStates> C;
  int firsts[kChunk];
  OutputsStage stages[kStages - 1];
  union {
    OutputsStage stage;
    Tile<kChunk, kPaddedStates> B;  // until the scores are there
  } last;

  INLINE OutputsStage& stage(int i) { return i % kStages == kStages - 1 ? last.stage : stages[i % kStages]; }
};

EXPORTED_SIZE(outputs_shared_bytes, OutputsShared)

INLINE void load_unit(OutputsStage& stage, const OutputsArguments& p, const OutputsPlace& place, int unit, bool states,
                      int thread) {
  const int head = unit / kHeadTiles, tile = unit % kHeadTiles;
  const Stored* x = p.x.of(place.row, place.time, place.heads.first + head) + tile * kHeadTile;
  copy_rows<kThreads>(stage.x, x, p.x.time, place.rows, p.sizes.head_dim - tile * kHeadTile, thread);
  if (states) {
    const Index slot = (Index(place.row) * p.sizes.chunks + place.chunk) * slots_of(p.sizes) + place.heads.slot(p.sizes, head);
    copy_blocks<kThreads>(stage.h, p.states + slot * kStateNumbers + Index(tile) * kHeadTile * kPaddedStates, thread);
  }
  const float* steps = p.steps.fields + steps_of(p.sizes, place.row, place.heads.first + head, place.chunk);
  copy_floats<kThreads, (kStepFields - 2) * kChunk>(stage.steps.sizes, steps + 2 * kChunk, thread);
}

// Scores of the 16 steps of a warp, a product (16, 16) per 16 others: with themselves, the 16 before, and so on.
struct Scores {
  float at[kWarps][2][4];
};

INLINE void find_scores(Scores& scores, const OutputsShared& shared, int rows, int lane) {
  clear(scores.at);
#pragma unroll 1
  for (int k = 0; k < kPaddedStates / 8; k += 2) {
    Fragment left;
    load_left(left, shared.C, rows * 2, k, lane);
#pragma unroll
    for (int back = 0; back < kWarps; ++back) {
      if (back > rows) break;
      Fragment right;
      load_right_transposed(right, shared.last.B, (rows - back) * 2, k, lane);
      multiply(scores.at[back], left, right);
    }
  }
}

// The warp's rows of C, kept in registers where there is room.
struct KeptC {
  Fragment at[kKeepC ? kPaddedStates / 16 : 1];

  INLINE void keep(const OutputsShared& shared, int rows, int lane) {
    if constexpr (kKeepC) {
#pragma unroll
      for (int k = 0; k < kPaddedStates / 16; ++k) load_left(at[k], shared.C, rows * 2, k * 2, lane);
    }
  }
};

INLINE void add_states(Outputs& y, const OutputsStage& stage, const OutputsShared& shared, const KeptC& kept, int rows, int lane) {
#pragma unroll
  for (int k = 0; k < kPaddedStates / 16; ++k) {
    Fragment left;
    if constexpr (kKeepC) left = kept.at[k];
    else load_left(left, shared.C, rows * 2, k * 2, lane);
    add_product<true>(y, left, stage.h, k * 2, 0, lane);
  }
}

INLINE void find_outputs(Outputs& y, const OutputsStage& stage, const OutputsShared& shared, const Scores& scores,
                         const KeptC& kept, bool states, int rows, int lane) {
  const Seat seat(lane);
  const LaneSteps own(stage.steps, shared.firsts, rows, seat);
  clear(y);
  if (states) {
    add_states(y, stage, shared, kept, rows, lane);
    decay_states(y, stage.steps, rows, lane);
  }
#pragma unroll
  for (int back = 0; back < kWarps; ++back) {
    if (back > rows) break;
    Fragment left;
    if (back) find_weights<Kept::kAll>(left, scores.at[back], own, stage.steps, rows - back, seat);
    else find_weights<Kept::kTriangle>(left, scores.at[back], own, stage.steps, rows, seat);
    add_product<false>(y, left, stage.x, (rows - back) * 2, 0, lane);
  }
}

KERNEL void __launch_bounds__(kThreads, kBlocksPerProcessor) keelback_outputs(const OutputsArguments p) {
  SHARED_MEMORY(OutputsShared, shared);
  const int thread = threadIdx.x, warp = uniform(thread / 32), lane = thread % 32;
  const OutputsPlace place(p.sizes, blockIdx.x);
  // Warps that share a scheduler have a lower and an upper part, which together are as much work for all.
  const int rows = kWarps == 8 && warp >= 4 ? 11 - warp : warp;
  const int units = place.heads.count * kHeadTiles;
  const bool states = place.chunk > 0 || p.has_start;
  const auto load = [&](int unit) {
    if (unit < units) load_unit(shared.stage(unit), p, place, unit, states, thread);
    close_copies();
  };

  copy_rows<kThreads>(shared.C, p.C.of(place.row, place.time, place.heads.group), p.C.time, place.rows, p.sizes.states, thread);
  copy_rows<kThreads>(shared.last.B, p.B.of(place.row, place.time, place.heads.group), p.B.time, place.rows, p.sizes.states,
                      thread);
  close_copies();
#pragma unroll
  for (int unit = 0; unit < kStages - 1; ++unit) load(unit);
  if constexpr (kHasReset) {
    for (int i = thread; i < kChunk; i += kThreads) {
      shared.firsts[i] = p.steps.firsts[Index(place.row) * p.sizes.chunks * kChunk + place.time + i];
    }
  }
  arrive_with_copies<kStages - 1>();
  Scores scores;
  KeptC kept;
  find_scores(scores, shared, rows, lane);
  kept.keep(shared, rows, lane);

#pragma unroll 1
  for (int unit = 0; unit < units; ++unit) {
    arrive_with_copies<kStages - 2>();
    load(unit + kStages - 1);
    const OutputsStage& stage = shared.stage(unit);
    const int head = place.heads.first + unit / kHeadTiles, first_column = unit % kHeadTiles * kHeadTile;
    const float skip = skip_of(p, head);
    Outputs y;
    find_outputs(y, stage, shared, scores, kept, states, rows, lane);
    write_outputs(y, stage.x, p, place, skip, head, first_column, rows, lane);
  }
}
