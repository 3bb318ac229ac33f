// The three functions of base.py for a slice of the batch.
//
// Included once for each instruction set, after layer.h.

// r_t = restart_t ? origin : s_{t-1};  u_t = r_t W;  s_t = valid_t ? update(r_t, ...) : r_t
// What nobody asked for of all steps has no data in `kept` (the carries) and `sums` (u).
template <class T>
void run(const Rows<T>& rows, const Arrays<T>& start, const Arrays<T>& origin,
         const Arrays<T>& kept, const Arrays<T>& final, const Array<T>& sums) {
  const Layer<T>& layer = rows.layer;
  const Call& call = layer.call;
  int block = projected_steps(layer, rows.last - rows.first);
  Local<T> turns = Local<T>::missing(kept, start, rows, 2);
  Local<T> sum = Local<T>::missing({sums}, {sums}, rows, block);
  Arrays<T> carries = turns.instead(kept), pre = layer.pre, apart;
  Array<T> u = sum.instead({sums})[0];
  if (layer.W_x && !call.additive) apart = {{nullptr, 0, layer.W_x->M}};  // Not in u's place.
  Local<T> wx(apart, rows.first, rows.last, block);
  if (layer.W_x) pre[0] = call.additive ? u : wx.arrays[0];
  Blocks<T> blocks(layer);
  Local<T> held(layer.restart ? start : Arrays<T>(), rows.first, rows.last);
  size_t place = blocks.add(start);
  if (!call.additive) blocks.add(pre);
  for (const Arrays<T>& more : {Arrays<T>{u}, layer.extras, layer.noise, carries}) blocks.add(more);
  for (int k = 0; k < call.steps; k++) {
    int t = layer.time(k);
    rows.project_block(k, block, pre[0]);
    rows.prefetch(layer.pre, k + (layer.W_x ? block : 1));
    Arrays<T> r = before(rows, k, start, origin, carries, held.arrays);
    rows.multiply(r[0], call.additive ? pre[0] : Array<T>{}, u, t);
    blocks.set(place, r);
    blocks.run(t, rows.first, rows.last);
    if (layer.valid) rows.copy(carries, t, r, 0, layer.flags(layer.valid, t), false);
  }
  int last = call.steps - 1;
  rows.copy(final, 0, call.steps ? frozen(carries, layer.time(last)) : start, 0);
}

// dr_t = restart_t ? dorigin : ds_{t-1};  du_t = dpre_t + dr_t W;  ds_t = valid_t ? J ... : dr_t
template <class T>
void linearized(const Rows<T>& rows, const Primal<T>& at, const Arrays<T>& start,
                const Arrays<T>& origin, const Arrays<T>& dpre, const Arrays<T>& dextras,
                const Arrays<T>& carries, const Arrays<T>& final) {
  const Layer<T>& layer = rows.layer;
  Blocks<T> blocks(layer);
  bool restart = layer.restart;
  Local<T> held(restart ? start : Arrays<T>(), rows.first, rows.last);
  Local<T> dheld(restart ? start : Arrays<T>(), rows.first, rows.last);
  Local<T> du({dpre.back()}, rows.first, rows.last);
  size_t place = blocks.add(at.start);
  for (const Arrays<T>& more : {layer.pre, layer.extras, layer.noise}) blocks.add(more);
  size_t dplace = blocks.add(start);
  blocks.add(Arrays<T>(dpre.begin(), dpre.end() - 1));
  size_t uplace = blocks.add({dpre.back()});
  blocks.add(dextras), blocks.add(carries);
  for (int k = 0; k < layer.call.steps; k++) {
    int t = layer.time(k);
    Arrays<T> dr = before(rows, k, start, origin, carries, dheld.arrays);
    blocks.set(place, before(rows, k, at.start, at.origin, at.carries, held.arrays));
    blocks.set(dplace, dr);
    if (layer.W) {
      rows.multiply(dr[0], dpre.back(), du.arrays[0], t);
      blocks.set(uplace, du.arrays);
    }
    blocks.run(t, rows.first, rows.last);
    if (layer.valid) rows.copy(carries, t, dr, 0, layer.flags(layer.valid, t), false);
  }
  int last = layer.call.steps - 1;
  rows.copy(final, 0, layer.call.steps ? frozen(carries, layer.time(last)) : start, 0);
}

template <class T>
void add(T* to, const T* from, int64_t n) {
  for (int64_t j = 0; j < n; j++) to[j] += from[j];
}

// a_t = ct + ct_t, and of it what goes through the update.
template <class T>
void part_ways(const Rows<T>& rows, const Arrays<T>& ct, const Arrays<T>& cts,
               const Arrays<T>& through, int t, const uint8_t* valid) {
  for (size_t c = 0; c < ct.size(); c++)
    if (cts[c].data)
      rows.each({ct[c]}, 0, {cts[c]}, t, [](T* a, const T* b, int64_t n, int) { add<T>(a, b, n); });
  rows.copy(through, 0, ct, 0);
  if (valid)
    rows.each(through, 0, ct, 0, [=](T* a, const T*, int64_t n, int b) {
      if (!valid[b]) std::fill_n(a, n, T(0));
    });
}

// Backpropagation through time. W here is the transpose. cts: of the stacked carries, where there
// are any; dextras: this thread's own sums. Without masks and restarts the program adds the cts.
template <class T>
void transposed(const Rows<T>& rows, const Primal<T>& at, const Arrays<T>& ct_final,
                const Arrays<T>& cts, const Arrays<T>& dpre, const Arrays<T>& dextras,
                const Arrays<T>& dcarry, const Arrays<T>& dorigin) {
  const Layer<T>& layer = rows.layer;
  bool flags = layer.valid || layer.restart;
  Blocks<T> blocks(layer);
  Local<T> ct(ct_final, rows.first, rows.last), dr(ct_final, rows.first, rows.last);
  Local<T> through(flags ? ct_final : Arrays<T>(), rows.first, rows.last);
  Local<T> held(layer.restart ? ct_final : Arrays<T>(), rows.first, rows.last);
  rows.copy(ct.arrays, 0, ct_final, 0);
  rows.each(dorigin, 0, dorigin, 0, [](T* a, T*, int64_t n, int) { std::fill_n(a, n, T(0)); });
  size_t place = blocks.add(at.start);
  for (const Arrays<T>& more : {layer.pre, layer.extras, layer.noise}) blocks.add(more);
  size_t ct_place = blocks.add(flags ? through.arrays : ct.arrays);
  for (const Array<T>& leaf : cts)
    if (!flags && leaf.data) blocks.add({leaf});
  size_t dr_place = blocks.add(dr.arrays);
  blocks.add(dpre), blocks.add(dextras);
  for (int k = layer.call.steps - 1; k >= 0; k--) {
    int t = layer.time(k);
    const uint8_t *valid = layer.flags(layer.valid, t), *restart = layer.flags(layer.restart, t);
    for (const Arrays<T>* next : {&layer.pre, &cts, &at.carries}) rows.prefetch(*next, k - 1);
    if (flags) part_ways(rows, ct.arrays, cts, through.arrays, t, valid);
    blocks.set(place, before(rows, k, at.start, at.origin, at.carries, held.arrays));
    if (!flags) blocks.set(ct_place, ct.arrays);
    blocks.set(dr_place, dr.arrays);
    blocks.run(t, rows.first, rows.last);
    Array<T> to = dr.arrays[0];
    rows.multiply(dpre.back(), to, to, t);
    if (valid)
      rows.each(dr.arrays, 0, ct.arrays, 0, [=](T* a, const T* around, int64_t n, int b) {
        if (!valid[b]) add<T>(a, around, n);
      });
    if (restart)
      rows.each(dorigin, 0, dr.arrays, 0, [=](T* sum, T* a, int64_t n, int b) {
        if (restart[b]) add<T>(sum, a, n), std::fill_n(a, n, T(0));
      });
    std::swap(ct.arrays, dr.arrays);
  }
  rows.copy(dcarry, 0, ct.arrays, 0);
}
