// What fading states add to the outputs of a tile, by a power series in time. Within a unit of steps the state of
// a channel is h e^(d A), with h in the middle of the unit and the time d since then, so that its outputs are
//   C_t . h e^(d A)  =  sum over k of  d^k  C_t . (h A^k / k!).
// The products with C_t have no exponential in them: they are those of a matrix (step, state) and a matrix
// (state, channel) for each k, and the matrix unit's. A term is left out where it is too small to be seen.
#pragma once

#include "tiles.cuh"

// Steps of a unit: the rows of the matrix unit. Its columns are the eight channels of a warp, whose four lanes
// hold states l, l + 4, ... as it wants them.
constexpr int kUnitSteps = 16, kUnits = 2;
constexpr bool kSeries = kHasMatrixUnit && sizeof(Real) == 4 && kStateLanes == 4 && kStatesPerThread % 2 == 0 &&
                         kTile == kUnits * kUnitSteps;
constexpr int kStateEights = kStatesPerThread < 2 ? 1 : kStatesPerThread / 2;

// The largest exponent to which the series is used: in single precision its terms take more products. Where fewer
// states are left, exponentials cost less.
constexpr Real kLongest = Real(sizeof(Stored) == 2 ? 1 : 0.5);
// States and times above this leave no room for the products.
constexpr Real kLargest = Real(1.2676506002282294e30);

// Terms that are not seen, as a part of the sum.
INLINE constexpr Real negligible(Real) { return Real(5.9604645e-8); }
INLINE constexpr Real negligible(BFloat16) { return Real(4.8828125e-4); }
INLINE constexpr Real negligible(Float16) { return Real(6.1035156e-5); }
constexpr Real kNegligible = negligible(Stored());
// Terms in which the 11 bits of the matrix unit would be seen.
constexpr Real kRounded = Real(1024) * kNegligible;

// A value for each step and channel. Rows are padded so that the lanes of a warp meet in few banks, be it that
// neighbours have the same steps or steps of their own.
struct StepCells {
  static constexpr int kRow = kChannels + 8, kEight = 8 * kRow + 8;
  alignas(sizeof(ChannelReals)) Real flat[kTile / 8 * kEight];

  INLINE static int index(int step, int channel) { return step / 8 * kEight + step % 8 * kRow + channel; }
  INLINE Real& at(int step, int channel) { return flat[index(step, channel)]; }
  INLINE const Real& at(int step, int channel) const { return flat[index(step, channel)]; }
  INLINE ChannelReals& pack(int step, int channel) { return reinterpret_cast<ChannelReals&>(at(step, channel)); }
  INLINE const ChannelReals& pack(int step, int channel) const {
    return reinterpret_cast<const ChannelReals&>(at(step, channel));
  }
  INLINE Pack<Real, 2>& pair(int step, int channel) { return reinterpret_cast<Pack<Real, 2>&>(at(step, channel)); }
};

// A tile of C, where lanes read different steps at once without meeting in a bank.
struct PaddedStateRows {
  static_assert(4 % kStateVector == 0, "the padding is made of packs");

  union {
    Real at[kTile][kPaddedStates + 4];
    StateReals packs[kTile][kStatePacksPerStep + 4 / kStateVector];
  };
};

// The time from the start of a tile to the end of each step; the lanes of a channel share them out.
struct Elapsed {
  static constexpr int kCount = kTile > kStateLanes ? kTile / kStateLanes : 1;

  Real times[kCount], whole;
  Real halfway;    // the time to the middle of the tile
  Real variation;  // the sum of the sizes of this thread's steps, whatever their sign

  INLINE Elapsed(const StepCells& cells, const Seat& seat) : whole(0), halfway(0), variation(0) {
    const bool has_steps = seat.state_lane < kTile;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const Real size = has_steps ? cells.at(seat.state_lane * kCount + i, seat.channel) : Real(0);
      variation += magnitude(size);
      times[i] = whole += size;
    }
    Real before = Real(0);
#pragma unroll
    for (int bit = 1; bit < kStateLanes; bit *= 2) {
      const Real other = exchange(whole, bit);
      const bool later = seat.state_lane & bit;
      halfway = later ? other : whole;
      if (later) before += other;
      whole += other;
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) times[i] += before;
  }

  INLINE void write(StepCells& cells, const Seat& seat) const {
    if (seat.state_lane >= kTile) return;
#pragma unroll
    for (int i = 0; i < kCount; ++i) cells.at(seat.state_lane * kCount + i, seat.channel) = times[i];
  }
};

// How far the exponents of a tile's units reach from their middle.
struct Reach {
  bool alive[kStatesPerThread];  // in any channel of the warp
  Real half;                     // no step of this thread's channel is further from the middle of its unit
  Real extent;                   // nor has a greater exponent; endless where a series would not do

  INLINE Reach(const Elapsed& elapsed, const Real (&h)[kStatesPerThread], const Real (&rates)[kStatesPerThread]) {
    Real fastest = Real(0);
    bool fit = magnitude(elapsed.whole) < kLargest;
#pragma unroll
    for (int j = 0; j < kStatesPerThread; ++j) {
      alive[j] = any_of_warp(h[j] != Real(0));
      fastest = larger(fastest, magnitude(rates[j]));
      fit &= magnitude(h[j]) < kLargest;
    }
    if constexpr (kSeries) {
      const Real of_unit = elapsed.variation + exchange(elapsed.variation, 1);
      half = larger(of_unit, exchange(of_unit, 2)) / 2;
      extent = fit ? fastest * half * Real(kLogOf2) : endless<Real>();
    }
  }

  INLINE bool is_short() const {
    if constexpr (!kSeries) return false;
    int left = 0;
#pragma unroll
    for (int j = 0; j < kStatesPerThread; ++j) left += alive[j];
    const Real limit = kLongest / kStatesPerThread * left;
    return !any_of_warp(!(extent <= limit));
  }
};

// The terms of the series for a unit of steps and the channels of a warp. A thread holds states of one channel,
// and the sums of two steps, eight apart, in two channels.
struct UnitSeries {
  static constexpr bool kExactC = sizeof(Stored) == 2;  // to the matrix unit

  float C[kStateEights][4], C_rest[kStateEights][4];  // the latter is what the matrix unit leaves of C
  float terms[kStatesPerThread];
  Real offsets[4], powers[4], sums[4];

  // `first_step` and `first_channel` are this thread's for the sums.
  INLINE void begin(StepCells& cells, const PaddedStateRows& rows, Real middle, int first_step, int first_channel,
                    const Real (&h)[kStatesPerThread], const Real (&rates)[kStatesPerThread], const Seat& seat) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const Pack<Real, 2> of_channels = cells.pair(first_step + i / 2 * 8, first_channel);
      offsets[i] = of_channels.at[i % 2];
      powers[i] = Real(1);
      sums[i] = Real(0);
#pragma unroll
      for (int eight = 0; eight < kStateEights; ++eight) {
        C[eight][i] = static_cast<float>(rows.at[first_step + i % 2 * 8][8 * eight + i / 2 * 4 + seat.state_lane]);
        C_rest[eight][i] = C[eight][i] - leading_part(C[eight][i]);
      }
    }
#pragma unroll
    for (int j = 0; j < kStatesPerThread; ++j) terms[j] = static_cast<float>(h[j] * power_of_two(middle * rates[j]));
  }

  INLINE void multiply(float (&products)[4]) const {
#pragma unroll
    for (int eight = 0; eight < kStateEights; ++eight)
      multiply_matrices(products, C[eight], terms[2 * eight], terms[2 * eight + 1], false);
  }

  // What the matrix unit leaves of its operands.
  INLINE void multiply_rest(float (&products)[4]) const {
#pragma unroll
    for (int eight = 0; eight < kStateEights; ++eight) {
      const float first = terms[2 * eight], second = terms[2 * eight + 1];
      multiply_matrices(products, C[eight], first - leading_part(first), second - leading_part(second), false);
      if constexpr (!kExactC) multiply_matrices(products, C_rest[eight], first, second, false);
    }
  }

  INLINE void add(const float (&products)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[i] += powers[i] * products[i];
  }

  INLINE void next(const float (&growth)[kStatesPerThread]) {
#pragma unroll
    for (int j = 0; j < kStatesPerThread; ++j) terms[j] *= growth[j];
#pragma unroll
    for (int i = 0; i < 4; ++i) powers[i] *= offsets[i];
  }
};

// Turns a tile's cells into what its outputs lack.
INLINE void add_series(StepCells& cells, const PaddedStateRows& C, const Elapsed& elapsed, const Reach& reach,
                       const Real (&h)[kStatesPerThread], const Real (&rates)[kStatesPerThread], const Seat& seat) {
  const Real middles[kUnits] = {elapsed.halfway / 2, (elapsed.halfway + elapsed.whole) / 2};
  const Real scale = reach.half > Real(1e-30) ? reciprocal(reach.half) : Real(0);
  const Real middle = seat.state_lane < 2 ? middles[0] : middles[1];
#pragma unroll
  for (int i = 0; i < Elapsed::kCount; ++i)
    cells.at(seat.state_lane * Elapsed::kCount + i, seat.channel) = scale * (elapsed.times[i] - middle);
  synchronize_warp();

  const int row = seat.lane / 4, first_channel = seat.channel - row + 2 * seat.state_lane;
  UnitSeries units[kUnits];
#pragma unroll
  for (int u = 0; u < kUnits; ++u)
    units[u].begin(cells, C, middles[u], u * kUnitSteps + row, first_channel, h, rates, seat);
  Real weight = Real(1);
#pragma unroll 1
  for (int k = 1;; ++k) {
    float products[kUnits][4] = {};
    if (any_of_warp(weight > kRounded))
#pragma unroll
      for (int u = 0; u < kUnits; ++u) units[u].multiply_rest(products[u]);
#pragma unroll
    for (int u = 0; u < kUnits; ++u) units[u].multiply(products[u]);
#pragma unroll
    for (int u = 0; u < kUnits; ++u) units[u].add(products[u]);
    const Real inverse = reciprocal(Real(k));
    weight *= reach.extent * inverse;
    if (!any_of_warp(weight > kNegligible)) break;
    float growth[kStatesPerThread];
#pragma unroll
    for (int j = 0; j < kStatesPerThread; ++j)
      growth[j] = static_cast<float>(rates[j] * (reach.half * Real(kLogOf2) * inverse));
#pragma unroll
    for (int u = 0; u < kUnits; ++u) units[u].next(growth);
  }
#pragma unroll
  for (int u = 0; u < kUnits; ++u)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      cells.pair(u * kUnitSteps + row + half * 8, first_channel) = {units[u].sums[2 * half],
                                                                    units[u].sums[2 * half + 1]};
}
