// One step of the recurrence by heads, as in decoding: h <- exp(size a) h + size x B^T, y = h C. A thread has kRows
// numbers of a head together, so that it loads their states at once and B and C for all of them.
#include "state_packs.cuh"
#include "step_sizes.cuh"

// Strides count elements. Times a row or a head they may need 64 bits.
struct HeadStrides {
  int row, head, number;
};

struct GroupStrides {
  int row, group, state;
};

struct StateStrides {
  int row, head, number, state;
};

// y (row, head, number) has no gaps. A seat is kRows numbers of a head of a row, and has kLanes threads.
struct StepArguments {
  const Before* before;
  const Stored* x;
  const StoredStep* dt;
  const StoredRate* A;
  const Stored *B, *C;
  const StoredSkip* D;
  const Stored* z;
  const StoredBias* bias;
  After* after;
  Stored* y;
  int seats, heads, heads_per_group;
  StateStrides of_before;
  HeadStrides of_x;
  int dt_row, dt_head, A_head;
  GroupStrides of_B, of_C;
  int D_head, D_number;
  HeadStrides of_z;
  int bias_head;
  StateStrides of_after;
  Limits limits;
};

constexpr int kSeatsOfHead = (kHeadDim + kRows - 1) / kRows;

template <typename Strides>
INLINE Index at(const Strides& of, int row, int head) {
  return Index(row) * of.row + Index(head) * of.head;
}

INLINE Index at(const GroupStrides& of, int row, int group) { return Index(row) * of.row + Index(group) * of.group; }

KERNEL void __launch_bounds__(kThreads) keelback_step(const StepArguments p) {
  const int lane = threadIdx.x % kLanes, seat = (blockIdx.x * kThreads + threadIdx.x) / kLanes;
  const int first = seat % kSeatsOfHead * kRows, head = seat / kSeatsOfHead % p.heads, row = seat / kSeatsOfHead / p.heads;
  const int group = kGrouped ? head / p.heads_per_group : 0;
  const bool present = seat < p.seats;  // The lanes of an absent one take part in the sums of a warp.

  StatePack<Before> before[kRows][kPacks];
  StatePack<Stored> B[kPacks], C[kPacks];
  float x[kRows] = {}, skips[kRows] = {}, z[kOutputs] = {}, size = 0.0f, decay = 0.0f;
  if (present) {
    const Before* states = p.before + at(p.of_before, row, head);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int number = row_within(first + r, kHeadDim);
      load_states(states + Index(number) * p.of_before.number, p.of_before.state, lane, before[r]);
      x[r] = value(p.x + at(p.of_x, row, head) + Index(number) * p.of_x.number);
      if constexpr (kHasD) skips[r] = value(p.D + Index(head) * p.D_head + Index(number) * p.D_number);
    }
    load_states(p.B + at(p.of_B, row, group), p.of_B.state, lane, B);
    load_states(p.C + at(p.of_C, row, group), p.of_C.state, lane, C);
    if constexpr (kHasZ) {
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) {
        const int number = row_within(first + i * kLanes + lane, kHeadDim);
        z[i] = value(p.z + at(p.of_z, row, head) + Index(number) * p.of_z.number);
      }
    }
    float raw = value(p.dt + Index(row) * p.dt_row + Index(head) * p.dt_head);
    if constexpr (kHasBias) raw += value(p.bias + Index(head) * p.bias_head);
    size = step_size<kSoftplus>(raw, p.limits);
    decay = exponential(size * value(p.A + Index(head) * p.A_head));
  }

  float y[kRows];
  After* after = p.after + at(p.of_after, row, head);
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const float input = size * x[r];
    y[r] = kHasD && lane == 0 ? skips[r] * x[r] : 0.0f;
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      Pack<float, kVector> h;
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        h.at[v] = decay * before[r][i].at(v) + input * B[i].at(v);
        y[r] += C[i].at(v) * h.at[v];
      }
      const int state = state_of(i, lane), number = first + r;
      if (present && number < kHeadDim && (!kPadded || state < kStates))
        store_states(after + Index(number) * p.of_after.number + Index(state) * p.of_after.state, h);
    }
  }
  transpose_sum<kLanes - 1>(y, lane);
#pragma unroll
  for (int i = 0; i < kOutputs; ++i) {
    const int r = i * kLanes + lane, number = first + r;
    if (!present || r >= kRows || number >= kHeadDim) continue;
    const Pack<float, 1> gated{{kHasZ ? y[i] * z[i] * sigmoid(z[i]) : y[i]}};
    const Index of_head = Index(row) * p.heads + head;
    reinterpret_cast<Packed<Stored, 1>*>(p.y)[of_head * kHeadDim + number].set(gated);
  }
}
