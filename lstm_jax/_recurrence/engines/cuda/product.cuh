// x W for the sequences of a tile and the columns of a block: [NB, K] times [K, M].
//
// Warps share the tiles of columns, and K where there are more warps than tiles (`PARTS`): their
// sums come to shared memory, sums[part][n][m], for the threads that compute units. W lies packed
// in the order in which it is read: in registers where a warp's share fits them, in shared memory,
// or in global memory.

constexpr int WARPS = THREADS / 32, TILE = NARROW ? 16 : 32, DEEP = NARROW ? 16 : 4;
constexpr int COLUMN_TILES = M / TILE, DEPTH = K / DEEP, STRIDE = WARPS / PARTS;
constexpr int SHARE = (COLUMN_TILES + STRIDE - 1) / STRIDE;  // tiles of columns of a warp
constexpr int DEPTH_SHARE = (DEPTH + PARTS - 1) / PARTS;

INLINE X* x_at(int buffer, int n) {
  return reinterpret_cast<X*>(shared_memory() + AT_X) + (buffer % BUFFERS * NB + n) * X_ROW;
}
INLINE float* sums_at(int part, int n) {
  return reinterpret_cast<float*>(shared_memory() + AT_SUMS) + (part * NB + n) * SUMS_ROW;
}

// Registers need indices that are known; W elsewhere would only make the program longer.
#if PLACE == 0
#define UNROLL_DEPTH UNROLL
#else
#define UNROLL_DEPTH UNROLL_4
#endif

// Four words of a thread for DEEP rows of W and a tile of columns: in 16 bits those of
// `multiply_tile`, in float32 the four numbers of its column.
struct Weights {
  const Words* packed;
#if PLACE == 0
  Words held[SIZE(SHARE)][SIZE(DEPTH_SHARE)];
#endif

  // block: the number of a block among those of all members.
  INLINE void take(const void* given, int64_t block) {
    packed = static_cast<const Words*>(given) + block * (COLUMN_TILES * DEPTH * 32);
#if PLACE == 0
    UNROLL for (int s = 0; s < SHARE; s++)
      UNROLL for (int d = 0; d < DEPTH_SHARE; d++)
        if (tile(s) < COLUMN_TILES && first() + d < DEPTH)
          held[s][d] = packed[(tile(s) * DEPTH + first() + d) * 32 + thread() % 32];
#elif PLACE == 1
    Words* here = reinterpret_cast<Words*>(shared_memory() + AT_W);
    for (int k = thread(); k < COLUMN_TILES * DEPTH * 32; k += THREADS) here[k] = packed[k];
    packed = here;
#endif
  }
  // The tile of columns of a warp's share, and the first of its depths.
  INLINE int tile(int s) const { return thread() / 32 / PARTS + s * STRIDE; }
  INLINE int part() const { return thread() / 32 % PARTS; }
  INLINE int first() const { return part() * DEPTH / PARTS; }
  INLINE int last() const { return (part() + 1) * DEPTH / PARTS; }
  INLINE Words at(int s, int d) const {
#if PLACE == 0
    return held[s][d];
#else
    return packed[(tile(s) * DEPTH + first() + d) * 32 + thread() % 32];
#endif
  }
  INLINE bool has(int s) const { return thread() / 32 < STRIDE * PARTS && tile(s) < COLUMN_TILES; }
};

#if NARROW
INLINE void multiply(const Weights& W, int buffer) {
  const int lane = thread() % 32;
  UNROLL for (int s = 0; s < SHARE; s++) {
    if (!W.has(s)) continue;
    float c[NB / 8][4] = {};
    UNROLL_DEPTH for (int d = 0; d < DEPTH_SHARE; d++) {
      if (W.first() + d >= W.last()) continue;
      const Words a = W.at(s, d);
      UNROLL for (int n = 0; n < NB / 8; n++) {
        const uint32_t* b = reinterpret_cast<const uint32_t*>(x_at(buffer, n * 8 + lane / 4)) +
                            (W.first() + d) * 8 + lane % 4;
        multiply_tile<NARROW>(c[n], a, b[0], b[4]);
      }
    }
    UNROLL for (int n = 0; n < NB / 8; n++)
      UNROLL for (int i = 0; i < 4; i++)
        sums_at(W.part(), n * 8 + lane % 4 * 2 + i % 2)[W.tile(s) * 16 + lane / 4 + i / 2 * 8] =
            c[n][i];
  }
}
#else
INLINE void multiply(const Weights& W, int buffer) {
  const int lane = thread() % 32;
  UNROLL for (int s = 0; s < SHARE; s++) {
    if (!W.has(s)) continue;
    float c[NB] = {};
    UNROLL_DEPTH for (int d = 0; d < DEPTH_SHARE; d++) {
      if (W.first() + d >= W.last()) continue;
      const Words w = W.at(s, d);
      UNROLL for (int n = 0; n < NB; n++) {
        const float* x = x_at(buffer, n) + (W.first() + d) * 4;
        UNROLL for (int k = 0; k < 4; k++) c[n] += x[k] * as_float(w.of[k]);
      }
    }
    UNROLL for (int n = 0; n < NB; n++) sums_at(W.part(), n)[W.tile(s) * 32 + lane] = c[n];
  }
}
#endif

// Column m of the product for sequence n of the tile.
INLINE float product_at(int n, int m) {
  float sum = 0.f;
  UNROLL for (int part = 0; part < PARTS; part++) sum += sums_at(part, n)[m];
  return sum;
}
