// The outputs as outputs.cuh says, and the states between the chunks as states.cuh does, in one walk: a block passes
// through the chunks of a segment with the states of a few heads in registers and finds the outputs of each chunk on its
// way. So x is read once, and no state between the chunks is written down. Chunks are short: what is done twice for two
// heads, the scores, and the exponentials grow with a chunk's square.
//
// Where the length is cut into segments, states_wide.cu has found before what each but the last adds.
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
  Tile<kHeadTile, kPaddedStates> h[kHeads];      // before the chunk, then after it
  CopyBarrier full[kStages];
  int finished[kStages][kGroupWarps];  // warpgroups that have passed through a stage, as the warps of each number count
};

EXPORTED_SIZE(walk_wide_shared_bytes, WalkWideShared)

// A part of a stage, by one thread: four threads fetch it.
INLINE void fetch_part(int part, WalkStage& stage, CopyBarrier& full, const WalkWideArguments& arguments,
                       const StatesPlace& place, int chunk) {
  const OutputsArguments& p = arguments.outputs;
  const int time = chunk * kChunk, number = place.head_tile * kHeadTile, rows = p.sizes.length - time;
  if (part == 0) {
    constexpr int kOfHead = sizeof(stage.x[0]) + sizeof(stage.steps[0]);
    expect_bytes(full, sizeof(stage.C) + sizeof(stage.B) + place.heads * kOfHead + (kHasReset ? sizeof(stage.firsts) : 0));
    fetch_rows<1>(stage.C, arguments.C, p.C, 0, place.group, time, place.row, rows, p.sizes.states, full, 0);
  } else if (part == 1) {
    fetch_rows<1>(stage.B, arguments.B, p.B, 0, place.group, time, place.row, rows, p.sizes.states, full, 0);
  }
#pragma unroll
  for (int head = 0; head < kHeads; ++head) {
    if (head >= place.heads) break;
    if (part == 2) {
      fetch_rows<1>(stage.x[head], arguments.x, p.x, number, place.first_head + head, time, place.row, rows,
                    p.sizes.head_dim - number, full, 0);
    } else if (part == 3) {
      const float* steps = p.steps.fields + steps_of(p.sizes, place.row, place.first_head + head, chunk);
      copy_bytes(&stage.steps[head], steps, sizeof(ChunkSteps), full);
    }
  }
  if (kHasReset && part == 3) {
    const int* firsts = p.steps.firsts + Index(place.row) * p.sizes.chunks * kChunk + time;
    copy_bytes(stage.firsts, firsts, sizeof(stage.firsts), full);
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

// What happens to the outputs of 16 steps once they are there, as `write_outputs` does; the copying unit takes them out.
INLINE void send_outputs(Outputs& y, Panels<16, kHeadTile>& on_way, const WalkStage& stage, const WalkWideArguments& arguments,
                         const StatesPlace& place, int chunk, float skip, int rows, int lane) {
  const OutputsArguments& p = arguments.outputs;
  const int head = place.first_head + place.head, first_column = place.head_tile * kHeadTile;
  if (p.D) add_skip(y, stage.x[place.head], p, skip, head, first_column, rows, lane);
  const ChunkPlace of_chunk(p.sizes, place.row, chunk);
  if constexpr (kHasZ) {
    Outputs none;
    gate(y, none, p, of_chunk, head, first_column, rows, lane);
  }
  if (lane == 0) wait_for_stores();
  synchronize_warp();
#pragma unroll
  for (int n = 0; n < kTiles / 2; ++n) {
    Fragment outputs;
    set_left(outputs, y[n]);
    store_left(on_way, outputs, 0, n * 2, lane);
  }
  publish_to_matrix_unit();
  synchronize_warp();
  if (lane == 0) {
    store_box(arguments.y, &on_way, first_column, head, of_chunk.time + rows * 16, place.row);
  }
}

// Outputs of the 16 steps `rows` of a chunk and, by the warps together, the states after it. Products are started as early as
// they can be: scores, what the states give, what the chunk adds to the states; the weights are found while these are made.
INLINE void pass_chunk(Outputs& y, States& sums, const WalkStage& stage, Tile<kHeadTile, kPaddedStates>& h,
                       const StatesPlace& place, int rows, int lane) {
  const Seat seat(lane);
  const ChunkSteps& steps = stage.steps[place.head];
  const auto& x = stage.x[place.head];
  float scores[kSteps16][2][4];
  Fragment of_C[kStates16], of_x[kSteps16], weights[kSteps16];
  clear(scores);
  clear(y);
  pin(flat(scores));
  pin(flat(y));
#pragma unroll
  for (int k = 0; k < kStates16; ++k) load_left(of_C[k], stage.C, rows * 2, k * 2, lane);
  sums.scale(steps.entering[kChunk - 1]);
  pin(flat(sums.at[0]));
  start_products<true>(scores, of_C, stage.B);
  start_products<true>(y, of_C, h);
#pragma unroll
  for (int k = 0; k < kSteps16; ++k) {
    load_left_transposed(of_x[k], x, k * 2, place.head_row / 8, lane);
    scale_columns(of_x[k], steps.driving, k * 16, seat);
  }
  start_products<false>(sums.at[0], of_x, stage.B);

  await<2>(scores);
  const LaneSteps own(steps, stage.firsts, rows, seat);
#pragma unroll
  for (int j = 0; j < kSteps16; ++j) {
    find_weights_of_group<false>(weights[j], scores[j], own, steps, rows, j, seat);
  }
  await<1>(y);
  let_go(of_C);
  decay_states(y, steps, rows, lane);
  start_products<false>(y, weights, x);
  synchronize_group(place.head);  // All have what the states before the chunk give.
  await<1>(sums.at[0]);
  let_go(of_x);
  put_down(h, sums, place, lane);
  await<0>(y);
  let_go(weights);
}

KERNEL void __launch_bounds__(kThreads, 1) keelback_walk_wide(const GRID_CONSTANT WalkWideArguments arguments) {
  SHARED_MEMORY(WalkWideShared, shared);
  const OutputsArguments& p = arguments.outputs;
  const int thread = threadIdx.x, warp = uniform(thread / 32), lane = thread % 32;
  const StatesPlace place(p.sizes, arguments.segments, 0, blockIdx.x, warp);
  const int first = place.segment * arguments.chunks_per_segment;
  const int count = least(arguments.chunks_per_segment, p.sizes.chunks - first);
  if (count <= 0) return;
  const int of_head = warp % kGroupWarps;
  if (thread == 0) {
#pragma unroll
    for (int i = 0; i < kStages; ++i) set_up(shared.full[i]);
    publish_barriers();
  }
  if (thread < kStages * kGroupWarps) shared.finished[thread / kGroupWarps][thread % kGroupWarps] = 0;
  synchronize_block();
  if (place.head >= place.heads) return;
  if (place.head == 0 && lane == 0) {
#pragma unroll 1
    for (int i = 0; i < least(kStages, count); ++i) {
      if (of_head == 3 && i == 0) wait_for_kernel_before();  // Operands are older; steps are not.
      fetch_part(of_head, shared.stages[i], shared.full[i], arguments, place, first + i);
    }
  }
  wait_for_kernel_before();

  const Walk walk{p.x, p.B, arguments.start, nullptr, arguments.end};
  const StatesArguments of_states{p.sizes, arguments.segments, arguments.chunks_per_segment, 0, 1, walk, walk, p.steps,
                                  arguments.sums, arguments.decays};
  States sums;
  set_out(sums, of_states, walk, place, lane);
  add_segments(sums, of_states, place, warp, lane);
  put_down(shared.h[place.head], sums, place, lane);
  publish_to_matrix_unit();
  synchronize_group(place.head);

  // Warps that share a scheduler have many weights to find in one head, and few in the other.
  const float skip = skip_of(p, place.first_head + place.head);
  const int rows = place.head % 2 ? kGroupWarps - 1 - of_head : of_head;
  int at = 0, parity = 0;
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    wait_for_bytes(shared.full[at], parity);
    const WalkStage& stage = shared.stages[at];
    Outputs y;
    pass_chunk(y, sums, stage, shared.h[place.head], place, rows, lane);
    send_outputs(y, shared.y[place.head][of_head], stage, arguments, place, first + i, skip, rows, lane);
    synchronize_group(place.head);
    // The last warpgroup to finish with a stage has it filled again: none waits for another.
    if (lane == 0 && i + kStages < count && count_in(shared.finished[at][of_head]) % place.heads == place.heads - 1) {
      fetch_part(of_head, shared.stages[at], shared.full[at], arguments, place, first + i + kStages);
    }
    if (++at == kStages) at = 0, parity ^= 1;
  }
  if (lane == 0) wait_for_stores();
  if (walk.end && place.segment + 1 == arguments.segments) {
    write_end(sums, of_states, walk, place, lane);
  }
}
