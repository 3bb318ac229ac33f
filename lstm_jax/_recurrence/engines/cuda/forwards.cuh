// Steps from the first to the last, for the run and for its linearisation. Both say what Timed has of
// a step, where the program's arguments hold the state (STATE), and how these are filled.

// The state before the next step, and x for its product.
INLINE void begin(const Arguments& in, const Item& item, const Timed& next, int buffer, int rank,
                  float* state) {
  if (RESTART && next.restart) load_origin(in, item, state);
  if (M_PLANES) item.put(buffer, state, rank);
}

KERNEL(in) {
  Group group(in);
  Weights weights;
  if (M_PLANES) weights.take(in.given[GIVEN_W], group.block_of_all());
  clear_x(group);
  for (int tile = group.number; tile * NB < in.batch; tile += group.count) {
    Item items[ITEMS];
    Timed next[ITEMS] = {};
    float a[ITEMS][SIZE(ARGUMENTS)] = {}, y[ITEMS][SIZE(CARRY)], sums[ITEMS][1];
    EACH_ITEM {
      items[i].place(i, group, tile, in);
      next[i].read(in, items[i], 0);
      if (items[i].there) load_first(in, items[i], group.member, a[i]);
    }
    EACH_ITEM begin(in, items[i], next[i], 0, group.rank, a[i] + STATE);
    if (M_PLANES) group.exchange(0);
    for (int k = 0; k < in.steps; k++) {
      const int64_t step = int64_t(Flagged::time(in, k)) * in.batch;
      Timed now[ITEMS];
      EACH_ITEM now[i] = next[i], next[i].read(in, items[i], k + 1);
      if (M_PLANES) multiply(weights, k % 2), block_barrier();
      EACH_ITEM now[i].fill(in, items[i], step, a[i]);
      program(a, y, sums, items, group);
      EACH_ITEM {
        choose<CARRY>(now[i].valid, y[i], a[i] + STATE);
        if (items[i].there)
          store_carries(in.made + MADE_CARRIES, step + items[i].first, items[i].unit, a[i] + STATE);
        begin(in, items[i], next[i], (k + 1) % 2, group.rank, a[i] + STATE);
      }
      if (M_PLANES && k + 1 < in.steps) group.exchange((k + 1) % 2);
    }
    EACH_ITEM if (items[i].there)
      store_final(in.made + MADE_FINAL, items[i].b, items[i].unit, a[i] + STATE);
    group.barrier();  // The next tile writes where this one may still be read.
  }
}
