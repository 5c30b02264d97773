// As states.cuh says, with a warpgroup to a head: its warps have 16 rows of the head's tile each.
#include "panels.cuh"
#include "states.cuh"

struct StatesWideArguments {
  TensorMap maps[2][2];  // of x and B, ahead and back
  StatesArguments states;
};

static_assert(kWarpsPerHead == kGroupWarps && kRowTiles == 1 && kWarpsOfRows == kGroupWarps, "a warpgroup has 64 rows");

struct StatesStage {
  Panels<kRows, kHeadTile> x[kHeads];
  Panels<kRows, kStateTile> B;
  float decays[kHeads][kRows];
  float entering[kHeads][4];  // of the chunk's last steps: the last is its decay
};

struct StatesWideShared {
  StatesStage stages[kStages];
  CopyBarrier full[kStages];
  int finished[kStages][kGroupWarps];  // warpgroups that have passed through a stage, as the warps of each number count
};

EXPORTED_SIZE(states_wide_shared_bytes, StatesWideShared)

// A stage: in half precision a part of it by one thread, of four; else all of it, by all threads.
INLINE void fetch_stage(int part, StatesStage& stage, CopyBarrier& full, const StatesWideArguments& arguments,
                        const Walk& walk, const StatesPlace& place, int chunk, int of_chunk, int thread) {
  const StatesArguments& p = arguments.states;
  const int time = chunk * kChunk + of_chunk * kRows, rows = p.sizes.length - time;
  constexpr int kOfHead = sizeof(stage.x[0]) + sizeof(stage.decays[0]) + sizeof(stage.entering[0]);
  if (!kHalf || part == 0) {
    if (kHalf) expect_bytes(full, sizeof(stage.B) + place.heads * kOfHead);
    const int number = place.state_tile * kStateTile;
    fetch_rows<kThreads>(stage.B, arguments.maps[place.back][1], walk.B, number, place.group, time, place.row, rows,
                         p.sizes.states - number, full, thread);
  }
#pragma unroll
  for (int head = 0; head < kHeads; ++head) {
    if (head >= place.heads) break;
    if (!kHalf || part == 1 + head % 2) {
      const int number = place.head_tile * kHeadTile;
      fetch_rows<kThreads>(stage.x[head], arguments.maps[place.back][0], walk.x, number, place.first_head + head, time, place.row,
                           rows, p.sizes.head_dim - number, full, thread);
    }
    if (!kHalf || part == 3) {
      const float* steps = p.steps.fields + steps_of(p.sizes, place.row, place.first_head + head, chunk);
      fetch_floats<kThreads, kRows>(stage.decays[head], steps + decays_of(place) + of_chunk * kRows, full, thread);
      fetch_floats<kThreads, 4>(stage.entering[head], steps + kLastEntering, full, thread);
    }
  }
}

INLINE void add_steps(States& sums, const StatesStage& stage, const StatesPlace& place, int lane) {
  const Seat seat(lane);
  if constexpr (kHalf) {
    Fragment left[kRows / 16], rest[kRows / 16];
#pragma unroll
    for (int k = 0; k < kRows / 16; ++k) {
      load_left_transposed(left[k], stage.x[place.head], k * 2, place.head_row / 8, lane);
      scale_columns_in_two(left[k], rest[k], stage.decays[place.head] + k * 16, seat);
    }
    start_products<false>(sums.at[0], left, stage.B);
    start_products<false>(sums.at[0], rest, stage.B);
    await<0>(sums.at[0]);
    let_go(left);
    let_go(rest);
  } else {
#pragma unroll
    for (int k = 0; k < kRows; k += 16) {
      Fragment left;
      load_left_transposed(left, stage.x[place.head], k / 8, place.head_row / 8, lane);
      scale_columns(left, stage.decays[place.head], k, seat);
      multiply_together<false>(sums.at[0], left, stage.B, k / 8, 0);
    }
    finish(sums.at[0]);
  }
}

KERNEL void __launch_bounds__(kThreads, kBlocksPerProcessor) keelback_states_wide(const GRID_CONSTANT StatesWideArguments arguments) {
  const StatesArguments& p = arguments.states;
  SHARED_MEMORY(StatesWideShared, shared);
  const int thread = threadIdx.x, warp = uniform(thread / 32), lane = thread % 32;
  const StatesPlace place(p.sizes, p.segments, p.first_direction, blockIdx.x, warp);
  const Walk& walk = place.back ? p.back : p.ahead;
  const int first = place.segment * p.chunks_per_segment;
  const int count = least(p.chunks_per_segment, p.sizes.chunks - first) * kStagesPerChunk;
  if (count <= 0 || (!p.walk && place.segment + 1 == p.segments)) return;
  if (thread == 0) {
#pragma unroll
    for (int i = 0; i < kStages; ++i) set_up(shared.full[i]);
    publish_barriers();
  }
  const int of_head = warp % kGroupWarps;
  if (thread < kStages * kGroupWarps) shared.finished[thread / kGroupWarps][thread % kGroupWarps] = 0;
  synchronize_block();
  const auto chunk_of = [&](int i) {
    const int passed = first + i / kStagesPerChunk;
    return place.back ? p.sizes.chunks - 1 - passed : passed;
  };
  const auto fetch = [&](int i) {
    if (i < count) {
      fetch_stage(of_head, shared.stages[i % kStages], shared.full[i % kStages], arguments, walk, place, chunk_of(i),
                  i % kStagesPerChunk, thread);
    }
  };
  wait_for_kernel_before();
  let_next_begin();
  if (!kHalf || (place.head == 0 && lane == 0)) {
#pragma unroll 1
    for (int i = 0; i < kStages; ++i) fetch(i);
  }

  const bool active = place.head < place.heads;
  if (kHalf && !active) return;
  States sums;
  float decay = 1.0f;
  set_out(sums, p, walk, place, lane);
  if (p.walk && active) add_segments(sums, p, place, warp, lane);
  int at = 0, parity = 0;
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    if constexpr (kHalf) {
      wait_for_bytes(shared.full[at], parity);
    } else {
      publish_to_matrix_unit();
      synchronize_block();
    }
    if (active) {
      const StatesStage& stage = shared.stages[at];
      if (i % kStagesPerChunk == 0) {
        if (p.walk && (first + i > 0 || walk.start)) write_states(p, walk, place, chunk_of(i), sums, lane);
        const float across = stage.entering[place.head][3];
        sums.scale(across);
        decay *= across;
      }
      add_steps(sums, stage, place, lane);
    }
    if constexpr (kHalf) {
      // The last warpgroup to finish with a stage has it filled again: none waits for another.
      synchronize_group(place.head);
      if (lane == 0 && count_in(shared.finished[at][of_head]) % place.heads == place.heads - 1) fetch(i + kStages);
    } else {
      synchronize_block();
      fetch(i + kStages);
    }
    if (++at == kStages) at = 0, parity ^= 1;
  }
  if (!active) return;
  if (!p.walk) {
    keep_segment(sums, decay, p, place, warp, lane);
  } else if (walk.end && place.segment + 1 == p.segments) {
    write_end(sums, p, walk, place, lane);
  }
}
