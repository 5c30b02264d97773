// The outputs of a chunk, all at once: a block has the heads of a subset, which share B and C, and a warp 16
// steps at a time.
//     y_i = decay to i * h C_i + sum over j <= i of (C_i . B_j)(decay from j to i) size_j x_j,     then skip and gate,
// h the state before the chunk. The scores C_i . B_j are the same for all heads and stay in registers.
//
// With kGateGradient, y is not written: z and the gradient of the gated output give the gradients of z and of y.
#pragma once

#include "places.cuh"

struct OutputsArguments {
  Sizes sizes;
  int has_start;
  Sequences x, B, C, z;
  Steps steps;
  const Stored* states;  // before each chunk
  const float* D;
  Index D_head;
  Sequences dy;
  Stored *y, *dz;  // (row, time, head, head_dim)
};

constexpr int kTiles = kHeadTile / 8;
using Outputs = float[kTiles / 2][2][4];

struct ChunkPlace {
  int row, chunk, time, rows;  // steps of the chunk that are present

  INLINE ChunkPlace(const Sizes& sizes, int row, int chunk)
      : row(row), chunk(chunk), time(chunk * kChunk), rows(least(kChunk, sizes.length - time)) {}
};

struct OutputsPlace : ChunkPlace {
  Heads heads;

  INLINE OutputsPlace(const Sizes& sizes, int index)
      : ChunkPlace(sizes, index / (sizes.groups * sizes.subsets) / sizes.chunks,
                   sizes.chunks - 1 - index / (sizes.groups * sizes.subsets) % sizes.chunks),
        heads(sizes, index / sizes.subsets % sizes.groups, index % sizes.subsets) {}
};

INLINE void decay_states(Outputs& y, const ChunkSteps& steps, int rows, int lane) {
  const Seat seat(lane);
  const float low = steps.entering[rows * 16 + seat.row], high = steps.entering[rows * 16 + seat.row + 8];
#pragma unroll
  for (int i = 0; i < kTiles * 4; ++i) y[i / 8][i / 4 % 2][i % 4] *= i % 4 < 2 ? low : high;
}

// What the steps of a lane have in common in all products.
struct LaneSteps {
  float logs[2], lows[2];
  int firsts[2], row;

  INLINE LaneSteps(const ChunkSteps& steps, const int (&resets)[kChunk], int rows, const Seat& seat)
      : row(rows * 16 + seat.row) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int i = rows * 16 + r * 8 + seat.row;
      logs[r] = steps.logs[i];
      lows[r] = kHalf ? 0.0f : steps.rests[i];
      firsts[r] = kHasReset ? resets[i] : 0;
    }
  }
};

// Which of 16 steps take part in the outputs of 16 others: all, those up to each, or those whose numbers say so.
enum class Kept { kAll, kTriangle, kByNumber };

// The weights of the 16 steps from 16 j on for those of the warp, as a left factor.
template <Kept kKept>
INLINE void find_weights(Fragment& left, const float (&scores)[2][4], const LaneSteps& own, const ChunkSteps& steps, int j,
                         const Seat& seat) {
  float weights[2][4];
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int within = half * 8 + seat.column + e, column = j * 16 + within;
      // The size is part of the exponent where it has a log and float32 is precise enough for that.
      constexpr bool kSizeInExponent = kHalf && !kSigned;
      const float log = kSizeInExponent ? steps.rests[column] : steps.logs[column];
      const float size = kSizeInExponent ? 1.0f : steps.sizes[column], low = kHalf ? 0.0f : steps.rests[column];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float exponent = own.logs[r] - log;
        if (!kHalf) exponent += own.lows[r] - low;
        const float weight = scores[half][r * 2 + e] * power_of_two(exponent) * size;
        bool keeps = !kHasReset || column >= own.firsts[r];
        if (kKept == Kept::kTriangle) keeps = keeps && within <= r * 8 + seat.row;
        if (kKept == Kept::kByNumber) keeps = keeps && column <= own.row + r * 8;
        weights[half][r * 2 + e] = keeps ? weight : 0.0f;
      }
    }
  set_left(left, weights);
}

// The weights of the 16 steps from 16 j on; zero for steps after the warp's own, with which it multiplies as others do.
template <bool kBranchless>
INLINE void find_weights_of_group(Fragment& left, const float (&scores)[2][4], const LaneSteps& own, const ChunkSteps& steps,
                                  int rows, int j, const Seat& seat) {
  if constexpr (kBranchless) {
    find_weights<Kept::kByNumber>(left, scores, own, steps, j, seat);
  } else if (j < rows) {
    find_weights<Kept::kAll>(left, scores, own, steps, j, seat);
  } else if (j == rows) {
    find_weights<Kept::kTriangle>(left, scores, own, steps, j, seat);
  } else {
#pragma unroll
    for (int i = 0; i < kPlanes * 4; ++i) left.at[i / 4][i % 4] = 0;
  }
}

// D of a head where it is one number, to be read long before it is needed.
INLINE float skip_of(const OutputsArguments& p, int head) { return p.D && !kSkipPerNumber ? p.D[head * p.D_head] : 0.0f; }

template <typename Rows>
INLINE void add_skip(Outputs& y, const Rows& x_rows, const OutputsArguments& p, float of_head, int head, int first_column,
                     int rows, int lane) {
  const Seat seat(lane);
  const float* D = p.D + head * p.D_head + first_column;
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    const int column = n * 8 + seat.column;
    const bool present = first_column + column < p.sizes.head_dim;
    const float low = kSkipPerNumber ? present ? D[column] : 0.0f : of_head;
    const float high = kSkipPerNumber ? present ? D[column + 1] : 0.0f : of_head;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const Words x = x_rows.pair(rows * 2 + r, n, seat);
      y[n / 2][n % 2][r * 2] += low * x.low();
      y[n / 2][n % 2][r * 2 + 1] += high * x.high();
    }
  }
}

INLINE Pack<float, 2> read_pair(const Stored* from) {
  Pack<float, 2> pair;
  if constexpr (kHalf) {
    const unsigned word = *reinterpret_cast<const unsigned*>(from);
    pair.at[0] = widen_low(Element(), word), pair.at[1] = widen_high(Element(), word);
  } else {
    pair = *reinterpret_cast<const Pack<float, 2>*>(from);
  }
  return pair;
}

// y becomes y silu(z); or, with kGateGradient, the gradient of y, and dz that of z.
INLINE void gate(Outputs& y, Outputs& dz, const OutputsArguments& p, const ChunkPlace& place,
                 int head, int first_column, int rows, int lane) {
  const Seat seat(lane);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int step = rows * 16 + r * 8 + seat.row;
    if (step >= place.rows) continue;
    const Stored* z = p.z.of(place.row, place.time + step, head) + first_column;
    const Stored* dy = kGateGradient ? p.dy.of(place.row, place.time + step, head) + first_column : nullptr;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      const int column = n * 8 + seat.column;
      if (first_column + column >= p.sizes.head_dim) continue;
      const Pack<float, 2> gates = read_pair(z + column);
      Pack<float, 2> gradients = {};
      if (kGateGradient) gradients = read_pair(dy + column);
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& value = y[n / 2][n % 2][r * 2 + e];
        const float s = sigmoid(gates.at[e]), silu = gates.at[e] * s;
        if constexpr (kGateGradient) {
          dz[n / 2][n % 2][r * 2 + e] = gradients.at[e] * value * (s + silu * (1.0f - s));
          value = gradients.at[e] * silu;
        } else {
          value *= silu;
        }
      }
    }
  }
}

INLINE void write_tile(Stored* to, const Outputs& y, const OutputsArguments& p, const ChunkPlace& place,
                       int head, int first_column, int rows, int lane) {
  const Seat seat(lane);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int step = rows * 16 + r * 8 + seat.row;
    float low[kTiles], high[kTiles];
#pragma unroll
    for (int n = 0; n < kTiles; ++n) low[n] = y[n / 2][n % 2][r * 2], high[n] = y[n / 2][n % 2][r * 2 + 1];
    const Index at = ((Index(place.row) * p.sizes.length + place.time + step) * p.sizes.heads + head) * p.sizes.head_dim;
    write_row<kTiles>(to + at + first_column, low, high, step < place.rows, p.sizes.head_dim - first_column, seat);
  }
}

// What happens to the outputs of 16 steps once they are there: skip, gate, and out they go.
template <typename Rows>
INLINE void write_outputs(Outputs& y, const Rows& x_rows, const OutputsArguments& p, const ChunkPlace& place, float skip,
                          int head, int first_column, int rows, int lane) {
  if (p.D) add_skip(y, x_rows, p, skip, head, first_column, rows, lane);
  if constexpr (kGateGradient) {
    Outputs dz;
    gate(y, dz, p, place, head, first_column, rows, lane);
    write_tile(p.dz, dz, p, place, head, first_column, rows, lane);
  } else if constexpr (kHasZ) {
    Outputs none;
    gate(y, none, p, place, head, first_column, rows, lane);
  }
  write_tile(p.y, y, p, place, head, first_column, rows, lane);
}
