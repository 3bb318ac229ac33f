// Items: a unit of a sequence each, of which a thread has some throughout. In loops over them all
// indices are known when this is compiled, so that what belongs to an item stays in registers.

constexpr int ITEMS = (NB * UB + THREADS - 1) / THREADS;
#define EACH_ITEM UNROLL for (int i = 0; i < ITEMS; i++)

struct Item {
  int n, own, unit;  // the sequence in its tile, the unit in its block and in the layer
  int64_t b, first;  // the row of the sequence: of arrays without steps, and of the first step
  bool there, valid = true;

  INLINE void place(int i, const Group& group, int tile, const Arguments& in) {
    const int k = thread() + i * THREADS, sequence = tile * NB + k / UB;
    n = k / UB, own = k % UB, unit = group.rank * UB + own;
    there = n < NB && unit < UNITS && sequence < in.batch;
    b = int64_t(group.member) * in.batch + sequence;
    first = int64_t(group.member) * in.steps * in.batch + sequence;
  }
  // The numbers of the planes of x for the next product.
  INLINE void put(int buffer, const float* x, int rank) const {
    if (n >= NB) return;
    UNROLL for (int p = 0; p < X_PLANES; p++)
      x_at(buffer, n)[rank * SLICE + p * UB + own] = as_x(there ? x[p] : 0.f);
  }
  // The sums of the planes of the product.
  INLINE void add_product(float* to) const {
    if (n >= NB) return;
    UNROLL for (int p = 0; p < M_PLANES; p++) to[p] += product_at(n, p * UB + own);
  }
};

// The flags of a step of an item; what else a unit needs of a step comes beside them, and is read
// while another step is computed.
struct Flagged {
  bool valid = false, restart = false;

  static INLINE int time(const Arguments& in, int k) { return in.reverse ? in.steps - 1 - k : k; }
  // Takes those of step k, and its row in the arrays of all steps; false if there is no such step.
  INLINE bool begin(const Arguments& in, const Item& item, int k, int64_t& row) {
    valid = restart = false;
    if (!item.there || k < 0 || k >= in.steps) return false;
    row = int64_t(time(in, k)) * in.batch + item.first;
    valid = !VALID || flag(in.given[GIVEN_VALID], row);
    restart = RESTART && flag(in.given[GIVEN_RESTART], row);
    return true;
  }
  static INLINE bool flag(const void* flags, int64_t k) {
    return static_cast<const uint8_t*>(flags)[k];
  }
};

template <int n>
INLINE void copy(const float* these, float* to) {
  UNROLL for (int k = 0; k < n; k++) to[k] = these[k];
}
template <int n>
INLINE void choose(bool yes, const float* these, float* to) {
  UNROLL for (int k = 0; k < n; k++) to[k] = yes ? these[k] : to[k];
}
template <int n>
INLINE void add(const float* these, float* to) {
  UNROLL for (int k = 0; k < n; k++) to[k] += these[k];
}

// Zeros where nobody writes: x of units that fill up a slice, and of columns that fill up K.
INLINE void clear_x(Group& group) {
  for (int k = thread(); k < BUFFERS * NB * X_ROW; k += THREADS) x_at(0, 0)[k] = X(0);
  group.barrier();
}
