// The tile registers of AMX: eight matrices of up to 16 rows of 64 bytes, as instructions or emulated.
//
// 0 to 3 hold sums, 16 x 16 floats each; 4 and 5 rows of x, 32 numbers in bfloat16 each; 6 and 7 the
// columns of W: row k has the numbers 2 k and 2 k + 1 of 16 columns, side by side. Intel, Intrinsics
// Guide, AMX-BF16.

namespace tile {

// How many rows the registers have, in the form that LDTILECFG reads.
struct alignas(64) Shapes {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {};
};

#if LSTM_JAX_EMULATED_TILES

struct Registers {
  Shapes shapes;
  float data[8][16][16];
};
inline thread_local Registers registers;

inline void configure(const Shapes& shapes) {
  registers.shapes = shapes;
  std::memset(registers.data, 0, sizeof registers.data);
}
inline void release() { registers.shapes = Shapes{}; }
template <int t>
void zero() {
  std::memset(registers.data[t], 0, sizeof registers.data[t]);
}
template <int t>
void load(const void* from, int64_t stride) {
  for (int r = 0; r < registers.shapes.rows[t]; r++)
    std::memcpy(registers.data[t][r], static_cast<const char*>(from) + r * stride, 64);
}
template <int t>
void store(void* to, int64_t stride) {
  for (int r = 0; r < registers.shapes.rows[t]; r++)
    std::memcpy(static_cast<char*>(to) + r * stride, registers.data[t][r], 64);
}
// Register c += a b.
template <int c, int a, int b>
void multiply() {
  for (int r = 0; r < registers.shapes.rows[c]; r++)
    for (int k = 0; k < registers.shapes.rows[b]; k++)
      for (int j = 0; j < 16; j++)
        for (int half = 0; half < 2; half++) {
          uint16_t of_a[2], of_b[2];
          std::memcpy(of_a, &registers.data[a][r][k], 4);
          std::memcpy(of_b, &registers.data[b][k][j], 4);
          registers.data[c][r][j] += from_bfloat16(of_a[half]) * from_bfloat16(of_b[half]);
        }
}

#elif TILES

inline void configure(const Shapes& shapes) {
  asm volatile("ldtilecfg %0" ::"m"(shapes) : "memory");
}
inline void release() { asm volatile("tilerelease" ::: "memory"); }
template <int t>
INLINE void zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(t));
}
template <int t>
INLINE void load(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(t) : "memory");
}
template <int t>
INLINE void store(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(t) : "memory");
}
template <int c, int a, int b>
INLINE void multiply() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(c), "i"(a), "i"(b));
}

#else

inline void configure(const Shapes&) {}
inline void release() {}
template <int t>
void zero() {}
template <int t>
void load(const void*, int64_t) {}
template <int t>
void store(void*, int64_t) {}
template <int c, int a, int b>
void multiply() {}

#endif

// The shapes of a thread while it multiplies by tiles, released at the end: other code may have its
// own, and a thread that holds none has less to be saved.
class Held {
  Shapes shapes;

 public:
  Held() = default;
  Held(const Held&) = delete;
  ~Held() {
    if (shapes.rows[0]) release();
  }
  // `first` rows in one register of x and `second` in the other, none or more.
  void rows(int first, int second) {
    if (shapes.rows[0] == first && shapes.rows[2] == second) return;
    const uint8_t one = uint8_t(first), two = uint8_t(second);
    const uint8_t rows[8] = {one, one, two, two, one, two, 16, 16};
    std::copy_n(rows, 8, shapes.rows);
    for (int t = 0; t < 8; t++) shapes.bytes[t] = rows[t] ? 64 : 0;
    configure(shapes);
  }
};

}  // namespace tile
