// The gradients of a chunk's operands, from the states before it, those of the states after it, what its steps write and
// the gradients of what they should write. A block has a chunk of one head of one row. Formulas and names:
// keelback/delta/chunked/backward.py.
//
// What gradients.cu and gradients_channels.cu share: what is summed over the values, and the rows of q and k.
#pragma once

#include "chunks.cuh"

constexpr int kThreads = kWarps * 32;
constexpr int kParts = kWarps / kRowBlocks;  // of keys and values, for the warps with the same 16 steps
constexpr int kPart = kKey / kParts;         // keys of a warp
constexpr int kValuePart = kWidth / kParts;  // of these, those of a warp
static_assert(kValues % kWidth == 0, "whole tiles of so many values at a time");
static_assert(kWarps % kRowBlocks == 0 && kParts >= 2 && kPart % 16 == 0 && kValuePart % 16 == 0, "warps have whole tiles");

struct ValueStage {
  Operand<kChunk, kWidth> dy, v;
  Tile<kWidth, kKey> states, adjoints;
  Tile<kWidth, kChunk> written, solved;
};

template <typename Arguments>
INLINE void fetch_values(ValueStage& stage, const Arguments& p, const Place& place, int tile, CopyBarrier& full, int thread) {
  if constexpr (kWide) expect_bytes(full, sizeof(stage));
  const Index first = place.number * kValues + tile * kWidth;
  fetch_matrix<kThreads>(stage.solved, p.solved + first * kChunk, full, thread);
  fetch_matrix<kThreads>(stage.states, p.states + first * kKey, full, thread);
  fetch_matrix<kThreads>(stage.adjoints, p.adjoints + first * kKey, full, thread);
  fetch_matrix<kThreads>(stage.written, p.written + first * kChunk, full, thread);
  fetch<kThreads>(stage.dy, p.of_outputs, p.dy, place.row, place.time, place.head, tile * kWidth, place.rows,
                  p.sizes.value - tile * kWidth, full, thread);
  fetch<kThreads>(stage.v, p.of_v, p.v, place.row, place.time, place.head, tile * kWidth, place.rows, p.sizes.value - tile * kWidth,
                  full, thread);
}

// Those of a tile, if there are so many.
template <typename Shared, typename Arguments>
INLINE void start_values(Shared& shared, const Arguments& p, const Place& place, int tile, int thread) {
  if (tile < kValues / kWidth && (!kWide || thread == 0)) {
    fetch_values(shared.stages[tile % kStages], p, place, tile, shared.values[tile % kStages], thread);
  }
  close_copies();
}

// Starts to copy q and k, what is known of the steps, and the first values.
template <typename Shared, typename Arguments>
INLINE void start_chunk(Shared& shared, const Arguments& p, const Place& place, int thread) {
  const int group = p.sizes.group_of(place.head);
  if (!kWide || thread == 0) {
    if constexpr (kWide) {
      set_up(shared.operands);
#pragma unroll
      for (int i = 0; i < kStages; ++i) set_up(shared.values[i]);
      publish_barriers();
      expect_bytes(shared.operands, sizeof(shared.q) + sizeof(shared.k) + sizeof(shared.steps));
    }
    fetch<kThreads>(shared.q, p.of_q, p.q, place.row, place.time, group, 0, place.rows, kKey, shared.operands, thread);
    fetch<kThreads>(shared.k, p.of_k, p.k, place.row, place.time, group, 0, place.rows, kKey, shared.operands, thread);
    fetch_numbers<kThreads, sizeof(shared.steps) / 4>(reinterpret_cast<float*>(&shared.steps),
                                                      reinterpret_cast<const float*>(p.steps + place.number), shared.operands, thread);
  }
  close_copies();
#pragma unroll
  for (int i = 0; i < kStages; ++i) start_values(shared, p, place, i, thread);
}

template <typename Shared>
INLINE void keep_sums(Shared& shared, int which, const float (&sums)[2], int part, int rows, const Seat& seat) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float sum = sum_of_quad(sums[i]);
    if (seat.column == 0) shared.sums[which][part][rows * 16 + i * 8 + seat.row] = sum;
  }
}

template <typename Shared>
INLINE float sum_of_parts(const Shared& shared, int which, int step) {
  float sum = 0.0f;
#pragma unroll
  for (int part = 0; part < kParts; ++part) sum += shared.sums[which][part][step];
  return sum;
}

template <typename To>
INLINE void store_two(To* to, float low, float high) {
  if constexpr (sizeof(To) == 2) *reinterpret_cast<unsigned*>(to) = narrow(To(), low, high);
  else *reinterpret_cast<Pack<float, 2>*>(to) = Pack<float, 2>{{low, high}};
}

// The gradient of rows of q or k before they were multiplied by `factors`: with x what they became, of size `scale`, it is
// factor (sums - x (x . sums) / scale^2), or factor (sums - tile along).
template <int kTiles, typename Arguments>
INLINE void write_rows(StoredOfGroups* to, const Arguments& p, const Place& place, const float (&sums)[kTiles][2][4],
                       const Operand<kChunk, kKey>& tile, const float* factors, const float (&along)[2], int rows, int column,
                       const Seat& seat) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int step = rows * 16 + i * 8 + seat.row;
    if (step >= place.rows) continue;
    const float factor = factors[step];
    StoredOfGroups* row = to + ((Index(place.row) * p.sizes.length + place.time + step) * p.sizes.heads + place.head) * kKey + column + seat.column;
#pragma unroll
    for (int n = 0; n < kTiles * 2; ++n) {
      const Words words = tile.pair(rows * 2 + i, column / 8 + n, seat);
      const float low = sums[n / 2][n % 2][i * 2], high = sums[n / 2][n % 2][i * 2 + 1];
      store_two(row + n * 8, factor * (low - words.low() * along[i]), factor * (high - words.high() * along[i]));
    }
  }
}

// What a warp has: 16 steps, and a part of the keys.
struct KeySums {
  float of_states[2][kPart / 16][2][4];  // dy h^T, and solved h^T
  Sums<kPart / 16> of_adjoints;          // u dh^T
  Sums<kRowBlocks> pairs;                // of the first part solved u^T, of the second dy u^T
};

// dv = beta solved for 16 steps and 16 values, and the sum of solved with v.
template <typename Shared, typename Arguments>
INLINE void write_values(const Shared& shared, const ValueStage& stage, const Arguments& p, const Place& place, int first,
                         int column_block, float (&driven)[2], const Fragment& solved, int rows, const Seat& seat) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int step = rows * 16 + i % 2 * 8 + seat.row, block = column_block + i / 2;
    Words words;
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) words.plane[plane] = solved.at[plane][i];
    const Words v = stage.v.pair(rows * 2 + i % 2, block, seat);
    driven[i % 2] += words.low() * v.low() + words.high() * v.high();
    if (step >= place.rows || first + block * 8 >= p.sizes.value) continue;
    const Index row = (Index(place.row) * p.sizes.length + place.time + step) * p.sizes.heads + place.head;
    const float beta = shared.steps.beta[step];
    store_two(p.dv + row * p.sizes.value + first + block * 8 + seat.column, beta * words.low(), beta * words.high());
  }
}

template <typename Shared, typename Arguments>
INLINE void add_values(KeySums& sums, float (&driven)[2], const Shared& shared, const ValueStage& stage, const Arguments& p,
                       const Place& place, int tile, int rows, int part, int lane) {
#pragma unroll
  for (int k = 0; k < kWidth / 8; k += 2) {
    Fragment lefts[2], written;
    load_left(lefts[0], stage.dy, rows * 2, k, lane);
    load_left_transposed(lefts[1], stage.solved, k, rows * 2, lane);
    load_left_transposed(written, stage.written, k, rows * 2, lane);
    add_to<false>(sums.of_states[0], lefts[0], stage.states, k, part * (kPart / 8), lane);
    add_to<false>(sums.of_states[1], lefts[1], stage.states, k, part * (kPart / 8), lane);
    add_to<false>(sums.of_adjoints, written, stage.adjoints, k, part * (kPart / 8), lane);
    if (part == 0) add_to<false>(sums.pairs, lefts[1], stage.written, k, 0, lane);
    if (part == 1) add_to<false>(sums.pairs, lefts[0], stage.written, k, 0, lane);
    if (k * 8 / kValuePart == part) write_values(shared, stage, p, place, tile * kWidth, k, driven, lefts[1], rows, Seat(lane));
  }
  end_products(sums.of_states[0]);
  end_products(sums.of_states[1]);
  end_products(sums.of_adjoints);
  end_products(sums.pairs);
}

// All that is summed over the values. `add(stage)` takes from some of them what else is needed.
template <typename Shared, typename Arguments, typename Add>
INLINE void sum_values(KeySums& sums, float (&driven)[2], Shared& shared, const Arguments& p, const Place& place, int rows, int part,
                       int thread, const Add& add) {
  clear(sums.of_states[0]), clear(sums.of_states[1]), clear(sums.of_adjoints), clear(sums.pairs);
#pragma unroll 1
  for (int tile = 0; tile < kValues / kWidth; ++tile) {
    if constexpr (kWide) wait_for_bytes(shared.values[tile % kStages], tile / kStages % 2);
    else arrive_with_copies<kStages - 1>();
    const ValueStage& stage = shared.stages[tile % kStages];
    add(stage);
    add_values(sums, driven, shared, stage, p, place, tile, rows, part, thread % 32);
    synchronize_block();
    start_values(shared, p, place, tile + kStages, thread);
  }
  wait_for_copies<0>();
}
