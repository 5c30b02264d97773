// For kernels of one step, nearly all of whose time goes into moving states: those that belong to one output lie with
// neighbouring lanes, each of which moves kVector of them at once, for kRows outputs.
#pragma once

#include "configuration.h"
#include "lanes.cuh"

using Index = long long;

// Neighbouring lanes have neighbouring packs.
template <typename T>
using StatePack = Packed<T, kVector>;

constexpr int kPacks = (kStates + kLanes * kVector - 1) / (kLanes * kVector);
constexpr bool kPadded = kPacks * kLanes * kVector > kStates;
// Of the outputs of its lanes, those that a lane is left with.
constexpr int kOutputs = (kRows + kLanes - 1) / kLanes;

INLINE int state_of(int pack, int lane) { return (pack * kLanes + lane) * kVector; }

template <typename T>
INLINE void load_states(const T* from, Index stride, int lane, StatePack<T> (&to)[kPacks]) {
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    const int state = state_of(i, lane);
    if constexpr (kPadded) to[i].fill(T{});
    if (!kPadded || state < kStates) to[i] = *reinterpret_cast<const StatePack<T>*>(from + state * stride);
  }
}

template <typename T>
INLINE void store_states(T* to, const Pack<Real, kVector>& states) {
  StatePack<T> pack;
  pack.set(states);
  *reinterpret_cast<StatePack<T>*>(to) = pack;
}

INLINE void store_states(float* to, const Pack<float, 4>& states) {
  store_four(to, states.at[0], states.at[1], states.at[2], states.at[3]);
}

template <typename T>
INLINE Real value(const T* from) {
  return reinterpret_cast<const Packed<T, 1>*>(from)->at(0);
}

INLINE int row_within(int row, int rows) { return row < rows ? row : rows - 1; }
