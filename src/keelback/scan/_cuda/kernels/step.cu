// One step of the recurrence, as in decoding: h <- 2^(delta A) h + delta u B, y = C . h. Nearly all of its time goes
// into moving the states, so a thread loads all that it needs at once, and A for `kRows` rows together.
#include "configuration.h"
#include "lanes.cuh"

using Index = long long;

// Strides count elements.
struct ChannelStrides {
  Index row, channel;
};

struct GroupStrides {
  Index row, group, state;
};

struct StateStrides {
  Index row, channel, state;
};

// D, z and bias may be null. y (row, channel) has no gaps.
struct StepArguments {
  const Kept* before;
  const Stored *u, *delta;
  const Real* A;
  const Stored *B, *C;
  const Skip* D;
  const Stored* z;
  const Bias* bias;
  Kept* after;
  Stored* y;
  Index rows, channels, channels_per_group, softplus;
  StateStrides of_before;
  ChannelStrides of_u, of_delta;
  Index A_channel, A_state;
  GroupStrides of_B, of_C;
  Index D_channel;
  ChannelStrides of_z;
  Index bias_channel;
  StateStrides of_after;
};

// States of a channel: neighbouring lanes have neighbouring packs of them.
template <typename T>
using StatePack = Packed<T, kVector>;

constexpr int kPacks = (kStates + kLanes * kVector - 1) / (kLanes * kVector);
// Of the outputs of its channel, those that a lane is left with.
constexpr int kOutputs = (kRows + kLanes - 1) / kLanes;

INLINE int state_of(int pack, int lane) { return (pack * kLanes + lane) * kVector; }

template <typename T>
INLINE void load_states(const T* from, Index stride, int lane, bool there, StatePack<T> (&to)[kPacks]) {
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    const int state = state_of(i, lane);
    to[i].fill(T{});
    if (there && state < kStates) to[i] = *reinterpret_cast<const StatePack<T>*>(from + state * stride);
  }
}

template <typename T>
INLINE void store_states(T* to, Index stride, int lane, const Real (&from)[kPacks][kVector]) {
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    const int state = state_of(i, lane);
    Pack<Real, kVector> reals;
    StatePack<T> pack;
#pragma unroll
    for (int v = 0; v < kVector; ++v) reals.at[v] = from[i][v];
    pack.set(reals);
    if (state < kStates) *reinterpret_cast<StatePack<T>*>(to + state * stride) = pack;
  }
}

template <typename T>
INLINE Real widened(const T* from) {
  return reinterpret_cast<const Packed<T, 1>*>(from)->at(0);
}

template <typename T>
INLINE Real value(const T* x, Index offset, bool there) {
  return there && x != nullptr ? widened(x + offset) : Real(0);
}

INLINE Real value(const Stored* x, const ChannelStrides& of, int row, int channel, bool there) {
  return value(x, row * of.row + channel * of.channel, there);
}

KERNEL void __launch_bounds__(kThreads) scan_step(const StepArguments p) {
  const int lane = threadIdx.x % kLanes;
  const unsigned seat = (blockIdx.x * kThreads + threadIdx.x) / kLanes;  // counts the channels of every `kRows` rows
  const int rows = p.rows, channels = p.channels, channel = seat % channels, first = seat / channels * kRows;
  const int group = channel / static_cast<int>(p.channels_per_group);

  StatePack<Real> rates[kPacks];
  load_states(p.A + channel * p.A_channel, p.A_state, lane, true, rates);
  const Real bias = value(p.bias, channel * p.bias_channel, true), skip = value(p.D, channel * p.D_channel, true);
  StatePack<Kept> before[kRows][kPacks];
  StatePack<Stored> B[kRows][kPacks], C[kRows][kPacks];
  Real u[kRows], delta[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int row = first + r;
    const bool there = row < rows;
    const Index offset = row * p.of_before.row + channel * p.of_before.channel;
    load_states(p.before + offset, p.of_before.state, lane, there, before[r]);
    load_states(p.B + row * p.of_B.row + group * p.of_B.group, p.of_B.state, lane, there, B[r]);
    load_states(p.C + row * p.of_C.row + group * p.of_C.group, p.of_C.state, lane, there, C[r]);
    u[r] = value(p.u, p.of_u, row, channel, there);
    delta[r] = value(p.delta, p.of_delta, row, channel, there);
  }
  Real own_u[kOutputs], own_z[kOutputs];
#pragma unroll
  for (int i = 0; i < kOutputs; ++i) {
    const int r = i * kLanes + lane, row = first + r;
    const bool own = r < kRows && row < rows;
    own_u[i] = value(p.u, p.of_u, row, channel, own && p.D != nullptr);
    own_z[i] = value(p.z, p.of_z, row, channel, own);
  }

  Real y[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const Real raw = delta[r] + bias;
    const Real size = p.softplus ? softplus(raw) : raw, input = size * u[r], scale = size * Real(kLog2OfE);
    Real h[kPacks][kVector];
    y[r] = Real(0);
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        const Real decay = power_of_two(scale * rates[i].at(v));
        h[i][v] = decay * before[r][i].at(v) + input * Real(B[r][i].at(v));
        y[r] += C[r][i].at(v) * h[i][v];
      }
    }
    const int row = first + r;
    const Index offset = row * p.of_after.row + channel * p.of_after.channel;
    if (row < rows) store_states(p.after + offset, p.of_after.state, lane, h);
  }
  transpose_sum<kLanes - 1>(y, lane);
#pragma unroll
  for (int i = 0; i < kOutputs; ++i) {
    const int r = i * kLanes + lane, row = first + r;
    if (r >= kRows || row >= rows) continue;
    Real out = y[i];
    if (p.D != nullptr) out += skip * own_u[i];
    if (p.z != nullptr) out *= own_z[i] * sigmoid(own_z[i]);
    Pack<Real, 1> real{{out}};
    reinterpret_cast<Packed<Stored, 1>*>(p.y)[Index(row) * channels + channel].set(real);
  }
}
