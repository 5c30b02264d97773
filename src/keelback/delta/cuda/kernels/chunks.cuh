// What all kernels of a delta rule share: its sizes, what is known of each step of a chunk, and the parts of a chunk that
// they hand to each other, which are matrices in blocks of 8 x 8 as tiles hold them.
//
// The names are those of keelback/delta/chunked/blocks.py; states and what is written lie transposed, (value, key) and
// (value, step), so that a warp with 16 values carries them through a chunk in its registers alone.
#pragma once

#include "panels.cuh"

// The launch has `count` chunks of each head, from `first` on.
struct Sizes {
  int batch, length, heads, groups, chunks, value, first, count;

  INLINE int group_of(int head) const { return head / (heads / groups); }
  INLINE int blocks() const { return batch * heads * count; }
};

constexpr int kRowBlocks = kChunk / 16;
static_assert(!kWide || kHalf, "float32 is multiplied by single warps");

template <bool kFirst, typename First, typename Second>
struct ChoiceOf {
  using Type = First;
};
template <typename First, typename Second>
struct ChoiceOf<false, First, Second> {
  using Type = Second;
};

// Rows of an operand in shared memory, and what tells that they are there: with kWide the copying unit writes them.
template <int kRows, int kColumns>
using Operand = typename ChoiceOf<kWide, Panels<kRows, kColumns>, Tile<kRows, kColumns>>::Type;

// sums += left right, by a warp or, with kWide, by the four of its warpgroup, before `end_products` returns.
template <bool kTransposed, int kTiles, typename Right>
INLINE void add_to(float (&sums)[kTiles][2][4], const Fragment& left, const Right& right, int k, int n, int lane) {
  if constexpr (kWide) multiply_together<kTransposed>(sums, left, right, k, n);
  else add_product<kTransposed>(sums, left, right, k, n, lane);
}
// The same for several left factors along the 16s of the right one's depth, from kBegin on to kEnd, which are all under way
// on return; if fresh, what the sums were does not count.
template <bool kTransposed, int kBegin, int kEnd, bool kFresh, int kTiles, int kCount, typename Right>
INLINE void add_some(float (&sums)[kTiles][2][4], const Fragment (&lefts)[kCount], const Right& right, int lane, int n = 0) {
  if constexpr (kWide) {
    const auto first = right_of<kTransposed>(right, 0, 0, n);
    begin_products();
    if constexpr (kFresh) {
      multiply_group<kTransposed, true>(Element(), flat(sums), lefts[kBegin].at[0], moved(first, bytes_along_depth<kTransposed>(right, kBegin)));
    }
#pragma unroll
    for (int k = kBegin + kFresh; k < kEnd; ++k) {
      multiply_group<kTransposed>(Element(), flat(sums), lefts[k].at[0], moved(first, bytes_along_depth<kTransposed>(right, k)));
    }
    close_products();
  } else {
    if constexpr (kFresh) clear(sums);
#pragma unroll
    for (int k = kBegin; k < kEnd; ++k) add_product<kTransposed>(sums, lefts[k], right, k * 2, n, lane);
  }
}
template <bool kTransposed, bool kFresh = false, int kTiles, int kCount, typename Right>
INLINE void add_all(float (&sums)[kTiles][2][4], const Fragment (&lefts)[kCount], const Right& right, int lane, int n = 0) {
  add_some<kTransposed, 0, kCount, kFresh>(sums, lefts, right, lane, n);
}
// Waits for these sums, where at most kLeft calls of `add_all` came after theirs; and for those whose left factors these are.
template <int kLeft, int kTiles>
INLINE void wait_for(float (&sums)[kTiles][2][4]) {
  if constexpr (kWide) await<kLeft>(sums);
}
// Has what was done with the sums done by here, while products are under way.
template <int kTiles>
INLINE void hold(float (&sums)[kTiles][2][4]) {
  if constexpr (kWide) pin(flat(sums));
}
template <int kCount>
INLINE void release(Fragment (&lefts)[kCount]) {
  if constexpr (kWide) let_go(lefts);
}
template <int kTiles>
INLINE void end_products(float (&sums)[kTiles][2][4]) {
  if constexpr (kWide) finish(sums);
}

// What threads wrote to shared memory before is there for all of them after, and for the matrix unit.
INLINE void share() {
  if constexpr (kWide) publish_to_matrix_unit();
  synchronize_block();
}

// Starts to copy rows of an operand; of the threads that copy, the copying unit needs one.
template <int kThreads, int kRows, int kColumns>
INLINE void fetch(Panels<kRows, kColumns>& to, const TensorMap& map, const Sequences& from, int row, int time, int head, int number,
                  int rows, int columns, CopyBarrier& full, int thread) {
  fetch_rows<kThreads>(to, map, from, number, head, time, row, rows, columns, full, thread);
}
template <int kThreads, int kRows, int kColumns>
INLINE void fetch(Tile<kRows, kColumns>& to, const TensorMap&, const Sequences& from, int row, int time, int head, int number,
                  int rows, int columns, CopyBarrier&, int thread) {
  copy_rows<kThreads>(to, from.of(row, time, head) + number, from.time, rows, columns, thread);
}
// The same for a matrix in blocks, and for floats.
template <int kThreads, int kRows, int kColumns>
INLINE void fetch_matrix(Tile<kRows, kColumns>& to, const Stored* from, CopyBarrier& full, int thread) {
  if constexpr (kWide) copy_bytes(&to, from, sizeof(to), full);
  else copy_blocks<kThreads>(to, from, thread);
}
template <int kThreads, int kCount>
INLINE void fetch_numbers(float* to, const float* from, CopyBarrier& full, int thread) {
  if constexpr (kWide) copy_bytes(to, from, kCount * 4, full);
  else copy_floats<kThreads, kCount>(to, from, thread);
}
constexpr int kValues = kValueTiles * kValueTile;

// A log of a decay, as the sum of two floats.
struct alignas(8) Log {
  float at, rest;

  INLINE void set(double log) { at = static_cast<float>(log), rest = static_cast<float>(log - at); }
  INLINE float since(const Log& before) const { return (at - before.at) + (rest - before.rest); }
};

// Of the steps of a chunk of a head: the logs (base 2) of the decays from the chunk's start up to and with each; these
// decays, and those from each to the chunk's end, zero across a reset; what q and k are multiplied by, and the same times
// the decays from the start and to the end; beta; and how many resets there were up to and with each.
struct alignas(16) ChunkSteps {
  Log logs[kChunk];
  float leaving[kChunk], q_factors[kChunk], k_factors[kChunk], entering[kChunk], entered_q[kChunk], left_k[kChunk];
  float entered_k[kChunk], beta[kChunk];
  int epochs[kChunk];

  INLINE float across() const { return entering[kChunk - 1]; }
};
constexpr int kStepsBytes = kChunk * 44;
static_assert(sizeof(ChunkSteps) == kStepsBytes, "as the host reckons");

// What the walks need of a chunk where each key channel has its own decay: those of the whole chunk, and beta.
struct alignas(16) ChannelNumbers {
  float across[kKey], beta[kChunk];
};

// Which chunk of which head of which row. A chunk of all heads, which lie side by side, comes before the next.
struct Place {
  int row, head, chunk, time, rows;
  Index number, of_head;  // of (row, head, chunk) and of (row, head)

  INLINE Place(const Sizes& sizes, int index) : of_head(index % (sizes.batch * sizes.heads)) {
    chunk = sizes.first + index / (sizes.batch * sizes.heads);
    number = of_head * sizes.chunks + chunk;
    head = of_head % sizes.heads;
    row = of_head / sizes.heads;
    time = chunk * kChunk;
    rows = sizes.length - time;
  }
};

// A lane's two steps of 16, and the decays to them from a pair of steps that are not after them; those from steps that are
// mean nothing.
struct LaneSteps {
  Log logs[2];
  int epochs[2];

  INLINE LaneSteps(const ChunkSteps& steps, int rows, const Seat& seat) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      logs[i] = steps.logs[rows * 16 + i * 8 + seat.row];
      epochs[i] = kHasReset ? steps.epochs[rows * 16 + i * 8 + seat.row] : 0;
    }
  }
  INLINE void find_decays(float (&decays)[2][2], const ChunkSteps& steps, int from) const {
    const auto of_pair = *reinterpret_cast<const Pack<Log, 2>*>(&steps.logs[from]);
    Pack<int, 2> epochs_of_pair = {};
    if constexpr (kHasReset) epochs_of_pair = *reinterpret_cast<const Pack<int, 2>*>(&steps.epochs[from]);
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        decays[i][j] = power_of_two(logs[i].since(of_pair.at[j]));
        if (kHasReset && epochs[i] != epochs_of_pair.at[j]) decays[i][j] = 0.0f;
      }
  }
};

// Two adjacent numbers of a matrix in blocks, in global memory.
template <int kColumns>
INLINE void store_pair(Stored* matrix, int row_block, int column_block, const Seat& seat, float low, float high) {
  Stored* pair = matrix + (row_block * (kColumns / 8) + column_block) * kBlockNumbers + seat.row * 8 + seat.column;
  if constexpr (kHalf) *reinterpret_cast<unsigned*>(pair) = narrow(Element(), low, high);
  else *reinterpret_cast<Pack<float, 2>*>(pair) = Pack<float, 2>{{low, high}};
}

// Sums (16, 16 kTiles) to such a matrix, from block (row_block, column_block) on.
template <int kColumns, int kTiles>
INLINE void store_blocks(Stored* matrix, int row_block, int column_block, const float (&sums)[kTiles][2][4], int lane) {
  const Seat seat(lane);
#pragma unroll
  for (int n = 0; n < kTiles * 2; ++n)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      store_pair<kColumns>(matrix, row_block + i, column_block + n, seat, sums[n / 2][n % 2][i * 2], sums[n / 2][n % 2][i * 2 + 1]);
    }
}

// The sums times a number of each of their columns.
template <int kTiles>
INLINE void scale_columns_of(float (&sums)[kTiles][2][4], const float* factors, int lane) {
  const Seat seat(lane);
#pragma unroll
  for (int n = 0; n < kTiles * 2; ++n) {
    const Pack<float, 2> pair = *reinterpret_cast<const Pack<float, 2>*>(factors + n * 8 + seat.column);
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[n / 2][n % 2][i] *= pair.at[i % 2];
  }
}

// The same times a number of each of a lane's two rows.
template <int kTiles>
INLINE void scale_rows_of(float (&sums)[kTiles][2][4], float of_row, float of_eighth) {
#pragma unroll
  for (int n = 0; n < kTiles * 8; ++n) sums[n / 8][n / 4 % 2][n % 4] *= n / 2 % 2 ? of_eighth : of_row;
}

// Sums (16, 16 kTiles) as left factors.
template <int kTiles>
INLINE void set_lefts(Fragment (&to)[kTiles], const float (&sums)[kTiles][2][4]) {
#pragma unroll
  for (int i = 0; i < kTiles; ++i) set_left(to[i], sums[i]);
}
