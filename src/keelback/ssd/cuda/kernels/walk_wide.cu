// The outputs as outputs.cuh says, and the states between the chunks as states.cuh does, in one walk: a block passes
// through the chunks of a segment with the states of a few heads in registers, a warpgroup to a head, and finds the outputs
// of each chunk on its way. So x is read once, and no state between the chunks is written down. Chunks are short: the
// exponentials grow with a chunk's square, and so do the scores, which every head of a block finds for itself.
//
// Where the length is cut into segments, states_wide.cu has found before what each but the last adds.
//
// One more warpgroup, of which one warp works, has the operands fetched: no head waits for another, or while it is said what to
// fetch.
#include "panels.cuh"
#include "states.cuh"
#include "outputs.cuh"

struct WalkWideArguments {
  TensorMap x, B, C, y;
  int segments, chunks_per_segment;
  OutputsArguments outputs;
  const float* start;  // as in Walk
  float *end, *sums, *decays;
};

static_assert(kHalf && kChunk == 64 && kHeadTile == 64 && kStateTiles == 1, "a warpgroup has all states of a tile of a head");
static_assert(kWarpsPerHead == kGroupWarps && kRowTiles == 1 && kWarpsOfRows == kGroupWarps, "a warpgroup has 64 rows");

constexpr int kBlockThreads = kThreads + kGroupThreads;
// Of a thread with a head, and of one that fetches, where all alike would have too few for the former.
constexpr int kRegisters = 240, kRegistersToFetch = 24;
constexpr int kSteps16 = kChunk / 16;
constexpr int kStates16 = kPaddedStates / 16;

struct WalkStage {
  Panels<kChunk, kPaddedStates> C, B;
  Panels<kChunk, kHeadTile> x[kHeads];
  ChunkSteps steps[kHeads];
  int firsts[kChunk];
};

struct WalkWideShared {
  WalkStage stages[kStages];
  Panels<16, kHeadTile> y[kHeads][kGroupWarps];  // of a warp, on its way out
  Tile<kHeadTile, kPaddedStates> h[kHeads];      // before the chunk
  CopyBarrier full[kStages];
};

EXPORTED_SIZE(walk_wide_shared_bytes, WalkWideShared)

// What a block walks through: some heads of a row, and chunks.
struct WalkPlace {
  const WalkWideArguments& arguments;
  StatesPlace of;
  int first, count;

  INLINE WalkPlace(const WalkWideArguments& arguments, int warp)
      : arguments(arguments),
        of(arguments.outputs.sizes, arguments.segments, 0, blockIdx.x, warp % kWarps),
        first(of.segment * arguments.chunks_per_segment),
        count(least(arguments.chunks_per_segment, arguments.outputs.sizes.chunks - first)) {}

  // The barrier of those who have finished with a stage and the warp that has it filled again.
  INLINE void stage_is_free(int at) const { arrive_at(1 + kHeads + at, of.heads * kGroupThreads + 32); }
  INLINE void wait_for_free_stage(int at) const { wait_at(1 + kHeads + at, of.heads * kGroupThreads + 32); }
};

INLINE void fetch_operands(WalkStage& stage, CopyBarrier& full, const WalkPlace& place, int chunk) {
  const OutputsArguments& p = place.arguments.outputs;
  const StatesPlace& of = place.of;
  const int time = chunk * kChunk, number = of.head_tile * kHeadTile, rows = p.sizes.length - time;
  constexpr int kOfHead = sizeof(stage.x[0]) + sizeof(stage.steps[0]);
  expect_bytes(full, sizeof(stage.C) + sizeof(stage.B) + of.heads * kOfHead + (kHasReset ? sizeof(stage.firsts) : 0));
  fetch_rows<1>(stage.C, place.arguments.C, p.C, 0, of.group, time, of.row, rows, p.sizes.states, full, 0);
  fetch_rows<1>(stage.B, place.arguments.B, p.B, 0, of.group, time, of.row, rows, p.sizes.states, full, 0);
#pragma unroll
  for (int head = 0; head < kHeads; ++head) {
    if (head >= of.heads) break;
    fetch_rows<1>(stage.x[head], place.arguments.x, p.x, number, of.first_head + head, time, of.row, rows,
                  p.sizes.head_dim - number, full, 0);
  }
}

INLINE void fetch_steps(WalkStage& stage, CopyBarrier& full, const WalkPlace& place, int chunk) {
  const OutputsArguments& p = place.arguments.outputs;
#pragma unroll
  for (int head = 0; head < kHeads; ++head) {
    if (head >= place.of.heads) break;
    const float* steps = p.steps.fields + steps_of(p.sizes, place.of.row, place.of.first_head + head, chunk);
    copy_bytes(&stage.steps[head], steps, sizeof(ChunkSteps), full);
  }
  if (kHasReset) {
    const int* firsts = p.steps.firsts + (Index(place.of.row) * p.sizes.chunks + chunk) * kChunk;
    copy_bytes(stage.firsts, firsts, sizeof(stage.firsts), full);
  }
}

// By one warp. Operands are older than the kernel before this one; steps are not.
INLINE void fetch_all(WalkWideShared& shared, const WalkPlace& place, int lane) {
  const int ahead = least(kStages, place.count);
  if (lane == 0) {
#pragma unroll 1
    for (int i = 0; i < ahead; ++i) fetch_operands(shared.stages[i], shared.full[i], place, place.first + i);
    wait_for_kernel_before();
#pragma unroll 1
    for (int i = 0; i < ahead; ++i) fetch_steps(shared.stages[i], shared.full[i], place, place.first + i);
  }
  int at = 0;
#pragma unroll 1
  for (int i = kStages; i < place.count; ++i) {
    synchronize_warp();
    place.wait_for_free_stage(at);
    if (lane == 0) {
      fetch_operands(shared.stages[at], shared.full[at], place, place.first + i);
      fetch_steps(shared.stages[at], shared.full[at], place, place.first + i);
    }
    if (++at == kStages) at = 0;
  }
}

// The states as a right factor.
INLINE void put_down(Tile<kHeadTile, kPaddedStates>& h, const States& sums, const StatesPlace& place, int lane) {
#pragma unroll
  for (int k = 0; k < kStates16; ++k) {
    Fragment states;
    set_left(states, sums.at[0][k]);
    store_left(h, states, place.head_row / 8, k * 2, lane);
  }
}

// The scores of the 16 steps `rows` of a chunk, and what the states before it give to their outputs.
struct Scored {
  float scores[kSteps16][2][4];
  Fragment of_C[kFromMemory ? 1 : kStates16];

  INLINE void start(Outputs& y, const WalkStage& stage, const Tile<kHeadTile, kPaddedStates>& h, int rows, int lane) {
    clear(scores);
    clear(y);
    pin(flat(scores));
    pin(flat(y));
    if constexpr (kFromMemory) {
      start_products<true>(scores, stage.C, stage.B);
      start_products<true>(y, stage.C, h);
    } else {
#pragma unroll
      for (int k = 0; k < kStates16; ++k) load_left(of_C[k], stage.C, rows * 2, k * 2, lane);
      start_products<true>(scores, of_C, stage.B);
      start_products<true>(y, of_C, h);
    }
  }
};

// Outputs of the 16 steps `rows` of a chunk, without the skip, and the states after it, by the warps together, which are
// under way on return. While the matrix unit finds the scores and what the states give, the warps scale x and find weights.
INLINE void pass_chunk(Outputs& y, States& sums, Fragment (&of_x)[kSteps16], const WalkStage& stage,
                       const Tile<kHeadTile, kPaddedStates>& h, const StatesPlace& place, int rows, int lane) {
  const Seat seat(lane);
  const ChunkSteps& steps = stage.steps[place.head];
  const auto& x = stage.x[place.head];
  Fragment weights[kSteps16];
  Scored scored;
  sums.scale(steps.entering[kChunk - 1]);
  pin(flat(sums.at[0]));
  scored.start(y, stage, h, rows, lane);
#pragma unroll
  for (int k = 0; k < kSteps16; ++k) {
    load_left_transposed(of_x[k], x, k * 2, place.head_row / 8, lane);
    scale_columns(of_x[k], steps.driving, k * 16, seat);
  }
  const LaneSteps own(steps, stage.firsts, rows, seat);
  await<1>(scored.scores);
#pragma unroll
  for (int j = 0; j < kSteps16; ++j) {
    find_weights_of_group<false>(weights[j], scored.scores[j], own, steps, rows, j, seat);
  }
  await<0>(y);
  if (!kFromMemory) let_go(scored.of_C);
  decay_states(y, steps, rows, lane);
  start_products<false>(y, weights, x);
  start_products<false>(sums.at[0], of_x, stage.B);
  await<1>(y);
  let_go(weights);
}

// Skip and gate, as in `write_outputs`.
INLINE void complete_outputs(Outputs& y, const WalkStage& stage, const WalkPlace& place, int chunk, float skip, int rows, int lane) {
  const OutputsArguments& p = place.arguments.outputs;
  const int head = place.of.first_head + place.of.head, first_column = place.of.head_tile * kHeadTile;
  if (p.D) add_skip(y, stage.x[place.of.head], p, skip, head, first_column, rows, lane);
  if constexpr (kHasZ) {
    Outputs none;
    gate(y, none, p, ChunkPlace(p.sizes, place.of.row, chunk), head, first_column, rows, lane);
  }
}

INLINE void put_down(Panels<16, kHeadTile>& on_way, Outputs& y, int lane) {
#pragma unroll
  for (int n = 0; n < kTiles / 2; ++n) {
    Fragment outputs;
    set_left(outputs, y[n]);
    store_left(on_way, outputs, 0, n * 2, lane);
  }
}

// The copying unit takes the outputs of 16 steps out.
INLINE void send(const Panels<16, kHeadTile>& on_way, const WalkPlace& place, int chunk, int rows) {
  store_box(place.arguments.y, &on_way, place.of.head_tile * kHeadTile, place.of.first_head + place.of.head,
            chunk * kChunk + rows * 16, place.of.row);
}

// By the warpgroup of a head.
INLINE void walk_through(WalkWideShared& shared, const WalkPlace& place, int warp, int lane) {
  const WalkWideArguments& arguments = place.arguments;
  const OutputsArguments& p = arguments.outputs;
  const int head = place.of.head, of_head = warp % kGroupWarps;
  const Walk walk{p.x, p.B, arguments.start, nullptr, arguments.end};
  const StatesArguments of_states{p.sizes, arguments.segments, arguments.chunks_per_segment, 0, 1, walk, walk, p.steps,
                                  arguments.sums, arguments.decays};
  States sums;
  set_out(sums, of_states, walk, place.of, lane);
  wait_for_kernel_before();
  add_segments(sums, of_states, place.of, warp, lane);
  // Warps that share a scheduler have many weights to find in one head, and few in the other: where each may choose its rows.
  const int rows = !kFromMemory && head % 2 ? kGroupWarps - 1 - of_head : of_head;
  const float skip = skip_of(p, place.of.first_head + head);
  auto& on_way = shared.y[head][of_head];
  put_down(shared.h[head], sums, place.of, lane);
  publish_to_matrix_unit();
  synchronize_group(head);
  int at = 0, parity = 0;
#pragma unroll 1
  for (int i = 0; i < place.count; ++i) {
    wait_for_bytes(shared.full[at], parity);
    const WalkStage& stage = shared.stages[at];
    Outputs y;
    Fragment of_x[kSteps16];
    pass_chunk(y, sums, of_x, stage, shared.h[head], place.of, rows, lane);
    complete_outputs(y, stage, place, place.first + i, skip, rows, lane);
    if (lane == 0) wait_for_stores();
    if constexpr (kOneFence) {
      synchronize_group(head);  // All have what the states before the chunk give.
      put_down(on_way, y, lane);
    } else {
      synchronize_warp();
      put_down(on_way, y, lane);
      publish_to_matrix_unit();
      synchronize_warp();
      if (lane == 0) send(on_way, place, place.first + i, rows);
      synchronize_group(head);  // All have what the states before the chunk give.
    }
    await<0>(sums.at[0]);
    let_go(of_x);
    if (i + kStages < place.count) place.stage_is_free(at);
    put_down(shared.h[head], sums, place.of, lane);
    publish_to_matrix_unit();
    synchronize_group(head);
    if (kOneFence && lane == 0) send(on_way, place, place.first + i, rows);
    if (++at == kStages) at = 0, parity ^= 1;
  }
  if (lane == 0) wait_for_stores();
  if (walk.end && place.of.segment + 1 == arguments.segments) write_end(sums, of_states, walk, place.of, lane);
}

KERNEL void __launch_bounds__(kBlockThreads, 1) keelback_walk_wide(const GRID_CONSTANT WalkWideArguments arguments) {
  SHARED_MEMORY(WalkWideShared, shared);
  const int thread = threadIdx.x, warp = uniform(thread / 32), lane = thread % 32;
  const WalkPlace place(arguments, warp);
  if (place.count <= 0) return;
  if (thread == 0) {
#pragma unroll
    for (int i = 0; i < kStages; ++i) set_up(shared.full[i]);
    publish_barriers();
  }
  synchronize_block();
  if (warp >= kWarps) {
    if constexpr (kHeads > 1) leave_registers<kRegistersToFetch>();
    if (warp == kWarps) fetch_all(shared, place, lane);
  } else {
    if constexpr (kHeads > 1) take_registers<kRegisters>();
    if (place.of.head < place.of.heads) walk_through(shared, place, warp, lane);
  }
}
