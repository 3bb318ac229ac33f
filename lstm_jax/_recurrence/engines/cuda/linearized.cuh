// dr_t = restart_t ? dorigin : ds_{t-1};  du_t = dpre_t + dr_t W;  ds_t = valid_t ? J ... : dr_t

struct Timed {  // what a unit needs of a step, read while another step is computed
  float at[SIZE(CARRY)], pre[SIZE(PRE)], noise[SIZE(NOISE)], dpre[SIZE(PRE)];
  bool valid, restart;

  INLINE void read(const Arguments& in, const Item& item, int k) {
    valid = restart = false;
    if (!item.there || k >= in.steps) return;
    const int t = in.reverse ? in.steps - 1 - k : k, before = in.reverse ? t + 1 : t - 1;
    const int64_t row = int64_t(t) * in.batch + item.first;
    valid = !VALID || flag(in.given[GIVEN_VALID], row);
    restart = RESTART && flag(in.given[GIVEN_RESTART], row);
    if (restart) load_carry(in.given + GIVEN_ORIGIN, item.b, item.unit, at);
    else if (!k) load_carry(in.given + GIVEN_CARRY, item.b, item.unit, at);
    else load_carries(in.given + GIVEN_CARRIES, int64_t(before) * in.batch + item.first, item.unit, at);
    load_pre(in.given + GIVEN_PRE, row, item.unit, pre);
    load_noise(in.given + GIVEN_NOISE, row, item.unit, noise);
    load_dpre(in.given + GIVEN_DPRE, row, item.unit, dpre);
  }
};

INLINE void begin(const Arguments& in, const Item& item, const Timed& next, int buffer, int rank,
                  float* dcarry) {
  if (RESTART && next.restart) load_dcarry(in.given + GIVEN_DORIGIN, item.b, item.unit, dcarry);
  if (M_PLANES) item.put(buffer, dcarry, rank);
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
    constexpr int POINT = CARRY + PRE + EXTRAS + NOISE;
    EACH_ITEM {
      items[i].place(i, group, tile, in);
      next[i].read(in, items[i], 0);
      if (!items[i].there) continue;
      load_extras(in.given + GIVEN_EXTRAS, group.member, items[i].unit, a[i] + CARRY + PRE);
      load_dcarry(in.given + GIVEN_DCARRY, items[i].b, items[i].unit, a[i] + POINT);
      load_dextras(in.given + GIVEN_DEXTRAS, group.member, items[i].unit, a[i] + POINT + CARRY + PRE);
    }
    EACH_ITEM begin(in, items[i], next[i], 0, group.rank, a[i] + POINT);
    if (M_PLANES) group.exchange(0);
    for (int k = 0; k < in.steps; k++) {
      const int64_t step = int64_t(in.reverse ? in.steps - 1 - k : k) * in.batch;
      Timed now[ITEMS];
      EACH_ITEM now[i] = next[i], next[i].read(in, items[i], k + 1);
      if (M_PLANES) multiply(weights, k % 2), block_barrier();
      EACH_ITEM {
        float* const dpre = a[i] + POINT + CARRY;
        UNROLL for (int p = 0; p < CARRY; p++) a[i][p] = now[i].at[p];
        UNROLL for (int p = 0; p < PRE; p++) a[i][CARRY + p] = now[i].pre[p], dpre[p] = now[i].dpre[p];
        UNROLL for (int p = 0; p < NOISE; p++) a[i][CARRY + PRE + EXTRAS + p] = now[i].noise[p];
        items[i].add_product(dpre + PRE - M_PLANES);
      }
      program(a, y, sums, items, group);
      EACH_ITEM {
        choose<CARRY>(now[i].valid, y[i], a[i] + POINT);
        if (items[i].there)
          store_carries(in.made + MADE_CARRIES, step + items[i].first, items[i].unit, a[i] + POINT);
        begin(in, items[i], next[i], (k + 1) % 2, group.rank, a[i] + POINT);
      }
      if (M_PLANES && k + 1 < in.steps) group.exchange((k + 1) % 2);
    }
    EACH_ITEM if (items[i].there)
      store_final(in.made + MADE_FINAL, items[i].b, items[i].unit, a[i] + POINT);
    group.barrier();  // The next tile writes where this one may still be read.
  }
}
