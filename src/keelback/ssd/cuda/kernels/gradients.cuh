// The gradients within a chunk, all at once: a block has the heads of a subset, which share B and C. With h the state
// before the chunk, g the gradient of that after it, S_ji = B_j . C_i, and L_ji the decay from j to i (zero for i < j):
//     du_j = sum over i of S_ji L_ji dy_i + (decay from j to the end) g B_j           dx_j = size_j du_j + D dy_j
//     dS_ji = size_j L_ji (x_j . dy_i), summed over the heads                         W_ji = S_ji dS_ji of a head
//     dB_j = sum over i of dS_ji C_i + sum over heads of size_j (decay from j to the end) g^T x_j
//     dC_i = sum over j of dS_ji B_j + sum over heads of (decay to i) h^T dy_i
// The log of the decay at step t takes part in the weights of all pairs j < t <= i, and in what enters and leaves the
// chunk across t: its gradient sums over those, with W summed over columns less W summed over rows from t on. W summed over
// i is x_j . du_j of the pairs, times size_j.
#pragma once

#include "lanes.cuh"
#include "places.cuh"

// Those who include this say what the tiles of operands are, `template <int kRows, int kColumns> using RowsTile`.

struct GradientsArguments {
  Sizes sizes;
  int has_start, has_end, adds, narrows;  // `adds` to dB_sums and dC_sums; `narrows` to dB and dC
  Sequences x, B, C, dy;
  Steps steps;
  const Stored *states, *adjoints;  // (row, chunk, slot): before each chunk, and the gradient after it
  const StoredStep* dt;
  Index dt_row, dt_time, dt_head;
  const float *A, *bias;
  Limits limits;
  const float* D;
  Index D_head;
  Stored* dx;       // (row, time, head, head_dim)
  StoredStep* ddt;  // (row, time, head)
  Stored *dB, *dC;  // (row, time, group, state)
  float *dB_sums, *dC_sums;  // (subset, row, time, group, state)
  float* parts;  // (row, chunk, head, kParts): what the chunk adds to the gradients of A, the bias and D
};

constexpr int kRowWarps = kChunk / 16;
constexpr int kSumWarps = kRowWarps * kSplit;
constexpr int kHeadTiles16 = kHeadTile / 16;               // products of 16 columns along a head's numbers,
constexpr int kOwnHeadTiles = kHeadTiles16 / kSplit;       // and a warp's own
constexpr int kOwnStateTiles = kPaddedStates / 16 / kSplit;  // the same along the states,
constexpr int kOwnSteps = kRowWarps / kSplit;              // and along the steps i of dS
constexpr bool kKeepLeft = kPlanes == 1;
constexpr int kDParts = kSkipPerNumber ? kHeadTiles * kHeadTile : 1;
constexpr int kParts = 2 + kDParts;
static_assert(kHeadTiles16 % kSplit == 0 && kPaddedStates / 16 % kSplit == 0 && kRowWarps % kSplit == 0, "equal parts");

using Factors = RowsTile<kChunk, kPaddedStates>;

struct GradientsStage {
  RowsTile<kChunk, kHeadTile> x, dy;
  Tile<kHeadTile, kPaddedStates> h, g;
  ChunkSteps steps;
};

// What the warps find for the steps of a head, to be put together when the head is done.
struct HeadSums {
  // Of the pairs of two steps; a step's pair with itself has no decay, and in sums from which it goes again it would leave
  // its rounding behind.
  float weights_of_row[kChunk];                 // W summed over i, without size_j
  float weights_of_column[kRowWarps][kChunk];   // W summed over the 16 rows of a warp
  float own_weights[kChunk];                    // W of the pair j, j, without size_j
  float leaves[kSplit][kChunk];                 // x_j . du_j of what goes past the chunk's end
  float enters[kSplit][kChunk];                 // dy_i . (decay to i) h C_i
  float passes[kRowWarps];                      // h . g
  float skips[kSumWarps][kSkipPerNumber ? kHeadTiles * kOwnHeadTiles * 16 : 1];  // x . dy
};

// Where a warp works.
struct GradientsPlace {
  int row, chunk, time, rows;
  Heads heads;
  int row_warp, split;

  INLINE GradientsPlace(const Sizes& sizes, int index, int warp)
      : row(index / (sizes.groups * sizes.subsets) / sizes.chunks),
        chunk(index / (sizes.groups * sizes.subsets) % sizes.chunks),
        time(chunk * kChunk),
        rows(least(kChunk, sizes.length - time)),
        heads(sizes, index / sizes.subsets % sizes.groups, index % sizes.subsets),
        row_warp(warp % kRowWarps),
        split(warp / kRowWarps) {}
};

// Two numbers of each lane: of its rows `row` and row + 8.
struct RowPair {
  float at[2];

  INLINE void add_dot(const float (&sums)[2][4], int half, const Words& x, int r) {
    at[r] += sums[half][r * 2] * x.low();
    at[r] += sums[half][r * 2 + 1] * x.high();
  }
};

INLINE RowPair rows_of(const float (&numbers)[kChunk], int first) { return {{numbers[first], numbers[first + 8]}}; }

// Sums over the lanes of a row, to be written, or added to what an earlier tile of the head left there.
INLINE void put_rows(float (&to)[kChunk], RowPair sums, int first, bool adds, const Seat& seat) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float sum = sum_of_quad(sums.at[r]);
    float& place = to[first + r * 8];
    if (seat.column == 0) place = adds ? place + sum : sum;
  }
}

using Du = float[kOwnHeadTiles][2][4];

// The unit at work: its operands, and where its sums go.
struct Unit {
  const GradientsStage& stage;
  const Factors &B, &C;
  const int (&firsts)[kChunk];
  HeadSums& sums;
  const GradientsPlace& place;
  int lane, first;  // row of the lane in the chunk
  bool adds;        // an earlier tile of the head is done
  int tile;

  INLINE int rows() const { return place.row_warp * 2; }
  INLINE int own_column() const { return place.split * kOwnHeadTiles * 2; }
};

INLINE void add_dots(RowPair& to, const Du& du, const RowsTile<kChunk, kHeadTile>& with, const Unit& unit) {
  const Seat seat(unit.lane);
#pragma unroll
  for (int n = 0; n < kOwnHeadTiles; ++n)
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        to.add_dot(du[n], half, with.pair(unit.rows() + r, unit.own_column() + n * 2 + half, seat), r);
      }
}

// x . dy of each number of the head.
INLINE void find_skips(const Unit& unit) {
  const Seat seat(unit.lane);
  float* skips = unit.sums.skips[unit.place.split * kRowWarps + unit.place.row_warp] + unit.tile * kOwnHeadTiles * 16;
#pragma unroll
  for (int n = 0; n < kOwnHeadTiles * 2; ++n) {
    float low = 0.0f, high = 0.0f;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const Words x = unit.stage.x.pair(unit.rows() + r, unit.own_column() + n, seat);
      const Words dy = unit.stage.dy.pair(unit.rows() + r, unit.own_column() + n, seat);
      low += x.low() * dy.low(), high += x.high() * dy.high();
    }
#pragma unroll
    for (int lanes = 4; lanes < 32; lanes *= 2) low += exchange(low, lanes), high += exchange(high, lanes);
    if (seat.row == 0) skips[n * 8 + seat.column] = low, skips[n * 8 + seat.column + 1] = high;
  }
}

// A sum over the lanes of a warp, to be written, or added to what an earlier tile of the head left there.
INLINE void put_sum(float& to, float x, bool adds, int lane) {
  const float sum = sum_of_warp(x);
  if (lane == 0) to = adds ? to + sum : sum;
}

// What a lane has of the diagonal of a product (16, 16).
INLINE float of_diagonal(const float (&sums)[2][4], const Seat& seat) {
  return seat.column == seat.row ? sums[0][0] + sums[1][2] : seat.column + 1 == seat.row ? sums[0][1] + sums[1][3] : 0.0f;
}

INLINE void write_dx(Du& du, const GradientsArguments& p, const Unit& unit, int head) {
  const Seat seat(unit.lane);
  const RowPair sizes = rows_of(unit.stage.steps.sizes, unit.first);
  const int first_column = unit.tile * kHeadTile + unit.own_column() * 8;
  const float* D = p.D + head * p.D_head + (kSkipPerNumber ? first_column : 0);
  const float of_head = kSkipPerNumber || !p.D ? 0.0f : *D;
#pragma unroll
  for (int n = 0; n < kOwnHeadTiles * 2; ++n) {
    const int column = n * 8 + seat.column;
    const bool present = first_column + column < p.sizes.head_dim;
    const float low = kSkipPerNumber ? present ? D[column] : 0.0f : of_head;
    const float high = kSkipPerNumber ? present ? D[column + 1] : 0.0f : of_head;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const Words dy = unit.stage.dy.pair(unit.rows() + r, unit.own_column() + n, seat);
      float(&pair)[4] = du[n / 2][n % 2];
      pair[r * 2] = pair[r * 2] * sizes.at[r] + low * dy.low();
      pair[r * 2 + 1] = pair[r * 2 + 1] * sizes.at[r] + high * dy.high();
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float low[kOwnHeadTiles * 2], high[kOwnHeadTiles * 2];
#pragma unroll
    for (int n = 0; n < kOwnHeadTiles * 2; ++n) low[n] = du[n / 2][n % 2][r * 2], high[n] = du[n / 2][n % 2][r * 2 + 1];
    const int step = unit.first + r * 8;
    const Index at = (Index(unit.place.row) * p.sizes.length + unit.place.time + step) * p.sizes.heads + head;
    write_row<kOwnHeadTiles * 2>(p.dx + at * p.sizes.head_dim + first_column, low, high, step < unit.place.rows,
                                 p.sizes.head_dim - first_column, seat);
  }
}

// h . g, the trace of their product, of which a warp has some rows.
INLINE void find_passing(const Unit& unit, bool passes) {
  float sum = 0.0f;
  if (passes) {
#pragma unroll
    for (int m = 0; m < kHeadTiles16; m += kRowWarps) {
      const int row = m + unit.place.row_warp;
      if (row >= kHeadTiles16) break;
      float products[2][4] = {};
#pragma unroll
      for (int k = 0; k < kPaddedStates / 8; k += 2) {
        Fragment left, right;
        load_left(left, unit.stage.h, row * 2, k, unit.lane);
        load_right_transposed(right, unit.stage.g, row * 2, k, unit.lane);
        multiply(products, left, right);
      }
      sum += of_diagonal(products, Seat(unit.lane));
    }
  }
  put_sum(unit.sums.passes[unit.place.row_warp], sum, unit.adds, unit.lane);
}

template <int kCount>
INLINE float sum_of(const float (&numbers)[kCount]) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kCount; ++i) sum += numbers[i];
  return sum;
}

template <int kCount>
INLINE float sum_at(const float (&numbers)[kCount][kChunk], int step, int count = kCount) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kCount; ++i) sum += i < count ? numbers[i][step] : 0.0f;
  return sum;
}

// The gradients of dt, A, the bias and D out of the sums of a head, by one warp; lane by lane some consecutive steps.
INLINE void finish_head(const HeadSums& sums, const GradientsArguments& p, const GradientsPlace& place, int head, int lane) {
  constexpr int kSteps = kChunk / 32;
  const float* steps = p.steps.fields + steps_of(p.sizes, place.row, head, place.chunk);
  float ahead[kSteps], behind[kSteps], sizes[kSteps];
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    const int step = lane * kSteps + i;
    sizes[i] = steps[2 * kChunk + step];
    ahead[i] = sum_at(sums.weights_of_column, step, step / 16 + 1) - sizes[i] * sums.weights_of_row[step] +
               sum_at(sums.enters, step);
    behind[i] = sizes[i] * sum_at(sums.leaves, step);
  }
#pragma unroll
  for (int i = kSteps - 2; i >= 0; --i) ahead[i] += ahead[i + 1];
#pragma unroll
  for (int i = 1; i < kSteps; ++i) behind[i] += behind[i - 1];
  float later = ahead[0], earlier = behind[kSteps - 1];
#pragma unroll
  for (int lanes = 1; lanes < 32; lanes *= 2) {
    const float upper = from_upper_lane(later, lanes), lower = from_lower_lane(earlier, lanes);
    later += lane + lanes < 32 ? upper : 0.0f;
    earlier += lane >= lanes ? lower : 0.0f;
  }
  later = from_upper_lane(later, 1), earlier = from_lower_lane(earlier, 1);
  if (lane == 31) later = 0.0f;
  if (lane == 0) earlier = 0.0f;
  const float passing = steps[5 * kChunk - 1] * sum_of(sums.passes);

  const float rate = p.A[head], bias = p.bias ? p.bias[head] : 0.0f;
  float of_rate = 0.0f, of_bias = 0.0f;
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    const int step = lane * kSteps + i;
    if (step >= place.rows) break;
    const float of_log = ahead[i] + later + (i ? behind[i - 1] : 0.0f) + earlier + passing;
    const float raw = widen(p.dt[place.row * p.dt_row + (place.time + step) * p.dt_time + head * p.dt_head]) + bias;
    const float size = kSoftplus ? softplus(raw) : raw;
    float gradient = sums.own_weights[step] + sums.weights_of_row[step] + sum_at(sums.leaves, step) + of_log * rate;
    if (kSoftplus) gradient *= sigmoid(raw);
    if (size < p.limits.low || size > p.limits.high) gradient = 0.0f;
    store(p.ddt + (Index(place.row) * p.sizes.length + place.time + step) * p.sizes.heads + head, gradient);
    of_rate += of_log * sizes[i];
    of_bias += gradient;
  }
  of_rate = sum_of_warp(of_rate), of_bias = sum_of_warp(of_bias);
  float* parts = p.parts + ((Index(place.row) * p.sizes.chunks + place.chunk) * p.sizes.heads + head) * kParts;
  if (lane == 0) parts[0] = of_rate, parts[1] = of_bias;
  if constexpr (kSkipPerNumber) {
    for (int i = lane; i < kDParts; i += 32) {
      const int tile = i / kHeadTile, split = i % kHeadTile / (kOwnHeadTiles * 16), column = i % (kOwnHeadTiles * 16);
      float sum = 0.0f;
#pragma unroll
      for (int warp = 0; warp < kRowWarps; ++warp) {
        sum += sums.skips[split * kRowWarps + warp][tile * kOwnHeadTiles * 16 + column];
      }
      parts[2 + i] = sum;
    }
  } else {
    float sum = 0.0f;
#pragma unroll
    for (int warp = 0; warp < kRowWarps; ++warp) sum += sums.skips[warp][0];
    if (lane == 0) parts[2] = sum;
  }
}

INLINE void write_grouped(Stored* to, float* sums, const float (&from)[kOwnStateTiles][2][4], const GradientsArguments& p,
                          const GradientsPlace& place, int lane) {
  const Seat seat(lane);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int step = place.row_warp * 16 + r * 8 + seat.row;
    if (step >= place.rows) continue;
    const Index numbers = (Index(place.row) * p.sizes.length + place.time + step) * p.sizes.groups + place.heads.group;
    const Index of_subset = Index(place.heads.subset) * p.sizes.batch * p.sizes.length * p.sizes.groups;
#pragma unroll
    for (int n = 0; n < kOwnStateTiles * 2; ++n) {
      const int column = (place.split * kOwnStateTiles * 2 + n) * 8 + seat.column;
      if (column >= p.sizes.states) continue;
      Pack<float, 2> pair = {{from[n / 2][n % 2][r * 2], from[n / 2][n % 2][r * 2 + 1]}};
      Pack<float, 2>* sum = reinterpret_cast<Pack<float, 2>*>(sums + (of_subset + numbers) * p.sizes.states + column);
      if (p.adds) pair.at[0] += sum->at[0], pair.at[1] += sum->at[1];
      if (!p.narrows) {
        *sum = pair;
      } else if constexpr (kHalf) {
        *reinterpret_cast<unsigned*>(to + numbers * p.sizes.states + column) = narrow(Element(), pair.at[0], pair.at[1]);
      } else {
        *reinterpret_cast<Pack<float, 2>*>(to + numbers * p.sizes.states + column) = pair;
      }
    }
  }
}

