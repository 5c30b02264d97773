// Tiles: `kTile` steps of a block's operands, on their way from global to shared memory.
#pragma once

#include "place.cuh"

// Each thread moves packs of `kVector` adjacent channels of every `kRowStep`-th step.
constexpr int kPacksPerStep = kChannels / kVector;
constexpr int kRowStep = kThreads / kPacksPerStep;
constexpr int kPacks = (kTile + kRowStep - 1) / kRowStep;

constexpr int kStatePacksPerStep = kPaddedStates / kStateVector;
constexpr int kStatePacks = (kTile * kStatePacksPerStep + kThreads - 1) / kThreads;

using ChannelPack = Packed<Stored, kVector>;
using StatePack = Packed<Stored, kStateVector>;
using ChannelReals = Pack<Real, kVector>;
using StateReals = Pack<Real, kStateVector>;

// The packs of channels that one thread moves.
struct Mover {
  int row, column;
  bool active;

  INLINE explicit Mover(const Place& place, int thread) {
    row = thread / kPacksPerStep;
    column = thread % kPacksPerStep * kVector;
    active = column < place.channels;
  }

  INLINE int step(int pack) const { return row + pack * kRowStep; }

  // Whether pack `pack` exists in a tile of `steps` steps.
  INLINE bool moves(int pack, int steps) const { return active && step(pack) < kTile && step(pack) < steps; }

  // This thread's entries of a parameter (replica, channel), or zeros where there is none.
  INLINE ChannelReals parameter(const Real* from, const Place& place, const Sizes& sizes) const {
    ChannelReals values = {};
#pragma unroll
    for (int v = 0; v < kVector; ++v)
      if (from != nullptr && active)
        values.at[v] = from[Index(place.replica) * sizes.channels + place.first_channel + column + v];
    return values;
  }
};

// Where a thread's packs of a tile lie.
template <typename T>
struct Cursor {
  T* at;
  Index time;  // elements from one step to the next

  INLINE void move(int steps) { at += steps * time; }
  INLINE T* operator()(int i) const { return at + i * kRowStep * time; }
};

// At the tile that starts with step `start`.
INLINE Cursor<const Stored> cursor(const Sequences& of, const Place& place, const Sizes& sizes, const Mover& mover,
                                   int start) {
  const Index time = kDense ? Index(sizes.channels) : of.time;
  return {of.data + (place.offset(of, sizes) + (start + mover.row) * time + mover.column), time};
}

INLINE Cursor<const Stored> delta_cursor(const Sequences& of, const Place& place, const Sizes& sizes,
                                         const Mover& mover, int start) {
  if constexpr (kSharedDelta) {
    const Index row_start = place.replica * of.replica + place.row * of.row;
    return {of.data + row_start + (start + mover.row) * of.time, of.time};
  } else {
    return cursor(of, place, sizes, mover, start);
  }
}

// A tensor (sequence, time, channel) without gaps.
INLINE Cursor<Stored> cursor(Stored* data, const Place& place, const Sizes& sizes, const Mover& mover, int start) {
  const Index time = sizes.channels;
  const Index row_start = place.dense_offset(sizes) + place.first_channel;
  return {data + (row_start + (start + mover.row) * time + mover.column), time};
}

// Where a thread's packs of one tile lie, in every tensor.
struct TileAddress {
  int start;
  Index dense[kPacks];  // in a tensor without gaps

  INLINE TileAddress(const Place& place, const Sizes& sizes, const Mover& mover, int start) : start(start) {
    const Index step = place.sequence * sizes.length + start + mover.row;
    dense[0] = step * sizes.channels + place.first_channel + mover.column;
#pragma unroll
    for (int i = 1; i < kPacks; ++i) dense[i] = dense[i - 1] + Index(kRowStep) * sizes.channels;
  }

  INLINE const Stored* of(const Sequences& x, int i, const Place& place, const Mover& mover) const {
    if constexpr (kDense) return x.data + dense[i];
    const Index row_start = place.replica * x.replica + place.row * x.row + place.first_channel;
    return x.data + (row_start + (start + mover.step(i)) * x.time + mover.column);
  }

  INLINE const Stored* of_delta(const Sequences& x, int i, const Place& place, const Mover& mover) const {
    if constexpr (!kSharedDelta) return of(x, i, place, mover);
    return x.data + (place.replica * x.replica + place.row * x.row + (start + mover.step(i)) * x.time);
  }
};

// One thread's share of a tile of a tensor (time, channel), held in registers. `at(i)` is where pack i lies.
struct ChannelTile {
  ChannelPack packs[kPacks];

  template <typename At>
  INLINE void load(At at, int steps, const Mover& mover) {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      packs[i] = {};
      if (mover.moves(i, steps)) packs[i] = *reinterpret_cast<const ChannelPack*>(at(i));
    }
  }

  // As load, but of step sizes, which may be one for all channels.
  template <typename At>
  INLINE void load_delta(At at, int steps, const Mover& mover) {
    if constexpr (kSharedDelta) {
#pragma unroll
      for (int i = 0; i < kPacks; ++i) {
        packs[i] = {};
        if (mover.moves(i, steps)) packs[i].fill(*at(i));
      }
    } else {
      load(at, steps, mover);
    }
  }

  // Brings the tile closer, for a later load.
  template <typename At>
  INLINE static void prefetch(At at, const Mover& mover) {
#pragma unroll
    for (int i = 0; i < kPacks; ++i)
      if (mover.moves(i, kTile)) prefetch_line(at(i));
  }
};

template <int kCount>
INLINE void store_pack(Stored* to, const Pack<Real, kCount>& values) {
  Packed<Stored, kCount> pack;
  pack.set(values);
  *reinterpret_cast<Packed<Stored, kCount>*>(to) = pack;
}

// A tile of B or C in shared memory.
struct StateRows {
  union {
    Real at[kTile][kPaddedStates];
    StateVector vectors[kTile][kStateLanes];
    StateReals packs[kTile * kStatePacksPerStep];
  };

  INLINE StateVector of(int step, const Seat& seat) const { return vectors[step][seat.state_lane]; }
};

// One thread's share of a tile of B or C.
struct StateTile {
  StatePack packs[kStatePacks];

  INLINE void load(const Stored* from, Index time_stride, int steps, int thread) {
#pragma unroll
    for (int i = 0; i < kStatePacks; ++i) {
      const int index = thread + i * kThreads, step = index / kStatePacksPerStep;
      const int state = index % kStatePacksPerStep * kStateVector;
      packs[i] = {};
      if (step < kTile && step < steps && state < kStates)
        packs[i] = *reinterpret_cast<const StatePack*>(from + step * time_stride + state);
    }
  }

  INLINE void store(StateRows& to, int thread) const {
#pragma unroll
    for (int i = 0; i < kStatePacks; ++i) {
      const int index = thread + i * kThreads;
      StateReals wide;
#pragma unroll
      for (int v = 0; v < kStateVector; ++v) wide.at[v] = packs[i].at(v);
      if (index < kTile * kStatePacksPerStep) to.packs[index] = wide;
    }
  }
};

// Rows of several values a channel, in shared memory. Channels are shuffled so that the movers, who own
// kVector adjacent channels each, reach different banks: in the order of their accesses, 16 bytes wide,
// the lanes of a quarter of a warp would otherwise meet in a half or a quarter of the banks.
template <typename Values, int kStride>
struct ChannelRows {
  static constexpr int kShared = sizeof(Values) < 16 ? 16 / sizeof(Values) : 1;  // channels to an access
  static constexpr int kAccesses = kVector / kShared > 1 ? kVector / kShared : 1;

  Values at[kTile][kStride];

  INLINE static int slot(int channel) {
    return channel ^ (channel / (8 * kShared) % kAccesses * kShared);
  }
};

// The step sizes as the recurrence uses them. A step past the end has size zero: it changes nothing.
INLINE Real step_size(Real delta, Real bias, bool exists) {
  Real x = delta + bias;
  if constexpr (kSoftplus) x = softplus(x);
  return exists ? x : Real(0);
}

INLINE void load_resets(const Place& place, const Resets& resets, int start, int steps, int thread,
                        bool (&to)[kTile]) {
  if constexpr (kHasReset) {
    const unsigned char* from = place.at(resets);
    for (int step = thread; step < kTile; step += kThreads)
      to[step] = step < steps && from[(start + step) * resets.time] != 0;
  }
}
