// r_t = restart_t ? origin : s_{t-1};  u_t = r_t W;  s_t = valid_t ? update(r_t, ...) : r_t

struct Timed {  // what a unit needs of a step, read while another step is computed
  float wx[SIZE(WX)], noise[SIZE(NOISE)];
  bool valid, restart;

  INLINE void read(const Arguments& in, const Item& item, int k) {
    valid = restart = false;
    if (!item.there || k >= in.steps) return;
    const int64_t row = int64_t(in.reverse ? in.steps - 1 - k : k) * in.batch + item.first;
    load_wx(in.given + GIVEN_WX, row, item.unit, wx);
    load_noise(in.given + GIVEN_NOISE, row, item.unit, noise);
    valid = !VALID || flag(in.given[GIVEN_VALID], row);
    restart = RESTART && flag(in.given[GIVEN_RESTART], row);
  }
};

// r of the next step, and x for its product.
INLINE void begin(const Arguments& in, const Item& item, const Timed& next, int buffer, int rank,
                  float* carry) {
  if (RESTART && next.restart) load_carry(in.given + GIVEN_ORIGIN, item.b, item.unit, carry);
  if (M_PLANES) item.put(buffer, carry, rank);
}

KERNEL(in) {
  Group group(in);
  Weights weights;
  if (M_PLANES) weights.take(in.given[GIVEN_W], group.block_of_all());
  clear_x(group);
  for (int tile = group.number; tile * NB < in.batch; tile += group.count) {
    Item items[ITEMS];
    Timed next[ITEMS];
    float a[ITEMS][SIZE(ARGUMENTS)], y[ITEMS][SIZE(CARRY)], sums[ITEMS][1];
    EACH_ITEM {
      items[i].place(i, group, tile, in);
      next[i].read(in, items[i], 0);
      if (!items[i].there) continue;
      load_carry(in.given + GIVEN_CARRY, items[i].b, items[i].unit, a[i]);
      load_extras(in.given + GIVEN_EXTRAS, group.member, items[i].unit, a[i] + CARRY + PRE);
    }
    EACH_ITEM begin(in, items[i], next[i], 0, group.rank, a[i]);
    if (M_PLANES) group.exchange(0);
    for (int k = 0; k < in.steps; k++) {
      const int64_t step = int64_t(in.reverse ? in.steps - 1 - k : k) * in.batch;
      Timed now[ITEMS];
      EACH_ITEM now[i] = next[i], next[i].read(in, items[i], k + 1);
      if (M_PLANES) multiply(weights, k % 2), block_barrier();
      EACH_ITEM {
        float* const pre = a[i] + CARRY;
        UNROLL for (int p = 0; p < WX; p++) pre[p] = now[i].wx[p];
        UNROLL for (int p = 0; p < NOISE; p++) a[i][CARRY + PRE + EXTRAS + p] = now[i].noise[p];
        if (!ADDITIVE) { UNROLL for (int p = 0; p < M_PLANES; p++) pre[WX + p] = 0.f; }
        float* const u = ADDITIVE ? pre : pre + WX;
        items[i].add_product(u);
        if (KEPT_U && items[i].there) store_u(in.made + MADE_U, step + items[i].first, items[i].unit, u);
      }
      program(a, y, sums, items, group);
      EACH_ITEM {
        choose<CARRY>(now[i].valid, y[i], a[i]);
        if (items[i].there)
          store_carries(in.made + MADE_CARRIES, step + items[i].first, items[i].unit, a[i]);
        begin(in, items[i], next[i], (k + 1) % 2, group.rank, a[i]);
      }
      if (M_PLANES && k + 1 < in.steps) group.exchange((k + 1) % 2);
    }
    EACH_ITEM if (items[i].there)
      store_final(in.made + MADE_FINAL, items[i].b, items[i].unit, a[i]);
    group.barrier();  // The next tile writes where this one may still be read.
  }
}
