// Ahead through the chunks: with h the states before one, its steps write u = written + erasing h along their keys,
//     y = entered q h + weights u,      h' = across h + left k^T u.
// On the way to the gradients, u and h are kept, and there is no y.
#include "walks.cuh"

struct AheadArguments {
  TensorMap q, k;
  Walk walk;
  Stored* written;     // (row, head, chunk, value, step); u takes its place where it is kept
  const float* start;  // (row, head, key, value), or null for zero
  Stored* states;      // before each chunk, (row, head, chunk, value, key), or null
  Stored* y;           // or null
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

// y^T (16 values, steps) of a warp to y.
INLINE void write_turned(const AheadArguments& p, const WalkPlace& place, Tile<16, kChunk>& room,
                         const float (&sums)[kRowBlocks][2][4], int chunk, int warp, int lane) {
  const Seat seat(lane);
#pragma unroll
  for (int n = 0; n < kRowBlocks * 2; ++n)
#pragma unroll
    for (int i = 0; i < 2; ++i) room.set(i, n, seat, split(sums[n / 2][n % 2][i * 2], sums[n / 2][n % 2][i * 2 + 1]));
  synchronize_warp();
  const int time = chunk * kChunk, rows = p.walk.sizes.length - time;
  const int first = place.value_tile * kValueTile + warp * 16 + seat.column;
  Stored* to = p.y + place.row * p.y_row + time * p.y_time + place.head * p.y_head + first;
#pragma unroll
  for (int n = 0; n < kRowBlocks; ++n) {
    Fragment turned;
    load_blocks<true, true>(turned, room, 0, n * 2, lane);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int step = n * 16 + i / 2 * 8 + seat.row;
      if (step >= rows || first + i % 2 * 8 >= p.walk.sizes.value) continue;
      Stored* pair = to + step * p.y_time + i % 2 * 8;
      if constexpr (kHalf) {
        *reinterpret_cast<unsigned*>(pair) = turned.at[0][i];
      } else {
        Words words;
#pragma unroll
        for (int plane = 0; plane < kPlanes; ++plane) words.plane[plane] = turned.at[plane][i];
        *reinterpret_cast<Pack<float, 2>*>(pair) = Pack<float, 2>{{words.low(), words.high()}};
      }
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
  const auto fetch = [&](AheadStage& stage, CopyBarrier& full, int chunk) {
    fetch_walk(stage.walk, p.walk, p.q, p.k, place, chunk, full, thread);
    fetch_matrix<kThreads>(stage.written, of_values<kChunk>(p.written, place.number(sizes, chunk), place), full, thread);
  };
  shared.chunks.begin(sizes.chunks, thread, fetch);
  States h;
  set_out(h, p.start, sizes, place, warp, lane);
#pragma unroll 1
  for (int chunk = 0; chunk < sizes.chunks; ++chunk) {
    const AheadStage& stage = shared.chunks.arrive(chunk);
    const Index number = place.number(sizes, chunk);
    if (p.states) store_blocks<kKey>(of_values<kKey>(p.states, number, place), warp * 2, 0, h, lane);

    Sums<kRowBlocks> u, y;
    clear(y);
#pragma unroll
    for (int n = 0; n < kRowBlocks * 2; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const Words words = stage.written.pair(warp * 2 + i, n, seat);
        u[n / 2][n % 2][i * 2] = words.low(), u[n / 2][n % 2][i * 2 + 1] = words.high();
      }
    Fragment lefts[kKey / 16];
    set_lefts(lefts, h);
#pragma unroll
    for (int k = 0; k < kKey / 16; ++k) add_to<true>(u, lefts[k], stage.walk.erasing, k * 2, 0, lane);
    if (p.y) {
#pragma unroll
      for (int k = 0; k < kKey / 16; ++k) add_to<true>(y, lefts[k], stage.walk.q, k * 2, 0, lane);
    }
    end_products(u);
    end_products(y);
    if (p.states) store_blocks<kChunk>(of_values<kChunk>(p.written, number, place), warp * 2, 0, u, lane);

    const float across = stage.walk.entering[kChunk - 1];
    scale_rows_of(h, across, across);
    Fragment writes[kRowBlocks], left[kRowBlocks];
    set_lefts(writes, u);
    scale_columns_of(u, stage.walk.left_k, lane);
    set_lefts(left, u);
#pragma unroll
    for (int k = 0; k < kRowBlocks; ++k) add_to<false>(h, left[k], stage.walk.k, k * 2, 0, lane);
    if (p.y) {
      scale_columns_of(y, stage.walk.entered_q, lane);
#pragma unroll
      for (int k = 0; k < kRowBlocks; ++k) add_to<true>(y, writes[k], stage.walk.weights, k * 2, 0, lane);
    }
    end_products(h);
    end_products(y);
    shared.chunks.leave(chunk, sizes.chunks, thread, fetch);
    if (p.y) write_turned(p, place, shared.turning[warp], y, chunk, warp, lane);
  }
  arrive_at(p.end, sizes, place, h, warp, lane);
}
