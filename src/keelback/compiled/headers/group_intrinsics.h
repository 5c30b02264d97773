// Products by warpgroups on NVIDIA GPUs of compute capability 9.0: four warps multiply 64 rows, each with its own 16,
// by a right factor that the matrix unit reads from shared memory by itself, while the warps go on.
// The tests' stand-in for the host is in matrix_intrinsics.h there.
#pragma once

#include "matrix_intrinsics.h"

// A barrier that the warpgroups of a block of so many threads reach in different places of the code.
template <int kCount>
INLINE void synchronize_groups() { asm volatile("bar.sync 1, %0;" ::"n"(kCount) : "memory"); }

// The reverse of `load_matrices<true>`: a lane's two numbers go to rows 2c, 2c + 1 of column r of each matrix.
INLINE void store_transposed(void* row, const unsigned (&from)[4]) {
#if __CUDA_ARCH__ >= 900
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};"
               :: "r"(shared_address(row)), "r"(from[0]), "r"(from[1]), "r"(from[2]), "r"(from[3]) : "memory");
#endif
}

// Where a right factor (16, n) lies in shared memory: `offset` bytes, known to the compiler, from the start of a tile, so that
// all factors of a tile differ by an addition. In blocks of 8 x 8 of 128 bytes each: how many bytes it is from block to block
// along the columns n and along the 16.
INLINE unsigned encoded_bytes(unsigned bytes) { return (bytes & 0x3ffff) >> 4; }
INLINE unsigned long long right_factor(const void* tile, int offset, unsigned low, unsigned high) {
  return (encoded_bytes(shared_address(tile)) | low << 16) + offset / 16 | static_cast<unsigned long long>(high) << 32;
}
INLINE unsigned long long right_in_blocks(const void* tile, int offset, int along_columns, int along_depth) {
  return right_factor(tile, offset, encoded_bytes(along_depth), encoded_bytes(along_columns));
}

// In a panel with rows of 64 or 128 bytes, `pitch`, whose pieces of 16 bytes change places as bits 7 to 9 of their address
// say. `next_panel` bytes on lie the columns past those of the first panel, where its rows are those of the factor.
INLINE unsigned long long right_in_panel(const void* tile, int offset, int pitch, int next_panel) {
  const unsigned swizzle = pitch == 128 ? 1 : 2;
  return right_factor(tile, offset, encoded_bytes(next_panel), encoded_bytes(8 * pitch) | swizzle << 30);
}

// The same, so many bytes on.
INLINE unsigned long long moved(unsigned long long right, unsigned bytes) { return right + (bytes >> 4); }

// Operands of the instructions below: the sums, and their places in the text.
#define SUMS_4(i) "+f"(sums[i]), "+f"(sums[i + 1]), "+f"(sums[i + 2]), "+f"(sums[i + 3])
#define SUMS_16(i) SUMS_4(i), SUMS_4(i + 4), SUMS_4(i + 8), SUMS_4(i + 12)
#define SUMS_32(i) SUMS_16(i), SUMS_16(i + 16)
#define SUMS_64(i) SUMS_32(i), SUMS_32(i + 32)
#define PLACES_16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define PLACES_32 PLACES_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define PLACES_48 PLACES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define PLACES_64 PLACES_48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define PRODUCT(type, columns) "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." #type "." #type

// sums (16 rows of a warp, kColumns) += left (16, 16) right (16, kColumns), sometime before `wait_for_products` returns:
// until then neither the sums nor the right factor may be touched. The blocks of the right factor hold 8 of its rows, or,
// if transposed, of its columns. If fresh, what the sums were does not count.
#define MULTIPLY_GROUP(Type, type, count, columns, of_left, of_right, of_order, of_fresh)                                   \
  template <bool kTransposed, bool kFresh = false>                                                                          \
  INLINE void multiply_group(Type, float (&sums)[count], const unsigned (&left)[4], unsigned long long right) {             \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, " of_fresh ", 0; " PRODUCT(type, columns) " {" PLACES_##count "}, {"       \
                 of_left "}, " of_right ", p, 1, 1, " of_order "; }"                                                        \
                 : SUMS_##count(0)                                                                                          \
                 : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right), "n"(kTransposed ? 0 : 1),            \
                   "n"(kFresh ? 0 : 1));                                                                                    \
  }

// The same for a left factor (64, 16) in shared memory, described as a transposed right one: each warp has 16 of its rows.
#define MULTIPLY_GROUP_IN_MEMORY(Type, type)                                                                                \
  template <bool kTransposed>                                                                                               \
  INLINE void multiply_group(Type, float (&sums)[32], unsigned long long left, unsigned long long right) {                  \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, 1, 0; " PRODUCT(type, 64) " {" PLACES_32 "}, %32, %33, p, 1, 1, 0, %34; }" \
                 : SUMS_32(0)                                                                                               \
                 : "l"(left), "l"(right), "n"(kTransposed ? 0 : 1));                                                        \
  }

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define MULTIPLY_GROUPS(Type, type)                                              \
  MULTIPLY_GROUP(Type, type, 16, 32, "%16, %17, %18, %19", "%20", "%21", "%22")  \
  MULTIPLY_GROUP(Type, type, 32, 64, "%32, %33, %34, %35", "%36", "%37", "%38")  \
  MULTIPLY_GROUP(Type, type, 64, 128, "%64, %65, %66, %67", "%68", "%69", "%70") \
  MULTIPLY_GROUP_IN_MEMORY(Type, type)
MULTIPLY_GROUPS(BFloat16, bf16)
MULTIPLY_GROUPS(Float16, f16)
#else  // What calls them is compiled everywhere, and runs on Hopper alone.
template <bool kTransposed, bool kFresh = false, typename Type, int kCount, typename Left>
INLINE void multiply_group(Type, float (&)[kCount], const Left&, unsigned long long) {}
#endif

// What was written to shared memory becomes visible to the matrix unit, once a barrier is passed too.
INLINE void publish_to_matrix_unit() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// Before the first product, and wherever others than products wrote to the sums or to left factors.
INLINE void begin_products() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

// The products since the last call are a group; `wait_for_products` waits until at most kLeft groups are under way.
INLINE void close_products() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
template <int kLeft>
INLINE void wait_for_products() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(kLeft) : "memory");
#endif
}

// Keeps what others do with the sums from moving past this place.
template <int kCount>
INLINE void pin(float (&sums)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(sums[i]) :: "memory");
}
// And keeps a left factor in its registers up to this place.
INLINE void pin(unsigned (&left)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) asm volatile("" : "+r"(left[i]));
}
