// The walks through the chunks of a head. A block has kValueTile values of one head of one row, a warp 16 of them: it
// carries the states (16, key), or their gradients, from chunk to chunk in its registers, and warps share nothing but what
// they multiply by.
#pragma once

#include "chunks.cuh"

constexpr int kWarps = kValueTile / 16;
constexpr int kWalkers = kWarps * 32;
// With kWide one more warp starts the copies, whose many instructions would keep the others waiting.
constexpr int kThreads = kWalkers + (kWide ? 32 : 0);
static_assert(!kWide || kWarps == kGroupWarps, "a warpgroup multiplies");

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

// Chunks on their way to kStages stages, one after another. `fetch(stage, barrier, passed)` starts to copy one.
template <typename Stage, int kBytes>
struct Stages {
  Stage at[kStages];
  CopyBarrier full[kStages];

  template <typename Fetch>
  INLINE void begin(int count, int thread, Fetch fetch) {
    if constexpr (kWide) {
      if (thread == kWalkers) {
#pragma unroll
        for (int i = 0; i < kStages; ++i) set_up(full[i]);
        publish_barriers();
      }
      synchronize_block();
    }
#pragma unroll
    for (int i = 0; i < kStages; ++i) start(i, count, thread, fetch);
  }
  template <typename Fetch>
  INLINE void start(int passed, int count, int thread, Fetch fetch) {
    if constexpr (kWide) {
      if (passed >= count || thread != kWalkers) return;
      expect_bytes(full[passed % kStages], kBytes);
      fetch(at[passed % kStages], full[passed % kStages], passed);
    } else {
      if (passed < count) fetch(at[passed % kStages], full[passed % kStages], passed);
      close_copies();
    }
  }
  INLINE const Stage& arrive(int passed) {
    if constexpr (kWide) wait_for_bytes(full[passed % kStages], passed / kStages % 2);
    else arrive_with_copies<kStages - 1>();
    return at[passed % kStages];
  }
  // Without kWide, after all have read the stage the next chunk takes its place.
  template <typename Fetch>
  INLINE void leave(int passed, int count, int thread, Fetch fetch) {
    if constexpr (!kWide) {
      synchronize_block();
      start(passed + kStages, count, thread, fetch);
    }
  }
};

// With kWide, after all have read the last stage and what they wrote is to be copied: the warp that starts copies does so.
INLINE void share_with_server() {
  if constexpr (kWide) {
    publish_to_matrix_unit();
    synchronize_block();
  }
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

INLINE void arrive_at(float* end, const Sizes& sizes, const WalkPlace& place, States& states, int warp, int lane) {
  if (end) for_each_plain(end, sizes, place, states, warp, lane, [](float* to, float state) { *to = state; });
}

// Where the (value, number) matrix of a block's chunk begins: (row, head, chunk, value, number).
template <int kNumbers>
INLINE Stored* of_values(Stored* all, Index number, const WalkPlace& place) {
  return all + (number * kValues + place.value_tile * kValueTile) * kNumbers;
}
