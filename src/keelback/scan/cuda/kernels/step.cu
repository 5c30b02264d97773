// One step of the recurrence, as in decoding: h <- 2^(delta A) h + delta u B, y = C . h. Nearly all of its time goes
// into moving the states, so a thread loads all that it needs at once, and A for `kRows` rows together.
#include "state_packs.cuh"

// Strides count elements. Times a row or a channel they may need 64 bits.
struct ChannelStrides {
  int row, channel;
};

struct GroupStrides {
  int row, group, state;
};

struct StateStrides {
  int row, channel, state;
};

// y (row, channel) has no gaps.
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
  int rows, channels, channels_per_group;
  StateStrides of_before;
  ChannelStrides of_u, of_delta;
  int A_channel, A_state;
  GroupStrides of_B, of_C;
  int D_channel;
  ChannelStrides of_z;
  int bias_channel;
  StateStrides of_after;
};

template <typename Strides>
INLINE Index at(const Strides& of, int row, int channel) {
  return Index(row) * of.row + Index(channel) * of.channel;
}

INLINE Index at(const GroupStrides& of, int row, int group) { return Index(row) * of.row + Index(group) * of.group; }

KERNEL void __launch_bounds__(kThreads) keelback_step(const StepArguments p) {
  const int lane = threadIdx.x % kLanes;
  const unsigned seat = (blockIdx.x * kThreads + threadIdx.x) / kLanes;  // counts the channels of every `kRows` rows
  const int channel = seat % p.channels, first = seat / p.channels * kRows;
  const int group = kGrouped ? channel / p.channels_per_group : 0;

  StatePack<Real> rates[kPacks];
  StatePack<Kept> before[kRows][kPacks];
  StatePack<Stored> B[kRows][kPacks], C[kRows][kPacks];
  Real u[kRows], delta[kRows], z[kOutputs], bias = Real(0), skip = Real(0);
#pragma unroll
  for (int i = 0; i < kOutputs; ++i)
    if constexpr (kHasZ) z[i] = value(p.z + at(p.of_z, row_within(first + i * kLanes + lane, p.rows), channel));
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int row = row_within(first + r, p.rows);
    load_states(p.before + at(p.of_before, row, channel), p.of_before.state, lane, before[r]);
    load_states(p.B + at(p.of_B, row, group), p.of_B.state, lane, B[r]);
    load_states(p.C + at(p.of_C, row, group), p.of_C.state, lane, C[r]);
    u[r] = value(p.u + at(p.of_u, row, channel));
    delta[r] = value(p.delta + at(p.of_delta, row, channel));
  }
  load_states(p.A + Index(channel) * p.A_channel, p.A_state, lane, rates);
  if constexpr (kHasBias) bias = value(p.bias + Index(channel) * p.bias_channel);
  if constexpr (kHasD) skip = value(p.D + Index(channel) * p.D_channel);

  Real y[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const Real raw = delta[r] + bias, size = kSoftplus ? softplus(raw) : raw;
    const Real input = size * u[r], scale = size * Real(kLog2OfE);
    const int row = first + r;
    Kept* after = p.after + at(p.of_after, row, channel);
    y[r] = kHasD && lane == 0 ? skip * u[r] : Real(0);
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      Pack<Real, kVector> h;
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        h.at[v] = power_of_two(scale * rates[i].at(v)) * before[r][i].at(v) + input * B[r][i].at(v);
        y[r] += C[r][i].at(v) * h.at[v];
      }
      const int state = state_of(i, lane);
      if (row < p.rows && (!kPadded || state < kStates))
        store_states(after + Index(state) * p.of_after.state, h);
    }
  }
  transpose_sum<kLanes - 1>(y, lane);
#pragma unroll
  for (int i = 0; i < kOutputs; ++i) {
    const int r = i * kLanes + lane, row = first + r;
    if (r >= kRows || row >= p.rows) continue;
    const Pack<Real, 1> gated{{kHasZ ? y[i] * z[i] * sigmoid(z[i]) : y[i]}};
    reinterpret_cast<Packed<Stored, 1>*>(p.y)[Index(row) * p.channels + channel].set(gated);
  }
}
