// One step of the recurrence: with d the decays,
//     h' = d h + beta k (v - k^T d h)^T,      y = scale q^T h' = scale (q^T d h + (q . k) beta (v - k^T d h)).
// A block has kColumns values of one head of one row, and reads the states once: each thread has four values of every
// kRowsAtOnce-th key.
#include "sequences.cuh"

struct StepArguments {
  int rows, heads, groups, value, tiles;
  const Stored* q;
  Index q_row, q_group;
  const Stored* k;
  Index k_row, k_group;
  const Stored* v;
  Index v_row, v_head;
  const StoredDecay* g;
  Index g_row, g_head, g_key;
  const StoredBeta* beta;
  Index beta_row, beta_head;
  const float* states;
  Index states_row, states_head, states_key;
  struct {
    float scale, nothing;
  } options;
  Stored* y;      // (row, head, value)
  float* after;   // (row, head, key, value)
};

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kColumns = 32;
constexpr int kRowsAtOnce = kThreads / (kColumns / 4);
constexpr int kOfThread = (kKey + kRowsAtOnce - 1) / kRowsAtOnce;
constexpr float kNormEpsilon = 1e-6f;

struct StepShared {
  float q[kKey], k[kKey], decays[kKey];
  float squares[3][kWarps];
  Pack<float, 4> along[2][kWarps][kColumns / 4];
};

EXPORTED_SIZE(step_shared_bytes, StepShared)

INLINE float sum_of_warps(const float (&parts)[kWarps]) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kWarps; ++i) sum += parts[i];
  return sum;
}

KERNEL void __launch_bounds__(kThreads) keelback_step(const StepArguments p) {
  SHARED_MEMORY(StepShared, shared);
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const int tile = blockIdx.x % p.tiles, head = blockIdx.x / p.tiles % p.heads, row = blockIdx.x / p.tiles / p.heads;
  const int group = head / (p.heads / p.groups);
  const int first_row = thread / (kColumns / 4), four = thread % (kColumns / 4), column = tile * kColumns + four * 4;
  const bool present = column < p.value;

  Pack<float, 4> h[kOfThread];
  const float* states = p.states + row * p.states_row + head * p.states_head + column;
#pragma unroll
  for (int i = 0; i < kOfThread; ++i) {
    h[i] = {};
    const int key = first_row + i * kRowsAtOnce;
    if (present && key < kKey) h[i] = *reinterpret_cast<const Pack<float, 4>*>(states + key * p.states_key);
  }
  float of_q = 0.0f, of_k = 0.0f, of_both = 0.0f;
  for (int key = thread; key < kKey; key += kThreads) {
    const float q = widen(p.q[row * p.q_row + group * p.q_group + key]), k = widen(p.k[row * p.k_row + group * p.k_group + key]);
    shared.q[key] = q, shared.k[key] = k;
    shared.decays[key] = exponential(widen(p.g[row * p.g_row + head * p.g_head + key * p.g_key]));
    of_q += q * q, of_k += k * k, of_both += q * k;
  }
#pragma unroll
  for (int lanes = 1; lanes < 32; lanes *= 2) {
    of_q += exchange(of_q, lanes), of_k += exchange(of_k, lanes), of_both += exchange(of_both, lanes);
  }
  if (lane == 0) shared.squares[0][warp] = of_q, shared.squares[1][warp] = of_k, shared.squares[2][warp] = of_both;
  synchronize_block();

  // Along k and q: sums over the keys of a thread, of a warp, and of the block.
  Pack<float, 4> sums[2] = {};
#pragma unroll
  for (int i = 0; i < kOfThread; ++i) {
    const int key = first_row + i * kRowsAtOnce;
    if (key >= kKey) continue;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      h[i].at[j] *= shared.decays[key];
      sums[0].at[j] += shared.k[key] * h[i].at[j];
      sums[1].at[j] += shared.q[key] * h[i].at[j];
    }
  }
#pragma unroll
  for (int which = 0; which < 2; ++which) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int lanes = kColumns / 4; lanes < 32; lanes *= 2) sums[which].at[j] += exchange(sums[which].at[j], lanes);
    }
    if (lane < kColumns / 4) shared.along[which][warp][lane] = sums[which];
  }
  synchronize_block();
  if (!present) return;
  float q_factor = p.options.scale, k_factor = 1.0f;
  if constexpr (kNormalise) {
    q_factor /= sqrtf(sum_of_warps(shared.squares[0]) + kNormEpsilon);
    k_factor = 1.0f / sqrtf(sum_of_warps(shared.squares[1]) + kNormEpsilon);
  }
  const float both = sum_of_warps(shared.squares[2]) * q_factor * k_factor;
  const float beta = widen(p.beta[row * p.beta_row + head * p.beta_head]);
  const Stored* v = p.v + row * p.v_row + head * p.v_head + column;
  const Index of_head = Index(row) * p.heads + head;
  Stored* y = p.y + of_head * p.value + column;
  Pack<float, 4> writes;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    float along_k = 0.0f, along_q = 0.0f;
#pragma unroll
    for (int i = 0; i < kWarps; ++i) along_k += shared.along[0][i][four].at[j], along_q += shared.along[1][i][four].at[j];
    const float write = beta * (widen(v[j]) - along_k * k_factor);
    writes.at[j] = write * k_factor;
    if (first_row == 0) store(y + j, along_q * q_factor + both * write);
  }
  float* after = p.after + of_head * kKey * p.value + column;
#pragma unroll
  for (int i = 0; i < kOfThread; ++i) {
    const int key = first_row + i * kRowsAtOnce;
    if (key >= kKey) continue;
#pragma unroll
    for (int j = 0; j < 4; ++j) h[i].at[j] += shared.k[key] * writes.at[j];
    *reinterpret_cast<Pack<float, 4>*>(after + key * p.value) = h[i];
  }
}
