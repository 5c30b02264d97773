// The machine instructions for products of small matrices and for copies to shared memory, on NVIDIA GPUs of
// compute capability 8.0 and above. The tests' tests/scan_cuda/matrix_intrinsics.h stands in for it on the host.
#pragma once

#include "numbers.cuh"

INLINE unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// Four matrices of 8 x 8 sixteen-bit numbers. Lane l gives the address of row l % 8 of matrix l / 8, 16 bytes in
// shared memory. It is left with the two numbers at columns 2c, 2c + 1 of row r of each, where r = l / 4 and
// c = l % 4; if transposed, with those at rows 2c, 2c + 1 of column r.
template <bool kTransposed>
INLINE void load_matrices(unsigned (&to)[4], const void* row) {
  const unsigned address = shared_address(row);
  if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address));
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address));
  }
}

// The same four matrices from the lanes to shared memory, on GPUs of compute capability 9.0.
INLINE void store_matrices(void* row, const unsigned (&from)[4]) {
#if __CUDA_ARCH__ >= 900
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
               :: "r"(shared_address(row)), "r"(from[0]), "r"(from[1]), "r"(from[2]), "r"(from[3]) : "memory");
#endif
}

// sums += a b, for a (16, 16) and b (16, 8). With r = lane / 4 and c = lane % 4, a word holds two numbers side by
// side: a at (r, 2c), (r + 8, 2c), (r, 2c + 8), (r + 8, 2c + 8); b, down its columns, at (2c, r), (2c + 8, r). sums are
// at (r, 2c), (r, 2c + 1), (r + 8, 2c), (r + 8, 2c + 1).
INLINE void multiply_words(BFloat16, float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
INLINE void multiply_words(Float16, float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Starts to copy 16 bytes to shared memory, or zeros in their place. The copies that a thread starts before
// `close_copies` are a group; `wait_for_copies` waits until at most kLeft groups of the thread are under way.
INLINE void copy_sixteen_bytes(void* to, const void* from, bool present) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :: "r"(shared_address(to)), "l"(from), "r"(present ? 16 : 0) : "memory");
}
INLINE void close_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kLeft>
INLINE void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" :: "n"(kLeft) : "memory");
}

// x, which is the same in all lanes of a warp: branches on it are then known to be the same too.
INLINE int uniform(int x) { return __shfl_sync(0xffffffffu, x, 0); }

// x of the lane that is `lanes` lower, or above: the lane's own where there is none.
template <typename Number>
INLINE Number from_lower_lane(Number x, int lanes) {
  return __shfl_up_sync(0xffffffffu, x, lanes);
}
template <typename Number>
INLINE Number from_upper_lane(Number x, int lanes) {
  return __shfl_down_sync(0xffffffffu, x, lanes);
}
template <typename Number>
INLINE Number from_lane(Number x, int lane) {
  return __shfl_sync(0xffffffffu, x, lane);
}
