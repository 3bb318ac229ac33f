// A group: the blocks that have the units of the same sequences, and what they tell each other.
//
// One block has nobody to tell. The blocks of a cluster write into each other's shared memory. Those
// of a grid, where a cluster's memory is too small, meet in global memory (`scratch`).

constexpr int X_BYTES = int(sizeof(X)), SLICE = X_PLANES * UB;  // numbers of a block's own units
constexpr int WORDS_OF_SLICE = SLICE * X_BYTES / 16;             // whole, if there are several blocks

struct Group {
  int rank, number, count;  // of the block in its group, of the group, of the member's groups
  int member;               // of a vmap, which has arrays of its own
  uint32_t* counter;        // of the blocks that have come to a barrier of a grid
  char* meeting;            // of a grid: x of the tile twice, then terms twice
  uint32_t epoch = 0;
  int turn = 0;

  INLINE Group(const Arguments& in) {
    const int all = block() / BLOCKS;
    rank = block() % BLOCKS, number = all % in.groups, count = in.groups;
    member = in.member + all / in.groups;
    char* scratch = static_cast<char*>(in.made[MADE_SCRATCH]) + int64_t(member) * SCRATCH_BYTES;
    counter = reinterpret_cast<uint32_t*>(scratch) + 4 * number;
    meeting = scratch + 16 * count + int64_t(number) * MEETING_BYTES;
  }
  INLINE int64_t block_of_all() const { return int64_t(member) * BLOCKS + rank; }
  // What any block wrote before is seen by all after it.
  INLINE void barrier() {
#if MEET == 0
    block_barrier();
#elif MEET == 1
    cluster_barrier();
#else
    block_barrier();
    epoch += BLOCKS;
    if (thread() == 0) arrive(counter), wait_for(counter, epoch);
    block_barrier();
#endif
  }
  INLINE Words* of_slice(int buffer, int n, int rank) const {
    return reinterpret_cast<Words*>(x_at(buffer, n) + rank * SLICE);
  }
  // Gives the slice of x that this block's threads wrote to all blocks, and waits for theirs.
  INLINE void exchange(int buffer) {
#if MEET == 0
    block_barrier();
#elif MEET == 1
    block_barrier();
    for (int k = thread(); k < NB * WORDS_OF_SLICE * BLOCKS; k += THREADS) {
      const int other = k / (NB * WORDS_OF_SLICE), n = k / WORDS_OF_SLICE % NB;
      Words* mine = of_slice(buffer, n, rank) + k % WORDS_OF_SLICE;
      if (other != rank) *in_block(mine, other) = *mine;
    }
    cluster_barrier();
#else
    Words* all = reinterpret_cast<Words*>(meeting) + buffer * NB * BLOCKS * WORDS_OF_SLICE;
    block_barrier();
    for (int k = thread(); k < NB * WORDS_OF_SLICE; k += THREADS) {
      const int n = k / WORDS_OF_SLICE, w = k % WORDS_OF_SLICE;
      all[(n * BLOCKS + rank) * WORDS_OF_SLICE + w] = of_slice(buffer, n, rank)[w];
    }
    barrier();
    for (int k = thread(); k < NB * BLOCKS * WORDS_OF_SLICE; k += THREADS) {
      const int n = k / (BLOCKS * WORDS_OF_SLICE), w = k % (BLOCKS * WORDS_OF_SLICE);
      of_slice(buffer, n, 0)[w] = fresh(all + k);
    }
    block_barrier();
#endif
  }
#if TERMS
  INLINE float* terms_at(int s, int n) const {  // of a block's units
    return reinterpret_cast<float*>(shared_memory() + AT_TERMS) + (s * NB + n) * UB;
  }
  // The sums of all blocks, by block, in two places that take turns.
  INLINE float* totals_at(int turn) const {
#if MEET == 2
    return reinterpret_cast<float*>(meeting + 2 * NB * BLOCKS * SLICE * X_BYTES) +
           turn * BLOCKS * TERMS * NB;
#else
    return reinterpret_cast<float*>(shared_memory() + AT_TOTALS) + turn * BLOCKS * TERMS * NB;
#endif
  }
  // Combines the terms [first, last), which the threads wrote to `terms_at`, over all units.
  INLINE void combine(int first, int last) {
    turn = 1 - turn;
    block_barrier();
    for (int k = thread(); k < (last - first) * NB; k += THREADS) {
      const int s = first + k / NB, n = k % NB;
      float total = terms_at(s, n)[0];
      for (int u = 1; u < UB && rank * UB + u < UNITS; u++)
        total = combined(s, total, terms_at(s, n)[u]);
      float* to = totals_at(turn) + (rank * TERMS + s) * NB + n;
#if MEET == 1
      for (int other = 0; other < BLOCKS; other++) *in_block(to, other) = total;
#else
      *to = total;
#endif
    }
    barrier();
  }
  INLINE float total(int s, int n) const {
    const float* from = totals_at(turn) + s * NB + n;
    float all = fresh_total(from);
    for (int other = 1; other < BLOCKS && other * UB < UNITS; other++)
      all = combined(s, all, fresh_total(from + other * TERMS * NB));
    return all;
  }
  static INLINE float fresh_total(const float* from) {
#if MEET == 2
    return fresh(from);
#else
    return *from;
#endif
  }
  static INLINE float combined(int s, float a, float b) {
    return (LARGEST >> s & 1) ? larger(a, b) : a + b;
  }
#endif
};
