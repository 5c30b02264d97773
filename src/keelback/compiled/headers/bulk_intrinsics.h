// Copies in bulk between global and shared memory on NVIDIA GPUs of compute capability 9.0, by the unit that makes them by
// itself, and the barriers in shared memory that tell when they are there.
// The tests' tests/scan_cuda/bulk_intrinsics.h stands in for it on the host.
#pragma once

#include "matrix_intrinsics.h"

// Describes an array (row, time, head, number) in global memory and a box of it, for the unit; the driver encodes it.
struct alignas(64) TensorMap {
  unsigned long long opaque[16];
};

// A barrier for one arrival, which is by `expect_bytes`, and the bytes that are expected. It passes through phases.
struct alignas(8) CopyBarrier {
  unsigned long long opaque;
};

INLINE void set_up(CopyBarrier& barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(shared_address(&barrier)) : "memory");
}
// After barriers are set up and before anyone uses them.
INLINE void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

INLINE void expect_bytes(CopyBarrier& barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(shared_address(&barrier)), "r"(bytes) : "memory");
}

// Waits for the end of the phase with this parity: 0 for the first, 1 for the second, and so on.
INLINE void wait_for_bytes(CopyBarrier& barrier, int parity) {
  const unsigned address = shared_address(&barrier);
  asm volatile(
      "{ .reg .pred p;\n"
      "again: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
      "@!p bra again; }"
      :: "r"(address), "r"(parity) : "memory");
}

// A box whose first number, head, time and row are given; what lies outside of the array becomes zero. All of the box
// counts as bytes.
INLINE void copy_box(void* to, const TensorMap& map, int number, int head, int time, int row, CopyBarrier& barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], [%6];"
      :: "r"(shared_address(to)), "l"(&map), "r"(number), "r"(head), "r"(time), "r"(row), "r"(shared_address(&barrier))
      : "memory");
#endif
}

// Adjacent bytes, a multiple of 16.
INLINE void copy_bytes(void* to, const void* from, int bytes, CopyBarrier& barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
               :: "r"(shared_address(to)), "l"(from), "r"(bytes), "r"(shared_address(&barrier)) : "memory");
#endif
}

// Starts to copy a box from shared memory, which others wrote and published; what lies outside of the array is left out.
INLINE void store_box(const TensorMap& map, const void* from, int number, int head, int time, int row) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%1, %2, %3, %4}], [%5];\n"
      "cp.async.bulk.commit_group;"
      :: "l"(&map), "r"(number), "r"(head), "r"(time), "r"(row), "r"(shared_address(from))
      : "memory");
#endif
}
// Waits until all that the thread stores was read.
INLINE void wait_for_stores() {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
#endif
}

// How many came before, of those who count themselves here after a barrier: what they read before it, others may write again.
INLINE int count_in(int& counter) { return atomicAdd(&counter, 1); }

// All threads of a warpgroup arrive.
INLINE void synchronize_group(int group) { asm volatile("bar.sync %0, 128;" :: "r"(group + 1) : "memory"); }

// A barrier of so many threads, of which some may arrive only, and go on.
INLINE void arrive_at(int barrier, int threads) { asm volatile("bar.arrive %0, %1;" :: "r"(barrier), "r"(threads) : "memory"); }
INLINE void wait_at(int barrier, int threads) { asm volatile("bar.sync %0, %1;" :: "r"(barrier), "r"(threads) : "memory"); }

// A warpgroup has so many registers for each thread from here on: more, which others leave, or fewer.
template <int kCount>
INLINE void take_registers() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(kCount));
#endif
}
template <int kCount>
INLINE void leave_registers() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(kCount));
#endif
}

#define GRID_CONSTANT __grid_constant__
