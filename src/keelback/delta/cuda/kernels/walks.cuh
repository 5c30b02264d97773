// The walks through the chunks of a head. A block has kValueTile values of one head of one row, a warp 16 of them: it
// carries the states (16, key), or their gradients, from chunk to chunk in its registers, and warps share nothing but what
// they multiply by.
#pragma once

#include "chunks.cuh"

constexpr int kWarps = kValueTile / 16;
constexpr int kThreads = kWarps * 32;

// What both walks read of a chunk.
struct WalkStage {
  Tile<kChunk, kKey> erasing, k, q;
  Tile<kChunk, kChunk> weights;
  float entering[kChunk], entered_q[kChunk], left_k[kChunk];
};

struct Walk {
  Sizes sizes;
  Sequences q, k;
  const ChunkSteps* steps;
  const Stored *erasing, *weights;
};

// Which values of which head of which row.
struct WalkPlace {
  int row, head, value_tile;
  Index of_head;

  INLINE WalkPlace(const Sizes& sizes, int index) {
    value_tile = index % kValueTiles;
    of_head = index / kValueTiles;
    head = of_head % sizes.heads;
    row = of_head / sizes.heads;
  }
  INLINE Index number(const Sizes& sizes, int chunk) const { return of_head * sizes.chunks + chunk; }
};

INLINE void load_walk(WalkStage& stage, const Walk& p, const WalkPlace& place, int chunk, int thread) {
  const Index number = place.number(p.sizes, chunk);
  const int time = chunk * kChunk, rows = p.sizes.length - time, group = p.sizes.group_of(place.head);
  copy_blocks<kThreads>(stage.erasing, p.erasing + number * (kChunk * kKey), thread);
  copy_rows<kThreads>(stage.k, p.k.of(place.row, time, group), p.k.time, rows, kKey, thread);
  copy_rows<kThreads>(stage.q, p.q.of(place.row, time, group), p.q.time, rows, kKey, thread);
  copy_blocks<kThreads>(stage.weights, p.weights + number * (kChunk * kChunk), thread);
  const ChunkSteps& steps = p.steps[number];
  copy_floats<kThreads, kChunk>(stage.entering, steps.entering, thread);
  copy_floats<kThreads, kChunk>(stage.entered_q, steps.entered_q, thread);
  copy_floats<kThreads, kChunk>(stage.left_k, steps.left_k, thread);
}

// The states of a warp: 16 values, all keys.
using States = float[kKey / 16][2][4];

// `visit(address, sum)` for the states in a plain array (row, head, key, value) that are present.
template <typename Number, typename Visit>
INLINE void for_each_plain(Number* plain, const Sizes& sizes, const WalkPlace& place, States& states, int warp, int lane,
                           Visit visit) {
  const Seat seat(lane);
  Number* from = plain + place.of_head * kKey * sizes.value;
#pragma unroll
  for (int n = 0; n < kKey / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int value = place.value_tile * kValueTile + warp * 16 + i / 2 * 8 + seat.row;
      const int key = n * 8 + seat.column + i % 2;
      if (value < sizes.value) visit(from + Index(key) * sizes.value + value, states[n / 2][n % 2][i]);
    }
}

INLINE void set_out(States& states, const float* start, const Sizes& sizes, const WalkPlace& place, int warp, int lane) {
  clear(states);
  if (start) for_each_plain(start, sizes, place, states, warp, lane, [](const float* from, float& state) { state = *from; });
}

INLINE void arrive(float* end, const Sizes& sizes, const WalkPlace& place, States& states, int warp, int lane) {
  if (end) for_each_plain(end, sizes, place, states, warp, lane, [](float* to, float state) { *to = state; });
}

// Where the (value, number) matrix of a warp's chunk begins: (row, head, chunk, value, number).
template <int kNumbers>
INLINE Stored* of_values(Stored* all, Index number, const WalkPlace& place) {
  return all + (number * kValues + place.value_tile * kValueTile) * kNumbers;
}
