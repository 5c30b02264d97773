// The gradients of a chunk's operands, from the states before it, those of the states after it, what its steps write and
// the gradients of what they should write. A block has a chunk of one head of one row. Formulas and names: keelback/delta/chunked/backward.py.
#pragma once

#include "chunks.cuh"

struct GradientsArguments {
  TensorMap of_q, of_k, of_v, of_outputs;
  Sizes sizes;
  Sequences q, k, v, dy;
  const unsigned char* reset;
  Index reset_row, reset_time;
  struct {
    float scale, nothing;
  } options;
  const ChunkSteps* steps;  // (row, head, chunk), as what follows
  const Stored* states;     // before each chunk, (value, key)
  const Stored* adjoints;   // of those after, (value, key)
  const Stored* written;    // u, (value, step)
  const Stored* solved;     // z, (value, step)
  StoredOfGroups *dq, *dk;  // (row, time, head, key)
  Stored* dv;               // (row, time, head, value)
  StoredDecay* dg;          // (row, time, head)
  StoredBeta* dbeta;        // (row, time, head)
};

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

// Sums over the keys or values of a warp, of which a step's gradients are made:
enum Sum { kQueries, kRead, kWritten, kMoved, kErased, kDriven, kSums };

struct GradientsShared {
  Operand<kChunk, kKey> q, k;
  union {
    ValueStage stages[kStages];
    struct {
      Tile<kChunk, kChunk> of_keys, of_queries;
    };
  };
  ChunkSteps steps;
  float sums[kSums][kParts][kChunk];
  float across[kWarps];
  CopyBarrier operands, values[kStages];
};

EXPORTED_SIZE(gradients_shared_bytes, GradientsShared)

INLINE void fetch_values(ValueStage& stage, const GradientsArguments& p, const Place& place, int tile, CopyBarrier& full, int thread) {
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

// Rows of a tile times what they are to be multiplied by.
INLINE void scale_rows_of(Operand<kChunk, kKey>& tile, const float* factors, int thread) {
  constexpr int kPairs = kChunk * kKey / 2;
#pragma unroll
  for (int i = 0; i < kPairs / kThreads; ++i) {
    const int pair = i * kThreads + thread, block = pair / 32, row_block = block / (kKey / 8), column_block = block % (kKey / 8);
    const Seat seat(pair % 32);
    const float factor = factors[row_block * 8 + seat.row];
    const Words words = tile.pair(row_block, column_block, seat);
    tile.set(row_block, column_block, seat, split(words.low() * factor, words.high() * factor));
  }
}

// The sum over a tile of the products of two.
template <int kRows, int kColumns>
INLINE float product_of_tiles(const Tile<kRows, kColumns>& left, const Tile<kRows, kColumns>& right, int thread) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kRows * kColumns / 2 / kThreads; ++i) {
    const int pair = i * kThreads + thread, block = pair / 32;
    const int row_block = block / Tile<kRows, kColumns>::kColumnBlocks, column_block = block % Tile<kRows, kColumns>::kColumnBlocks;
    const Words a = left.pair(row_block, column_block, Seat(pair % 32)), b = right.pair(row_block, column_block, Seat(pair % 32));
    sum += a.low() * b.low() + a.high() * b.high();
  }
  return sum;
}

// The products of sums (16, kPart) of a warp's steps and keys with its tile of k or q, added up over the keys: for each of
// a lane's two rows.
template <int kTiles>
INLINE void sum_rows(float (&to)[2], const float (&sums)[kTiles][2][4], const Operand<kChunk, kKey>& tile, int rows,
                     int column, const Seat& seat) {
  to[0] = to[1] = 0.0f;
#pragma unroll
  for (int n = 0; n < kTiles * 2; ++n)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const Words words = tile.pair(rows * 2 + i, column / 8 + n, seat);
      to[i] += sums[n / 2][n % 2][i * 2] * words.low() + sums[n / 2][n % 2][i * 2 + 1] * words.high();
    }
}

INLINE void keep_sums(GradientsShared& shared, Sum which, const float (&sums)[2], int part, int rows, const Seat& seat) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float sum = sum_of_quad(sums[i]);
    if (seat.column == 0) shared.sums[which][part][rows * 16 + i * 8 + seat.row] = sum;
  }
}

INLINE float sum_of_parts(const GradientsShared& shared, Sum which, int step) {
  float sum = 0.0f;
#pragma unroll
  for (int part = 0; part < kParts; ++part) sum += shared.sums[which][part][step];
  return sum;
}

// The gradients of the log decays and of beta, by a warp.
INLINE void write_steps(GradientsShared& shared, const GradientsArguments& p, const Place& place, int lane) {
  constexpr int kSteps = kChunk / 32;
  float across = 0.0f;
#pragma unroll
  for (int i = 0; i < kWarps; ++i) across += shared.across[i];
  float moved = 0.0f, logs[kSteps];
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    const int step = lane * kSteps + i;
    // The last step's decay comes before what it writes.
    const float to_end = step == kChunk - 1 ? 0.0f : sum_of_parts(shared, kMoved, step);
    logs[i] = sum_of_parts(shared, kQueries, step) + sum_of_parts(shared, kRead, step) - sum_of_parts(shared, kWritten, step) - to_end;
    moved += to_end;
  }
  moved = sum_of_warp(moved);
  if (lane == 31) logs[kSteps - 1] += moved + across * shared.steps.across();
  // Sums over later steps leave what lies between.
#pragma unroll
  for (int i = kSteps - 2; i >= 0; --i) logs[i] += logs[i + 1];
  float after = logs[0];
#pragma unroll
  for (int lanes = 1; lanes < 32; lanes *= 2) {
    const float other = from_upper_lane(after, lanes);
    if (lane + lanes < 32) after += other;
  }
  after = from_upper_lane(after, 1);
  if (lane == 31) after = 0.0f;
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    const int step = lane * kSteps + i, time = place.time + step;
    if (step >= place.rows) continue;
    const Index at = (Index(place.row) * p.sizes.length + time) * p.sizes.heads + place.head;
    float dlog = logs[i] + after;
    if constexpr (kHasReset) {
      if (p.reset[place.row * p.reset_row + time * p.reset_time]) dlog = 0.0f;  // Nothing is left to decay there.
    }
    store(p.dg + at, dlog);
    store(p.dbeta + at, sum_of_parts(shared, kDriven, step) - shared.steps.entering[step] * sum_of_parts(shared, kErased, step));
  }
}

template <typename To>
INLINE void store_two(To* to, float low, float high) {
  if constexpr (sizeof(To) == 2) *reinterpret_cast<unsigned*>(to) = narrow(To(), low, high);
  else *reinterpret_cast<Pack<float, 2>*>(to) = Pack<float, 2>{{low, high}};
}

// The gradient of rows of q or k before they were multiplied by `factors`: with x what they became, of size `scale`, and
// along = x . sums, it is factor (sums - x along / scale^2).
template <int kTiles>
INLINE void write_rows(StoredOfGroups* to, const GradientsArguments& p, const Place& place, const float (&sums)[kTiles][2][4],
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
