// The outputs of a chunk, all at once: a block has the heads of a subset, which share B and C, and a warp 16 steps.
//     y_i = decay to i * h C_i + sum over j <= i of (C_i . B_j)(decay from j to i) size_j x_j,     then skip and gate,
// h the state before the chunk. The scores C_i . B_j are the same for all heads and stay in registers.
//
// With kGateGradient, y is not written: z and the gradient of the gated output give the gradients of z and of y.
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

constexpr int kWarps = kChunk / 16;
constexpr int kThreads = kWarps * 32;
constexpr int kTiles = kHeadTile / 8;
constexpr bool kKeepC = kHalf && kPaddedStates <= 128;

struct OutputsStage {
  Tile<kChunk, kHeadTile> x;
  Tile<kHeadTile, kPaddedStates> h;
  ChunkSteps steps;
};

struct OutputsShared {
  Tile<kChunk, kPaddedStates> C;
  int firsts[kChunk];
  OutputsStage stages[kStages - 1];
  union {
    OutputsStage stage;
    Tile<kChunk, kPaddedStates> B;  // until the scores are there
  } last;

  INLINE OutputsStage& stage(int i) { return i % kStages == kStages - 1 ? last.stage : stages[i % kStages]; }
};

EXPORTED_SIZE(outputs_shared_bytes, OutputsShared)

struct OutputsPlace {
  int row, chunk, time, rows;  // steps of the chunk that are present
  Heads heads;

  INLINE OutputsPlace(const Sizes& sizes, int index)
      : row(index / (sizes.groups * sizes.subsets) / sizes.chunks),
        chunk(sizes.chunks - 1 - index / (sizes.groups * sizes.subsets) % sizes.chunks),
        time(chunk * kChunk),
        rows(least(kChunk, sizes.length - time)),
        heads(sizes, index / sizes.subsets % sizes.groups, index % sizes.subsets) {}
};

INLINE void load_unit(OutputsStage& stage, const OutputsArguments& p, const OutputsPlace& place, int unit, bool states,
                      int thread) {
  const int head = unit / kHeadTiles, tile = unit % kHeadTiles;
  const Stored* x = p.x.of(place.row, place.time, place.heads.first + head) + tile * kHeadTile;
  copy_rows<kThreads>(stage.x, x, p.x.time, place.rows, p.sizes.head_dim - tile * kHeadTile, thread);
  if (states) {
    const Index slot = (Index(place.row) * p.sizes.chunks + place.chunk) * slots_of(p.sizes) + place.heads.slot(p.sizes, head);
    copy_blocks<kThreads>(stage.h, p.states + slot * kStateNumbers + Index(tile) * kHeadTile * kPaddedStates, thread);
  }
  const float* steps = p.steps.fields + steps_of(p.sizes, place.row, place.heads.first + head, place.chunk);
  copy_floats<kThreads, kStepFields * kChunk>(stage.steps.leaving, steps, thread);
}

constexpr int kWarpsOfGroup = 4;

// Scores of the 16 steps of a warp, a product (16, 16) per 16 others: with themselves, the 16 before, and so on; with
// kWide, with the first 16 of the chunk, the next, and so on, as far as any warp of the warpgroup needs them.
struct Scores {
  float at[kWarps][2][4];
};

// Adds up the warp's scores with the 64 steps from 16 j on.
INLINE void find_scores_of_group(Scores& scores, const OutputsShared& shared, int rows, int j, int lane) {
  auto& four = reinterpret_cast<float(&)[kWarpsOfGroup][2][4]>(scores.at[j]);
#pragma unroll
  for (int k = 0; k < kPaddedStates / 8; k += 2) {
    Fragment left;
    load_left(left, shared.C, rows * 2, k, lane);
    add_product<true>(four, left, shared.last.B, k, j * 2, lane);
    close();
  }
  finish(four);
}

INLINE void find_scores(Scores& scores, const OutputsShared& shared, int rows, int lane) {
  clear(scores.at);
  if constexpr (kWide) {
    find_scores_of_group(scores, shared, rows, 0, lane);
    if (kWarps > kWarpsOfGroup && rows >= kWarpsOfGroup) find_scores_of_group(scores, shared, rows, kWarpsOfGroup, lane);
  } else {
#pragma unroll 1
    for (int k = 0; k < kPaddedStates / 8; k += 2) {
      Fragment left;
      load_left(left, shared.C, rows * 2, k, lane);
#pragma unroll
      for (int back = 0; back < kWarps; ++back) {
        if (back > rows) break;
        Fragment right;
        load_right_transposed(right, shared.last.B, (rows - back) * 2, k, lane);
        multiply(scores.at[back], left, right);
      }
    }
  }
}

// The warp's rows of C, kept in registers where there is room.
struct KeptC {
  Fragment at[kKeepC ? kPaddedStates / 16 : 1];

  INLINE void keep(const OutputsShared& shared, int rows, int lane) {
    if constexpr (kKeepC) {
#pragma unroll
      for (int k = 0; k < kPaddedStates / 16; ++k) load_left(at[k], shared.C, rows * 2, k * 2, lane);
    }
  }
};

using Outputs = float[kTiles / 2][2][4];

INLINE void add_states(Outputs& y, const OutputsStage& stage, const OutputsShared& shared, const KeptC& kept, int rows, int lane) {
#pragma unroll
  for (int k = 0; k < kPaddedStates / 16; ++k) {
    Fragment left;
    if constexpr (kKeepC) left = kept.at[k];
    else load_left(left, shared.C, rows * 2, k * 2, lane);
    add_product<true>(y, left, stage.h, k * 2, 0, lane);
    close();
  }
  finish(y);
}

INLINE void decay_states(Outputs& y, const OutputsStage& stage, int rows, int lane) {
  const Seat seat(lane);
  const float low = stage.steps.entering[rows * 16 + seat.row], high = stage.steps.entering[rows * 16 + seat.row + 8];
#pragma unroll
  for (int i = 0; i < kTiles * 4; ++i) flat(y)[i] *= i % 4 < 2 ? low : high;
}

// What the steps of a lane have in common in all products.
struct LaneSteps {
  float logs[2], lows[2];
  int firsts[2];

  INLINE LaneSteps(const OutputsStage& stage, const OutputsShared& shared, int rows, const Seat& seat) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int i = rows * 16 + r * 8 + seat.row;
      logs[r] = stage.steps.logs[i];
      lows[r] = kHalf ? 0.0f : stage.steps.lows[i];
      firsts[r] = kHasReset ? shared.firsts[i] : 0;
    }
  }
};

// The weights of the 16 steps from 16 j on for those of the warp, as a left factor.
template <bool kDiagonal>
INLINE void find_weights(Fragment& left, const float (&scores)[2][4], const LaneSteps& own, const OutputsStage& stage, int j,
                         const Seat& seat) {
  float weights[2][4];
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int within = half * 8 + seat.column + e, column = j * 16 + within;
      const float log = stage.steps.logs[column], size = stage.steps.sizes[column];
      const float low = kHalf ? 0.0f : stage.steps.lows[column];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float exponent = own.logs[r] - log;
        if (!kHalf) exponent += own.lows[r] - low;
        const float weight = scores[half][r * 2 + e] * power_of_two(exponent) * size;
        const bool keeps = (!kDiagonal || within <= r * 8 + seat.row) && (!kHasReset || column >= own.firsts[r]);
        weights[half][r * 2 + e] = keeps ? weight : 0.0f;
      }
    }
  set_left(left, weights);
}

// With kWide, a warp takes part in products with steps after its own, with weights of zero.
INLINE void find_weights_of_group(Fragment& left, const float (&scores)[2][4], const LaneSteps& own, const OutputsStage& stage,
                                  int rows, int j, const Seat& seat) {
  if (j < rows) {
    find_weights<false>(left, scores, own, stage, j, seat);
  } else if (j == rows) {
    find_weights<true>(left, scores, own, stage, j, seat);
  } else {
#pragma unroll
    for (int i = 0; i < kPlanes * 4; ++i) left.at[i / 4][i % 4] = 0;
  }
}

// Adds the 64 steps from 16 j on.
INLINE void add_group(Outputs& y, const OutputsStage& stage, const Scores& scores, const LaneSteps& own, int rows, int j,
                      int lane) {
#pragma unroll
  for (int i = j; i < j + kWarpsOfGroup; ++i) {
    Fragment left;
    find_weights_of_group(left, scores.at[i], own, stage, rows, i, Seat(lane));
    add_product<false>(y, left, stage.x, i * 2, 0, lane);
    close();
  }
  finish(y);
}

INLINE void find_outputs(Outputs& y, const OutputsStage& stage, const OutputsShared& shared, const Scores& scores,
                         const KeptC& kept, bool states, int rows, int lane) {
  const Seat seat(lane);
  const LaneSteps own(stage, shared, rows, seat);
  clear(y);
  if (states) {
    add_states(y, stage, shared, kept, rows, lane);
    decay_states(y, stage, rows, lane);
  }
  if constexpr (kWide) {
    add_group(y, stage, scores, own, rows, 0, lane);
    if (kWarps > kWarpsOfGroup && rows >= kWarpsOfGroup) add_group(y, stage, scores, own, rows, kWarpsOfGroup, lane);
  } else {
#pragma unroll
    for (int back = 0; back < kWarps; ++back) {
      if (back > rows) break;
      Fragment left;
      if (back) find_weights<false>(left, scores.at[back], own, stage, rows - back, seat);
      else find_weights<true>(left, scores.at[back], own, stage, rows, seat);
      add_product<false>(y, left, stage.x, (rows - back) * 2, 0, lane);
    }
  }
}

INLINE void add_skip(Outputs& y, const OutputsStage& stage, const OutputsArguments& p, int head, int first_column,
                     int rows, int lane) {
  const Seat seat(lane);
  const float* D = p.D + head * p.D_head + (kSkipPerNumber ? first_column : 0);
  const float of_head = kSkipPerNumber ? 0.0f : *D;
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    const int column = n * 8 + seat.column;
    const bool present = first_column + column < p.sizes.head_dim;
    const float low = kSkipPerNumber ? present ? D[column] : 0.0f : of_head;
    const float high = kSkipPerNumber ? present ? D[column + 1] : 0.0f : of_head;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const Words x = stage.x.pair(rows * 2 + r, n, seat);
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
INLINE void gate(Outputs& y, Outputs& dz, const OutputsArguments& p, const OutputsPlace& place,
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

INLINE void write_tile(Stored* to, const Outputs& y, const OutputsArguments& p, const OutputsPlace& place,
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

KERNEL void __launch_bounds__(kThreads, kBlocksPerProcessor) outputs_kernel(const OutputsArguments p) {
  SHARED_MEMORY(OutputsShared, shared);
  const int thread = threadIdx.x, warp = uniform(thread / 32), lane = thread % 32;
  const OutputsPlace place(p.sizes, blockIdx.x);
  // Warps that share a scheduler have a lower and an upper part, which together are as much work for all.
  const int rows = !kWide && kWarps == 8 && warp >= 4 ? 11 - warp : warp;
  const int units = place.heads.count * kHeadTiles;
  const bool states = place.chunk > 0 || p.has_start;
  const auto load = [&](int unit) {
    if (unit < units) load_unit(shared.stage(unit), p, place, unit, states, thread);
    close_copies();
  };

  copy_rows<kThreads>(shared.C, p.C.of(place.row, place.time, place.heads.group), p.C.time, place.rows, p.sizes.states, thread);
  copy_rows<kThreads>(shared.last.B, p.B.of(place.row, place.time, place.heads.group), p.B.time, place.rows, p.sizes.states,
                      thread);
  close_copies();
#pragma unroll
  for (int unit = 0; unit < kStages - 1; ++unit) load(unit);
  if constexpr (kHasReset) {
    for (int i = thread; i < kChunk; i += kThreads) {
      shared.firsts[i] = p.steps.firsts[Index(place.row) * p.sizes.chunks * kChunk + place.time + i];
    }
  }
  arrive_with_copies<kStages - 1>();
  Scores scores;
  KeptC kept;
  find_scores(scores, shared, rows, lane);
  kept.keep(shared, rows, lane);

#pragma unroll 1
  for (int unit = 0; unit < units; ++unit) {
    arrive_with_copies<kStages - 2>();
    load(unit + kStages - 1);
    const OutputsStage& stage = shared.stage(unit);
    const int head = place.heads.first + unit / kHeadTiles, first_column = unit % kHeadTiles * kHeadTile;
    Outputs y;
    find_outputs(y, stage, shared, scores, kept, states, rows, lane);
    if (p.D) add_skip(y, stage, p, head, first_column, rows, lane);
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
}
