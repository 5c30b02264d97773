// Ahead through the chunks: with h the states before one, its steps write u = written + erasing h along their keys,
//     y = entered q h + weights u,      h' = across h + left k^T u.
// On the way to the gradients (without kOutputs), u and h are kept, and there is no y.
#include "walks.cuh"

struct AheadArguments {
  TensorMap q, k;
  Walk walk;
  Stored* written;     // (row, head, chunk, value, step); u takes its place where it is kept
  const float* start;  // before the launch's chunks, (row, head, key, value), or null for zero
  Stored* states;      // before each chunk, (row, head, chunk, value, key), where they are kept
  Stored* y;           // where they are not
  Index y_row, y_time, y_head;
  float* end;          // or null
};

struct AheadStage {
  WalkStage walk;
  Tile<kValueTile, kChunk> written;
};

struct AheadShared {
  Stages<AheadStage, kWalkBytes + sizeof(AheadStage::written)> chunks;
  Tile<16, kChunk> turning[kWarps];
};

EXPORTED_SIZE(ahead_shared_bytes, AheadShared)

// Two adjacent numbers, word i of a fragment.
INLINE void write_pair(Stored* to, const Fragment& from, int i) {
  if constexpr (kHalf) {
    *reinterpret_cast<unsigned*>(to) = from.at[0][i];
  } else {
    Words words;
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) words.plane[plane] = from.at[plane][i];
    *reinterpret_cast<Pack<float, 2>*>(to) = Pack<float, 2>{{words.low(), words.high()}};
  }
}

// y^T (16 values, steps) of a warp to y.
INLINE void write_turned(const AheadArguments& p, const WalkPlace& place, Tile<16, kChunk>& room,
                         const float (&sums)[kRowBlocks][2][4], int chunk, int warp, int lane) {
  const Seat seat(lane);
#pragma unroll
  for (int n = 0; n < kRowBlocks * 2; ++n)
#pragma unroll
    for (int i = 0; i < 2; ++i) room.set(i, n, seat, split(sums[n / 2][n % 2][i * 2], sums[n / 2][n % 2][i * 2 + 1]));
  synchronize_warp();
  const int time = chunk * kChunk, rows = p.walk.sizes.length - time - seat.row;
  const int columns = p.walk.sizes.value - place.value_tile * kValueTile - warp * 16 - seat.column;
  Stored* row = p.y + place.row * p.y_row + Index(time + seat.row) * p.y_time + place.head * p.y_head + p.walk.sizes.value - columns;
  const Index next = 8 * p.y_time;
#pragma unroll
  for (int n = 0; n < kRowBlocks; ++n) {
    Fragment turned;
    load_blocks<true, true>(turned, room, 0, n * 2, lane);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (n * 16 + half * 8 < rows) {
        if (columns > 0) write_pair(row, turned, half * 2);
        if (columns > 8) write_pair(row + 8, turned, half * 2 + 1);
      }
      row += next;
    }
  }
  synchronize_warp();
}

KERNEL void __launch_bounds__(kThreads, 1) keelback_ahead(const GRID_CONSTANT AheadArguments p) {
  SHARED_MEMORY(AheadShared, shared);
  const int thread = threadIdx.x, warp = uniform(thread / 32), lane = thread % 32;
  const Sizes& sizes = p.walk.sizes;
  const WalkPlace place(sizes, blockIdx.x);
  const Seat seat(lane);
  const auto fetch = [&](AheadStage& stage, CopyBarrier& full, int passed) {
    const int chunk = sizes.first + passed;
    fetch_walk(stage.walk, p.walk, p.q, p.k, place, chunk, full, thread);
    fetch_matrix<kThreads>(stage.written, of_values<kChunk>(p.written, place.number(sizes, chunk), place), full, thread);
  };
  shared.chunks.begin(sizes.count, thread, fetch);
  States h;
  Sums<kRowBlocks> y;
  set_out(h, p.start, sizes, place, warp, lane);
#pragma unroll 1
  for (int passed = 0; passed < sizes.count; ++passed) {
    const AheadStage& stage = shared.chunks.arrive(passed);
    const int chunk = sizes.first + passed;
    const Index number = place.number(sizes, chunk);
    if constexpr (!kOutputs) store_blocks<kKey>(of_values<kKey>(p.states, number, place), warp * 2, 0, h, lane);

    Sums<kRowBlocks> u;
#pragma unroll
    for (int n = 0; n < kRowBlocks * 2; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const Words words = stage.written.pair(warp * 2 + i, n, seat);
        u[n / 2][n % 2][i * 2] = words.low(), u[n / 2][n % 2][i * 2 + 1] = words.high();
      }
    Fragment before[kKey / 16], writes[kRowBlocks], left[kRowBlocks];
    set_lefts(before, h);
    add_all<true>(u, before, stage.walk.erasing, lane);
    if constexpr (kOutputs) {
      // The last chunk's outputs are written while products are under way.
      if (passed > 0) write_turned(p, place, shared.turning[warp], y, chunk - 1, warp, lane);
      clear(y);
      add_all<true>(y, before, stage.walk.q, lane);
    }
    wait_for<kOutputs ? 1 : 0>(u);
    if constexpr (kOutputs) set_lefts(writes, u);
    else store_blocks<kChunk>(of_values<kChunk>(p.written, number, place), warp * 2, 0, u, lane);
    scale_columns_of(u, stage.walk.left_k, lane);
    set_lefts(left, u);
    const float across = stage.walk.entering[kChunk - 1];
    scale_rows_of(h, across, across);
    add_all<false>(h, left, stage.walk.k, lane);
    if constexpr (kOutputs) {
      wait_for<1>(y);
      scale_columns_of(y, stage.walk.entered_q, lane);
      add_all<true>(y, writes, stage.walk.weights, lane);
      wait_for<0>(y);
      release(writes);
    }
    wait_for<0>(h);
    release(before);
    release(left);
    shared.chunks.leave(passed, sizes.count, thread, fetch);
  }
  if constexpr (kOutputs) write_turned(p, place, shared.turning[warp], y, sizes.first + sizes.count - 1, warp, lane);
  arrive_at(p.end, sizes, place, h, warp, lane);
}
