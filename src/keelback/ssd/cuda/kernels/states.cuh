// The states between the chunks. A block walks through the chunks of a segment for a few heads of one row, with the
// states in registers: it writes them down before each chunk, as the other kernels read them, and carries them on,
//     h' = decay of the chunk * h + sum over its steps j of (decay from j to the end * size_j) x_j B_j^T.
// In half precision a step's factor times x is a sum of two numbers: what rounding took from it would stay in the states
// for as long as they remember.
// The gradients of the states walk the other way by the same code: dy takes the place of x, C that of B, and the decay
// from the chunk's start that of the one to its end; what is written is the gradient of the state after each chunk.
//
// Where the length is cut into segments, a first launch (`walk` zero) finds what each but the last adds, beginning with
// zero; in the second, each begins with what those before it add up to.
#pragma once

#include "places.cuh"

struct Walk {
  Sequences x;  // or dy
  Sequences B;  // or C
  const float* start;    // (row, head, head_dim, state), or null for zero
  Stored* states;        // before each chunk: (row, chunk, slot) of kStateNumbers
  float* end;            // (row, head, head_dim, state), or null
};

struct StatesArguments {
  Sizes sizes;
  int segments, chunks_per_segment, first_direction, walk;  // 0 ahead, 1 back
  Walk ahead, back;
  Steps steps;
  float* sums;    // (direction, segment but the last, block of a segment, warp and what it adds)
  float* decays;  // (direction, segment but the last, block of a segment, head of the block)
};

constexpr int kThreads = kWarps * 32;
constexpr int kWarpsPerHead = kWarps / kHeads;
constexpr int kWarpsOfColumns = kWarpsPerHead / kWarpsOfRows;
constexpr int kRowTiles = kHeadTile / kWarpsOfRows / 16;
constexpr int kColumnTiles = kStateTile / kWarpsOfColumns / 16;
constexpr int kStateTiles = kPaddedStates / kStateTile;
constexpr int kStagesPerChunk = kChunk / kRows;
static_assert(kRowTiles >= 1 && kColumnTiles >= 1 && kPaddedStates % kStateTile == 0, "a warp has whole tiles");

// What a block works on, and where a warp's sums lie in it.
struct StatesPlace {
  bool back;
  int direction, segment, row, block, state_tile, head_tile, group, first_head, heads, first_slot, blocks;
  int head, head_row, state_column;

  INLINE StatesPlace(const Sizes& sizes, int segments, int first_direction, int index, int warp) {
    const int head_blocks = (sizes.heads_per_subset + kHeads - 1) / kHeads;
    blocks = sizes.batch * sizes.groups * sizes.subsets * head_blocks * kHeadTiles * kStateTiles;
    block = index % blocks;
    segment = index / blocks % segments;
    direction = index / blocks / segments;
    back = first_direction + direction;
    index = block;
    state_tile = index % kStateTiles, index /= kStateTiles;
    head_tile = index % kHeadTiles, index /= kHeadTiles;
    const int head_block = index % head_blocks;
    index /= head_blocks;
    const int subset = index % sizes.subsets;
    index /= sizes.subsets;
    group = index % sizes.groups;
    row = index / sizes.groups;
    const Heads of_subset(sizes, group, subset);
    first_head = of_subset.first + head_block * kHeads;
    first_slot = of_subset.slot(sizes, head_block * kHeads);
    heads = least(kHeads, of_subset.count - head_block * kHeads);
    head = warp / kWarpsPerHead;
    head_row = warp % kWarpsOfRows * (kHeadTile / kWarpsOfRows);
    state_column = warp % kWarpsPerHead / kWarpsOfRows * (kStateTile / kWarpsOfColumns);
  }
};

// The field of ChunkSteps with what a step is multiplied by, and the last of the decays from the chunk's start.
INLINE int decays_of(const StatesPlace& place) { return (place.back ? 4 : 0) * kChunk; }
constexpr int kLastEntering = 5 * kChunk - 4;

// The states that a warp has.
struct States {
  float at[kRowTiles][kColumnTiles][2][4];

  INLINE void clear() {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) ::clear(at[m]);
  }
  INLINE void scale(float factor) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
      for (int i = 0; i < kColumnTiles * 8; ++i) at[m][i / 8][i / 4 % 2][i % 4] *= factor;
  }
};

// For each pair of adjacent sums, `visit(row block, column block, low, high)`, the blocks counted from the warp's first.
template <typename Visit>
INLINE void for_each_pair(States& sums, Visit visit) {
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          visit(m * 2 + i, n * 2 + half, sums.at[m][n][half][i * 2], sums.at[m][n][half][i * 2 + 1]);
        }
}

INLINE void write_states(const StatesArguments& p, const Walk& walk, const StatesPlace& place, int chunk, States& sums,
                         int lane) {
  const Index slot = (Index(place.row) * p.sizes.chunks + chunk) * slots_of(p.sizes) + place.first_slot + place.head;
  const Seat seat(lane);
  const int first_row = (place.head_tile * kHeadTile + place.head_row) / 8;
  const int first_column = (place.state_tile * kStateTile + place.state_column) / 8;
  Stored* to = walk.states + slot * kStateNumbers + (first_row * (kPaddedStates / 8) + first_column) * kBlockNumbers +
               seat.row * 8 + seat.column;
  for_each_pair(sums, [&](int row, int column, float low, float high) {
    Stored* pair = to + (row * (kPaddedStates / 8) + column) * kBlockNumbers;
    if constexpr (kHalf) {
      *reinterpret_cast<unsigned*>(pair) = narrow(Element(), low, high);
    } else {
      *reinterpret_cast<Pack<float, 2>*>(pair) = Pack<float, 2>{{low, high}};
    }
  });
}

// `visit(address, low, high)` for the pairs of adjacent states in a plain array (row, head, head_dim, state) that are present.
template <typename Number, typename Visit>
INLINE void for_each_plain(Number* plain, const StatesArguments& p, const StatesPlace& place, States& sums, int lane,
                           Visit visit) {
  const Seat seat(lane);
  const Index head = Index(place.row) * p.sizes.heads + place.first_head + place.head;
  Number* from = plain + head * p.sizes.head_dim * p.sizes.states;
  for_each_pair(sums, [&](int row_block, int column_block, float& low, float& high) {
    const int row = place.head_tile * kHeadTile + place.head_row + row_block * 8 + seat.row;
    const int column = place.state_tile * kStateTile + place.state_column + column_block * 8 + seat.column;
    if (row >= p.sizes.head_dim || column >= p.sizes.states) return;
    visit(from + row * p.sizes.states + column, low, high);
  });
}

// The states before the first step, or zero.
INLINE void set_out(States& sums, const StatesArguments& p, const Walk& walk, const StatesPlace& place, int lane) {
  sums.clear();
  if (walk.start && p.walk && place.head < place.heads) {
    for_each_plain(walk.start, p, place, sums, lane, [](const float* from, float& low, float& high) { low = from[0], high = from[1]; });
  }
}

// The states after the last step.
INLINE void write_end(States& sums, const StatesArguments& p, const Walk& walk, const StatesPlace& place, int lane) {
  for_each_plain(walk.end, p, place, sums, lane, [](float* to, float low, float high) {
    *reinterpret_cast<Pack<float, 2>*>(to) = Pack<float, 2>{{low, high}};
  });
}

constexpr int kSumsOfThread = kRowTiles * kColumnTiles * 8;

INLINE Index number_of(const StatesArguments& p, const StatesPlace& place, int segment) {
  return (Index(place.direction) * (p.segments - 1) + segment) * place.blocks + place.block;
}

INLINE Pack<float, 4>* sums_of(const StatesArguments& p, const StatesPlace& place, int segment, int warp, int lane) {
  return reinterpret_cast<Pack<float, 4>*>(p.sums) +
         (number_of(p, place, segment) * kWarps + warp) * (kSumsOfThread / 4) * 32 + lane;
}

// What the segments before this one add up to at its start. A thread finds its own sums as it left them.
INLINE void add_segments(States& sums, const StatesArguments& p, const StatesPlace& place, int warp, int lane) {
  for (int segment = 0; segment < place.segment; ++segment) {
    const float decay = p.decays[number_of(p, place, segment) * kHeads + place.head];
    const Pack<float, 4>* from = sums_of(p, place, segment, warp, lane);
#pragma unroll
    for (int i = 0; i < kSumsOfThread / 4; ++i) {
      const Pack<float, 4> four = from[i * 32];
      float* to = &sums.at[0][0][0][0] + i * 4;
#pragma unroll
      for (int j = 0; j < 4; ++j) to[j] = to[j] * decay + four.at[j];
    }
  }
}

INLINE void keep_segment(const States& sums, float decay, const StatesArguments& p, const StatesPlace& place, int warp,
                         int lane) {
  Pack<float, 4>* to = sums_of(p, place, place.segment, warp, lane);
#pragma unroll
  for (int i = 0; i < kSumsOfThread / 4; ++i) {
    Pack<float, 4> four;
#pragma unroll
    for (int j = 0; j < 4; ++j) four.at[j] = (&sums.at[0][0][0][0])[i * 4 + j];
    to[i * 32] = four;
  }
  if (lane == 0 && warp % kWarpsPerHead == 0) p.decays[number_of(p, place, place.segment) * kHeads + place.head] = decay;
}

