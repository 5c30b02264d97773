// Rows of channels, in groups that are normalised each by itself: which parts of which rows a thread has.
#pragma once

#include "configuration.h"

using Index = long long;

constexpr int kPieceBytes = 16;              // the most that a thread moves at once
constexpr int kPieces = kSize / kVector;     // of a group
constexpr int kTeams = kThreads / kTeam;     // of a block; a team has one group of a row at a time
constexpr int kWarps = kThreads / 32;
constexpr bool kGateFirst = kHasGate && !kNormFirst, kGateLast = kHasGate && kNormFirst;

// `kVector` neighbouring numbers as they lie in memory.
template <typename T>
struct Values {
  static constexpr bool kWhole = kVector * static_cast<int>(sizeof(T)) <= kPieceBytes;
  static constexpr int kPack = kWhole ? kVector : kPieceBytes / static_cast<int>(sizeof(T));
  Packed<T, kPack> packs[kVector / kPack];

  INLINE Real at(int i) const { return packs[i / kPack].at(i % kPack); }
  INLINE void load(const T* from) {
#pragma unroll
    for (int i = 0; i < kVector / kPack; ++i) packs[i] = reinterpret_cast<const Packed<T, kPack>*>(from)[i];
  }
  INLINE void clear() {
#pragma unroll
    for (int i = 0; i < kVector / kPack; ++i) packs[i].fill(T());
  }
};

template <typename T>
INLINE void store_values(T* to, const Real (&numbers)[kVector]) {
  constexpr int kPack = Values<T>::kPack;
#pragma unroll
  for (int i = 0; i < kVector / kPack; ++i) {
    Pack<Real, kPack> part;
#pragma unroll
    for (int j = 0; j < kPack; ++j) part.at[j] = numbers[i * kPack + j];
    reinterpret_cast<Packed<T, kPack>*>(to)[i].set(part);
  }
}

// x as a number of type T, which the next operation computes on.
template <typename T>
INLINE Real rounded(Real x) {
  Packed<T, 1> one;
  one.set(Pack<Real, 1>{{x}});
  return one.at(0);
}

INLINE double opaque(double x) { return x; }
INLINE float inverse_root(float x) { return reciprocal_root(x); }
INLINE double inverse_root(double x) { return 1.0 / sqrt(x); }

// The activation of a gate and its slope, from the gate and its logistic function.
INLINE Real opened(Real gate, Real share) { return kSigmoid ? share : gate * share; }
INLINE Real slope_of(Real gate, Real share) {
  const Real closed = Real(1) - share;
  return kSigmoid ? share * closed : share * (Real(1) + gate * closed);
}

// A tensor (replica, outer, middle, inner, channel) whose channels are adjacent; strides count elements.
template <typename T>
struct Rows {
  const T* data;
  Index replica, outer, middle, inner;
};

// Each group of each replica is `slots` blocks', which share out its rows.
struct NormSizes {
  int rows, middle, inner, groups, slots;
};

// What a thread has: `kPacks` parts of a group of every row that its team walks to.
struct Place {
  int rows, middle, inner, groups, slots;
  int group, slot, replica, team, lane;

  INLINE explicit Place(const NormSizes& sizes)
      : rows(sizes.rows), middle(sizes.middle), inner(sizes.inner), groups(sizes.groups), slots(sizes.slots) {
    const int block = blockIdx.x, thread = threadIdx.x;
    group = block % groups;
    slot = block / groups % slots;
    replica = block / groups / slots;
    team = thread / kTeam;
    lane = thread % kTeam;
  }

  // The rows of a block's teams, one each, in every round: all threads make as many rounds.
  INLINE int first_row() const { return slot * kTeams + team; }
  INLINE int rows_of_round() const { return slots * kTeams; }
  INLINE bool has_round(int row) const { return row - team < rows; }

  INLINE bool has(int part) const { return lane + part * kTeam < kPieces; }
  INLINE int channel(int part) const { return (lane + part * kTeam) * kVector; }

  // Where a group begins: of an operand's row, and in tensors without gaps.
  template <typename T>
  INLINE const T* begin(const Rows<T>& x, int row) const {
    const Index by_replica = replica * x.replica + Index(group) * kSize;
    if constexpr (kOneAxis) return x.data + by_replica + row * x.inner;
    const int above = row / inner;
    return x.data + by_replica + above / middle * x.outer + above % middle * x.middle + row % inner * x.inner;
  }
  INLINE Index segment(int row) const { return (Index(replica) * rows + row) * groups + group; }

  template <typename T>
  INLINE void load(Values<T> (&to)[kPacks], const Rows<T>& x, int row) const {
#pragma unroll
    for (int part = 0; part < kPacks; ++part) {
      if (row < rows && has(part)) to[part].load(begin(x, row) + channel(part));
      else to[part].clear();
    }
  }

  template <typename T>
  INLINE void load_weights(Values<T> (&to)[kPacks], const T* weight, Index of_replica) const {
#pragma unroll
    for (int part = 0; part < kPacks; ++part) {
      if (kHasWeight && has(part)) to[part].load(weight + replica * of_replica + group * kSize + channel(part));
      else to[part].clear();
    }
  }
};

// Sums over the lanes of a team. Larger teams than a warp are whole blocks, and take turns with two rows of cells: a
// thread writes to one again after a barrier behind which all have read it.
struct TeamSums {
  Real cells[2][kTeam > 32 ? kWarps : 1];

  INLINE Real sum(Real x, int round) {
#pragma unroll
    for (int bit = 1; bit < (kTeam < 32 ? kTeam : 32); bit *= 2) x += exchange(x, bit);
    if constexpr (kTeam > 32) {
      const int warp = threadIdx.x / 32;
      if (threadIdx.x % 32 == 0) cells[round % 2][warp] = x;
      synchronize_block();
      x = Real(0);
#pragma unroll
      for (int i = 0; i < kWarps; ++i) x += cells[round % 2][i];
    }
    return x;
  }
};
