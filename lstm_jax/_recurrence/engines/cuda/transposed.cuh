// Backpropagation through time. n_t = valid_t ? a_t : 0 goes through the update, o_t around it:
// q_t, dp_t = J^T n_t;  q_t += du_t W^T + o_t;  a_{t-1} = ct_{t-1} + (restart_t ? 0 : q_t)

struct Timed : Point {
  float ct[SIZE(CARRY)];

  INLINE void read(const Arguments& in, const Item& item, int k) {
    int64_t row;
    if (Point::read(in, item, k, row)) load_cts(in.given + GIVEN_CTS, row, item.unit, ct);
  }
};

// Sums over the sequences: those of a block's threads, added up for each of its units.
INLINE void store_sums(const float (&sums)[ITEMS][SIZE(SUM_PLANES)], const Item (&items)[ITEMS],
                       const Group& group, void* const* to) {
  float* all = reinterpret_cast<float*>(shared_memory() + AT_TERMS);
  const int64_t row = int64_t(group.member) * group.count + group.number;
  UNROLL for (int p = 0; p < SUM_PLANES; p++) {
    block_barrier();
    EACH_ITEM if (items[i].n < NB) all[items[i].n * UB + items[i].own] = sums[i][p];
    block_barrier();
    for (int u = thread(); u < UB; u += THREADS) {
      float total = 0.f;
      for (int n = 0; n < NB; n++) total += all[n * UB + u];
      if (group.rank * UB + u < UNITS) store_sum(p, to, row, group.rank * UB + u, total);
    }
  }
}

KERNEL(in) {
  Group group(in);
  Weights weights;
  if (X_PLANES) weights.take(in.given[GIVEN_W], group.block_of_all());
  clear_x(group);
  float sums[ITEMS][SIZE(SUM_PLANES)] = {};
  Item items[ITEMS];
  for (int tile = group.number; tile * NB < in.batch; tile += group.count) {
    Timed next[ITEMS] = {};
    float a[ITEMS][SIZE(ARGUMENTS)] = {}, y[ITEMS][SIZE(CARRY + PRE)], ct[ITEMS][SIZE(CARRY)] = {};
    float dorigin[ITEMS][SIZE(CARRY)] = {};
    EACH_ITEM {
      items[i].place(i, group, tile, in);
      next[i].read(in, items[i], in.steps - 1);
      if (!items[i].there) continue;
      load_extras(in.given + GIVEN_EXTRAS, group.member, items[i].unit, a[i] + CARRY + PRE);
      load_ct(in.given + GIVEN_CT, items[i].b, items[i].unit, ct[i]);
    }
    for (int k = in.steps - 1; k >= 0; k--) {
      const int64_t step = int64_t(Flagged::time(in, k)) * in.batch;
      Timed now[ITEMS];
      EACH_ITEM {
        now[i] = next[i], next[i].read(in, items[i], k - 1);
        add<CARRY>(now[i].ct, ct[i]);
        now[i].put(a[i]);
        UNROLL for (int p = 0; p < CARRY; p++) a[i][POINT + p] = now[i].valid ? ct[i][p] : 0.f;
        items[i].valid = now[i].valid;
      }
      program(a, y, sums, items, group);
      EACH_ITEM {
        float* const dpre = y[i] + CARRY;
        UNROLL for (int p = 0; p < PRE; p++) dpre[p] = now[i].valid ? dpre[p] : 0.f;
        if (items[i].there)
          store_dpre(in.made + MADE_DPRE, step + items[i].first, items[i].unit, dpre);
        if (X_PLANES) items[i].put(k % 2, dpre + PRE - X_PLANES, group.rank);
      }
      if (X_PLANES) group.exchange(k % 2), multiply(weights, k % 2), block_barrier();
      EACH_ITEM {
        if (X_PLANES) items[i].add_product(y[i]);
        choose<CARRY>(now[i].valid, y[i], ct[i]);
        if (RESTART && now[i].restart)
          UNROLL for (int p = 0; p < CARRY; p++) dorigin[i][p] += ct[i][p], ct[i][p] = 0.f;
      }
    }
    EACH_ITEM if (items[i].there) {
      store_ct(in.made + MADE_DCARRY, items[i].b, items[i].unit, ct[i]);
      if (RESTART) store_ct(in.made + MADE_DORIGIN, items[i].b, items[i].unit, dorigin[i]);
    }
    group.barrier();  // The next tile writes where this one may still be read.
  }
  store_sums(sums, items, group, in.made + MADE_SUMS);
}
