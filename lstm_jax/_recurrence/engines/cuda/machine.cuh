// What a GPU gives: threads, blocks and clusters of them, their memories, the product of tiles.
//
// All that follows is written in these words; emulated.h says the same with threads of a CPU.

typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
typedef unsigned char uint8_t;
typedef long long int64_t;

#define INLINE __device__ __forceinline__
#define UNROLL _Pragma("unroll")
#define UNROLL_4 _Pragma("unroll 4")
#define INFINITE __int_as_float(0x7f800000)
#define NOT_A_NUMBER __int_as_float(0x7fc00000)

struct alignas(16) Words {
  uint32_t of[4];
};

INLINE int thread() { return threadIdx.x; }
INLINE int block() { return blockIdx.x; }

INLINE char* shared_memory() {
  extern __shared__ __align__(16) char memory[];
  return memory;
}
// The same place in the shared memory of another block of the cluster.
template <class T>
INLINE T* in_block(T* here, int rank) {
  uint64_t there;
  asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(here), "r"(rank));
  return reinterpret_cast<T*>(there);
}

// What was written before a barrier is seen after it: in the block, in the cluster.
INLINE void block_barrier() { __syncthreads(); }
INLINE void cluster_barrier() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}

// For one thread of a block: adds one to a count in global memory, and waits for it to reach `most`.
INLINE void arrive(uint32_t* count) {
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(count) : "memory");
}
INLINE void wait_for(const uint32_t* count, uint32_t most) {
  uint32_t now;
  do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(count) : "memory");
  while (now < most);
}
// From global memory as other blocks wrote it, which the first cache may have in an older state.
INLINE Words fresh(const Words* from) {
  Words w;
  asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(w.of[0]), "=r"(w.of[1]), "=r"(w.of[2]), "=r"(w.of[3]) : "l"(from)
               : "memory");
  return w;
}
INLINE float fresh(const float* from) {
  float x;
  asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(x) : "l"(from) : "memory");
  return x;
}

INLINE float as_float(uint32_t bits) { return __int_as_float(bits); }
INLINE float from_half(uint16_t bits) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
}
INLINE uint16_t to_half(float x) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}
INLINE float from_bits(uint16_t bits) { return __int_as_float(uint32_t(bits) << 16); }
// To bfloat16, to the nearest, or to the even one of two.
INLINE uint16_t to_bits(float x) {
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}

// c [16, 8] += a [16, 16] b [16, 8] in bfloat16 or float16, by all threads of a warp; each has of c
// rows lane / 4 and 8 more, columns 2 (lane % 4) and the next.
#define MULTIPLY(type)                                                                          \
  asm("mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 {%0, %1, %2, %3}, "          \
      "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                                           \
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                          \
      : "r"(a.of[0]), "r"(a.of[1]), "r"(a.of[2]), "r"(a.of[3]), "r"(b_0), "r"(b_1))
template <int kind>
INLINE void multiply_tile(float (&c)[4], const Words& a, uint32_t b_0, uint32_t b_1) {
  if (kind == 2) MULTIPLY("f16");
  else MULTIPLY("bf16");
}

#define KERNEL(in) \
  extern "C" __global__ void __launch_bounds__(THREADS, 1) kernel(const __grid_constant__ Arguments in)
