// As states.cuh says, with some warps for the tile of a head.
#include "states.cuh"

struct StatesStage {
  Tile<kRows, kHeadTile> x[kHeads];
  Tile<kRows, kStateTile> B;
  float decays[kHeads][kRows];
  float entering[kHeads][4];  // of the chunk's last steps: the last is its decay
};

struct StatesShared {
  StatesStage stages[kStages];
};

EXPORTED_SIZE(states_shared_bytes, StatesShared)

INLINE void load_stage(StatesStage& stage, const StatesArguments& p, const Walk& walk, const StatesPlace& place, int chunk,
                       int part, int thread) {
  const int time = chunk * kChunk + part * kRows, rows = p.sizes.length - time;
#pragma unroll
  for (int head = 0; head < kHeads; ++head) {
    if (head >= place.heads) break;
    const Stored* x = walk.x.of(place.row, time, place.first_head + head) + place.head_tile * kHeadTile;
    copy_rows<kThreads>(stage.x[head], x, walk.x.time, rows, p.sizes.head_dim - place.head_tile * kHeadTile, thread);
    const float* steps = p.steps.fields + steps_of(p.sizes, place.row, place.first_head + head, chunk);
    copy_floats<kThreads, kRows>(stage.decays[head], steps + decays_of(place) + part * kRows, thread);
    copy_floats<kThreads, 4>(stage.entering[head], steps + kLastEntering, thread);
  }
  const Stored* B = walk.B.of(place.row, time, place.group) + place.state_tile * kStateTile;
  copy_rows<kThreads>(stage.B, B, walk.B.time, rows, p.sizes.states - place.state_tile * kStateTile, thread);
}

INLINE void add_steps(States& sums, const StatesStage& stage, const StatesPlace& place, int lane) {
  const Seat seat(lane);
#pragma unroll
  for (int k = 0; k < kRows; k += 16) {
    Fragment left[kRowTiles], rest[kRowTiles];
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      load_left_transposed(left[m], stage.x[place.head], k / 8, place.head_row / 8 + m * 2, lane);
      if constexpr (kHalf) scale_columns_in_two(left[m], rest[m], stage.decays[place.head] + k, seat);
      else scale_columns(left[m], stage.decays[place.head], k, seat);
    }
    add_products<false>(sums.at, left, stage.B, k / 8, place.state_column / 8, lane);
    if (kHalf) add_products<false>(sums.at, rest, stage.B, k / 8, place.state_column / 8, lane);
  }
}

KERNEL void __launch_bounds__(kThreads, kBlocksPerProcessor) keelback_states(const StatesArguments p) {
  SHARED_MEMORY(StatesShared, shared);
  const int thread = threadIdx.x, warp = uniform(thread / 32), lane = thread % 32;
  const StatesPlace place(p.sizes, p.segments, p.first_direction, blockIdx.x, warp);
  const Walk& walk = place.back ? p.back : p.ahead;
  const int first = place.segment * p.chunks_per_segment;
  const int count = least(p.chunks_per_segment, p.sizes.chunks - first);
  if (count <= 0 || (!p.walk && place.segment + 1 == p.segments)) return;
  const auto load = [&](int i) {
    if (i < count * kStagesPerChunk) {
      const int passed = first + i / kStagesPerChunk;
      load_stage(shared.stages[i % kStages], p, walk, place, place.back ? p.sizes.chunks - 1 - passed : passed,
                 i % kStagesPerChunk, thread);
    }
    close_copies();
  };
#pragma unroll
  for (int i = 0; i < kStages - 1; ++i) load(i);

  const bool active = place.head < place.heads;
  States sums;
  float decay = 1.0f;
  set_out(sums, p, walk, place, lane);
  if (p.walk && active) add_segments(sums, p, place, warp, lane);
#pragma unroll 1
  for (int i = 0; i < count * kStagesPerChunk; ++i) {
    arrive_with_copies<kStages - 2>();
    load(i + kStages - 1);
    if (!active) continue;
    const StatesStage& stage = shared.stages[i % kStages];
    if (i % kStagesPerChunk == 0) {
      const int passed = first + i / kStagesPerChunk;
      if (p.walk && (passed > 0 || walk.start)) {
        write_states(p, walk, place, place.back ? p.sizes.chunks - 1 - passed : passed, sums, lane);
      }
      const float across = stage.entering[place.head][3];
      sums.scale(across);
      decay *= across;
    }
    add_steps(sums, stage, place, lane);
  }
  if (!active) return;
  if (!p.walk) {
    keep_segment(sums, decay, p, place, warp, lane);
  } else if (walk.end && place.segment + 1 == p.segments) {
    write_end(sums, p, walk, place, lane);
  }
}
