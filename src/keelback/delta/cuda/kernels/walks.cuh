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

// Where a chunk of a head is.
struct ChunkPlace {
  int row, group, time, rows;
  Index number;

  INLINE ChunkPlace(const Sizes& sizes, const WalkPlace& place, int chunk)
      : row(place.row), group(sizes.group_of(place.head)), time(chunk * kChunk), rows(sizes.length - time), number(place.number(sizes, chunk)) {}
};

// q and k where the walks read them: as they are, and what belongs to their steps;
struct HeadKeys {
  Sequences q, k;
  const ChunkSteps* steps;
};
// or, with a decay per key channel, as they enter and leave their chunk, and what belongs to the chunk.
struct ChannelKeys {
  const Stored *entered_q, *left_k, *entered_k;
  const ChannelNumbers* numbers;
};
using Keys = typename ChoiceOf<kByChannel, ChannelKeys, HeadKeys>::Type;

// A chunk of them: keys to read along, and keys to write along.
using Queries = typename ChoiceOf<kByChannel, Tile<kChunk, kKey>, Operand<kChunk, kKey>>::Type;
struct OneKey {
  Operand<kChunk, kKey> k;

  INLINE const Operand<kChunk, kKey>& left_k() const { return k; }
};
struct TwoKeys {
  Tile<kChunk, kKey> k, left;

  INLINE const Tile<kChunk, kKey>& left_k() const { return left; }
};
using WalkKeys = typename ChoiceOf<kByChannel, TwoKeys, OneKey>::Type;
struct StepNumbers {
  float entering[kChunk], entered_q[kChunk], left_k[kChunk], entered_k[kChunk], beta[kChunk];
};
using Numbers = typename ChoiceOf<kByChannel, ChannelNumbers, StepNumbers>::Type;

INLINE void fetch_q(Operand<kChunk, kKey>& to, const HeadKeys& p, const TensorMap& map, const ChunkPlace& at, CopyBarrier& full, int thread) {
  fetch<kThreads>(to, map, p.q, at.row, at.time, at.group, 0, at.rows, kKey, full, thread);
}
INLINE void fetch_keys(OneKey& to, const HeadKeys& p, const TensorMap& map, const ChunkPlace& at, CopyBarrier& full, int thread) {
  fetch<kThreads>(to.k, map, p.k, at.row, at.time, at.group, 0, at.rows, kKey, full, thread);
}
INLINE void fetch_decays(StepNumbers& to, const HeadKeys& p, const ChunkPlace& at, CopyBarrier& full, int thread) {
  fetch_numbers<kThreads, sizeof(to) / 4>(to.entering, p.steps[at.number].entering, full, thread);
}

INLINE void fetch_q(Tile<kChunk, kKey>& to, const ChannelKeys& p, const TensorMap&, const ChunkPlace& at, CopyBarrier& full, int thread) {
  fetch_matrix<kThreads>(to, p.entered_q + at.number * (kChunk * kKey), full, thread);
}
INLINE void fetch_keys(TwoKeys& to, const ChannelKeys& p, const TensorMap&, const ChunkPlace& at, CopyBarrier& full, int thread) {
  fetch_matrix<kThreads>(to.k, p.entered_k + at.number * (kChunk * kKey), full, thread);
  fetch_matrix<kThreads>(to.left, p.left_k + at.number * (kChunk * kKey), full, thread);
}
INLINE void fetch_decays(ChannelNumbers& to, const ChannelKeys& p, const ChunkPlace& at, CopyBarrier& full, int thread) {
  fetch_numbers<kThreads, sizeof(to) / 4>(to.across, p.numbers[at.number].across, full, thread);
}

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

// The states across a chunk.
INLINE void decay(States& states, const StepNumbers& numbers, int) {
  const float across = numbers.entering[kChunk - 1];
  scale_rows_of(states, across, across);
}
INLINE void decay(States& states, const ChannelNumbers& numbers, int lane) { scale_columns_of(states, numbers.across, lane); }

// Sums along the steps, times what makes q and k those that enter and leave the chunk, if they are not.
template <int kTiles>
INLINE void scale_entered(float (&sums)[kTiles][2][4], const StepNumbers& numbers, int lane) {
  wait_for<1>(sums);
  scale_columns_of(sums, numbers.entered_q, lane);
}
template <int kTiles>
INLINE void scale_left(float (&sums)[kTiles][2][4], const StepNumbers& numbers, int lane) {
  scale_columns_of(sums, numbers.left_k, lane);
}
template <int kTiles>
INLINE void scale_entered(float (&)[kTiles][2][4], const ChannelNumbers&, int) {}
template <int kTiles>
INLINE void scale_left(float (&)[kTiles][2][4], const ChannelNumbers&, int) {}

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
