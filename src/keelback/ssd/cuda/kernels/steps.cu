// What is known of each step before anything is multiplied: see ChunkSteps. A block has a chunk of kWarps heads of one
// row and the launch, one to a warp, whose lanes have some consecutive steps each.
#include "places.cuh"

constexpr int kWarps = 8;
constexpr int kSteps = kChunk / 32;
// Decays below 2^-150 are zero; as logs of this size they do not spoil what is added to them.
constexpr double kSmallestLog = -150.0;

struct StepsArguments {
  Sizes sizes;
  const StoredStep* dt;
  Index dt_row, dt_time, dt_head;
  const float *A, *bias;
  Limits limits;
  const unsigned char* reset;
  Index reset_row, reset_time;
  float* fields;
  int* firsts;
};

// Base 2; that of zero is an infinite one below zero.
INLINE float logarithm(float x) { return log2f(x); }

INLINE float power(double log) { return power_of_two(static_cast<float>(log)); }

KERNEL void __launch_bounds__(kWarps * 32) keelback_steps(const StepsArguments p) {
  let_next_begin();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int slots = slots_of(p.sizes), of_group = slots_of_group(p.sizes), blocks = (slots + kWarps - 1) / kWarps;
  const int slot = blockIdx.x % blocks * kWarps + warp, of_rows = blockIdx.x / blocks;
  const int row = of_rows / p.sizes.chunks, chunk = of_rows % p.sizes.chunks;
  const int in_group = p.sizes.first_head + slot % of_group;
  if (slot >= slots || in_group >= p.sizes.heads_per_group) return;
  const int head = slot / of_group * p.sizes.heads_per_group + in_group;
  const int time = chunk * kChunk + lane * kSteps;

  int firsts[kSteps];
#pragma unroll
  for (int i = 0; i < kSteps; ++i) firsts[i] = -1;
  int last_reset = -1;
  if constexpr (kHasReset) {
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const bool resets = time + i < p.sizes.length && p.reset[row * p.reset_row + (time + i) * p.reset_time];
      firsts[i] = resets ? lane * kSteps + i : i ? firsts[i - 1] : -1;
    }
    int before = firsts[kSteps - 1];
#pragma unroll
    for (int lanes = 1; lanes < 32; lanes *= 2) {
      const int other = from_lower_lane(before, lanes);
      before = other > before ? other : before;
    }
    last_reset = from_lane(before, 31);
    before = from_lower_lane(before, 1);
#pragma unroll
    for (int i = 0; i < kSteps; ++i) firsts[i] = firsts[i] < 0 && lane > 0 ? before : firsts[i];
    if (slot == 0) {
#pragma unroll
      for (int i = 0; i < kSteps; ++i) p.firsts[Index(row) * p.sizes.chunks * kChunk + time + i] = firsts[i];
    }
  }

  const float bias = p.bias ? p.bias[head] : 0.0f;
  const double rate = p.A[head] * kLog2OfE;
  float sizes[kSteps];
  double logs[kSteps];
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    sizes[i] = 0.0f;
    if (time + i < p.sizes.length) {
      const StoredStep* dt = p.dt + row * p.dt_row + (time + i) * p.dt_time + head * p.dt_head;
      sizes[i] = step_size<kSoftplus>(widen(*dt) + bias, p.limits);
    }
    const double log = sizes[i] * rate;
    logs[i] = (log < kSmallestLog ? kSmallestLog : log) + (i ? logs[i - 1] : 0.0);
  }
  double before = logs[kSteps - 1];
#pragma unroll
  for (int lanes = 1; lanes < 32; lanes *= 2) {
    const double other = from_lower_lane(before, lanes);
    before += lane >= lanes ? other : 0.0;
  }
  const double total = from_lane(before, 31);
  before = from_lower_lane(before, 1);
  Pack<float, kSteps> step_sizes, highs, rests, entering, leaving, driving;
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    const double log = logs[i] + (lane ? before : 0.0);
    step_sizes.at[i] = sizes[i];
    highs.at[i] = static_cast<float>(log);
    rests.at[i] = static_cast<float>(kHalf ? log - logarithm(sizes[i]) : log - highs.at[i]);
    entering.at[i] = firsts[i] < 0 ? power(log) : 0.0f;
    leaving.at[i] = lane * kSteps + i >= last_reset ? power(total - log) : 0.0f;
    driving.at[i] = sizes[i] * leaving.at[i];
  }
  const Pack<float, kSteps> fields[] = {driving, leaving, step_sizes, highs, entering, rests};
  float* to = p.fields + steps_of(p.sizes, row, head, chunk) + lane * kSteps;
#pragma unroll
  for (int i = 0; i < kStepFields; ++i) *reinterpret_cast<Pack<float, kSteps>*>(to + i * kChunk) = fields[i];
}
