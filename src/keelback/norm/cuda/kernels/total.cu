// The gradient of the weights, from the parts that blocks have found: always in the same order.
#include "configuration.h"

using Index = long long;

constexpr int kColumns = 32, kRunners = kThreads / kColumns;

struct TotalArguments {
  int channels, slots;
  const Real* partial;  // (replica, slot, channel)
  Weight* dweight;      // (replica, channel)
};

struct TotalShared {
  Real sums[kRunners][kColumns];
};
EXPORTED_SIZE(total_shared_bytes, TotalShared)

KERNEL void __launch_bounds__(kThreads) keelback_total(const TotalArguments p) {
  SHARED_MEMORY(TotalShared, shared);
  const int tiles = (p.channels + kColumns - 1) / kColumns, block = blockIdx.x, thread = threadIdx.x;
  const int column = thread % kColumns, runner = thread / kColumns, channel = block % tiles * kColumns + column;
  const Index replica = block / tiles;
  const bool inside = channel < p.channels;
  Real sum = Real(0);
  if (inside) {
    const Real* partial = p.partial + replica * p.slots * p.channels + channel;
#pragma unroll 4
    for (int slot = runner; slot < p.slots; slot += kRunners) sum += partial[Index(slot) * p.channels];
  }
  shared.sums[runner][column] = sum;
  synchronize_block();
  if (runner || !inside) return;
#pragma unroll
  for (int other = 1; other < kRunners; ++other) sum += shared.sums[other][column];
  reinterpret_cast<Packed<Weight, 1>*>(p.dweight + replica * p.channels + channel)->set(Pack<Real, 1>{{sum}});
}
