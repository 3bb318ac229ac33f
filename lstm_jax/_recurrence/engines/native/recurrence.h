// The three functions of equations.py for a slice of the batch.
//
// Included once for each instruction set, after layer.h.

// Products r_t W of all steps, the padded ones too: a derivative may be taken at their sums. That of a
// padded step is the one of the step before, unless r has changed: that step was valid, or this one
// restarts.
template <class T>
class Products {
  const Rows<T>& rows;
  std::vector<T> held;
  std::vector<uint8_t> holds;  // rows of which `held` is the product of the present r
  Some fresh;

  T* row(int b) { return held.data() + size_t(b - rows.first) * rows.layer.W->M; }

 public:
  Products(const Rows<T>& rows) : rows(rows) {
    if (!rows.layer.valid || !rows.layer.W) return;
    held.resize(size_t(rows.last - rows.first) * rows.layer.W->M);
    holds.resize(rows.last - rows.first);
  }
  // y_t = start_t + r W at step k.
  void multiply(const Array<T>& r, const Array<T>& start, const Array<T>& y, int k) {
    const Layer<T>& layer = rows.layer;
    const int t = layer.time(k);
    if (held.empty()) return rows.multiply(r, start, y, t, fresh);
    const uint8_t* restart = layer.flags(layer.restart, t);
    const uint8_t* before = k ? layer.flags(layer.valid, layer.time(k - 1)) : nullptr;
    auto changed = [=](int b) { return !before || before[b] || (restart && restart[b]); };
    auto lacks = [&](int b) { return changed(b) || !holds[b - rows.first]; };
    fresh.set(rows.first, rows.last, changed);
    for (int b : fresh.rows) holds[b - rows.first] = false;
    if (fresh.most) return rows.multiply(r, start, y, t, fresh);
    fresh.set(rows.first, rows.last, lacks);
    for (int b : fresh.rows) holds[b - rows.first] = true;
    rows.gather_products(r, t, fresh.rows);
    const int M = layer.W->M;
    for (size_t n = 0; n < fresh.rows.size(); n++)
      std::copy_n(rows.sums.data() + n * M, M, row(fresh.rows[n]));
    for (int b = rows.first; b < rows.last; b++)
      add_sums<T>(start.data ? start.at(t, b) : nullptr, row(b), M, y.at(t, b));
  }
};

// r_t = restart_t ? origin : s_{t-1};  u_t = r_t W;  s_t = valid_t ? update(r_t, ...) : r_t
// What nobody asked for of all steps has no data in `kept` (the carries) and `sums` (u).
template <class T>
void run(const Rows<T>& rows, const Arrays<T>& start, const Arrays<T>& origin,
         const Arrays<T>& kept, const Arrays<T>& final, const Array<T>& sums) {
  const Layer<T>& layer = rows.layer;
  const Call& call = layer.call;
  const int block = projected_steps(layer, rows.last - rows.first);
  const bool apart = layer.W_x && !call.additive;  // wx is not in u's place.
  const bool kept_u = sums.data;  // A derivative may be taken at it, be the step valid or not.
  Placed<T> carries(kept, start, rows, 2), of_u({sums}, rows, block);
  const bool narrow = layer.W_x && layer.W_x->form != Form::numbers;  // x is not widened.
  Arrays<T> like = narrow ? Arrays<T>(layer.pre.size()) : layer.pre;
  Placed<T> given(layer.pre, like, rows, block), noise(layer.noise, rows);
  Arrays<T> of_wx = apart ? Arrays<T>{{nullptr, 0, layer.W_x->M}} : Arrays<T>();
  Local<T> wx(of_wx, rows.first, rows.last, block);
  Arrays<T> pre = given.arrays;
  const Array<T>& u = of_u.arrays[0];
  if (layer.W_x) pre[0] = apart ? wx.arrays[0] : u;
  Previous<T> previous(start, origin, carries);
  Products<T> products(rows);
  Blocks<T> blocks(layer);
  size_t place = blocks.add(start);
  if (!call.additive) blocks.add(pre);
  blocks.add({u}), blocks.add(layer.extras), blocks.add(noise.arrays), blocks.add(carries.arrays);
  for (int k = 0; k < call.steps; k++) {
    int t = layer.time(k);
    if (layer.W_x) project_block(given, k, block, pre[0], !kept_u);
    else given.read(t);
    noise.read(t);
    rows.prefetch(layer.pre, k + (layer.W_x ? block : 1));
    const Arrays<T>& r = previous.before(k);
    const Some& valid = rows.valid_at(t);
    const Array<T> begin = call.additive ? pre[0] : Array<T>{};
    if (kept_u) products.multiply(r[0], begin, u, k);
    else rows.multiply(r[0], begin, u, t, valid);
    blocks.set(place, r);
    valid.each(rows.first, rows.last, [&](int first, int last) { blocks.run(t, first, last); });
    if (layer.valid) rows.copy(carries.arrays, t, r, 0, layer.flags(layer.valid, t), false);
    carries.write(t);
  }
  rows.copy(final, 0, previous.after(call.steps), 0);
}

// dr_t = restart_t ? dorigin : ds_{t-1};  du_t = dpre_t + dr_t W;  ds_t = valid_t ? J ... : dr_t
template <class T>
void linearized(const Rows<T>& rows, const Primal<T>& at, const Arrays<T>& start,
                const Arrays<T>& origin, const Arrays<T>& dpre, const Arrays<T>& dextras,
                const Arrays<T>& kept, const Arrays<T>& final) {
  const Layer<T>& layer = rows.layer;
  Placed<T> carries(at.carries, rows), pre(layer.pre, rows), noise(layer.noise, rows);
  Placed<T> dcarries(kept, start, rows, 2), dp(dpre, rows);
  Previous<T> previous(at.start, at.origin, carries), dprevious(start, origin, dcarries);
  Local<T> du({dpre.back()}, rows.first, rows.last);
  Blocks<T> blocks(layer);
  size_t place = blocks.add(at.start);
  blocks.add(pre.arrays), blocks.add(layer.extras), blocks.add(noise.arrays);
  size_t dplace = blocks.add(start);
  size_t uplace = blocks.add(dp.arrays) + dpre.size() - 1;
  blocks.add(dextras), blocks.add(dcarries.arrays);
  for (int k = 0; k < layer.call.steps; k++) {
    int t = layer.time(k);
    if (k) carries.read(layer.time(k - 1));
    pre.read(t), noise.read(t), dp.read(t);
    const Arrays<T>& dr = dprevious.before(k);
    blocks.set(place, previous.before(k));
    blocks.set(dplace, dr);
    if (layer.W) {
      rows.multiply(dr[0], dpre.back(), du.arrays[0], t, Some());
      blocks.set(uplace, du.arrays);
    }
    blocks.run(t, rows.first, rows.last);
    if (layer.valid) rows.copy(dcarries.arrays, t, dr, 0, layer.flags(layer.valid, t), false);
    dcarries.write(t);
  }
  rows.copy(final, 0, dprevious.after(layer.call.steps), 0);
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
// are any; dextras: this thread's own. Without masks and restarts the program adds the cts.
template <class T>
void transposed(const Rows<T>& rows, const Primal<T>& at, const Arrays<T>& ct_final,
                const Arrays<T>& cts, const Arrays<T>& dpre, Sums<T>& dextras,
                const Arrays<T>& dcarry, const Arrays<T>& dorigin) {
  const Layer<T>& layer = rows.layer;
  bool flags = layer.valid || layer.restart;
  Placed<T> carries(at.carries, rows), pre(layer.pre, rows), noise(layer.noise, rows);
  Placed<T> given(cts, rows), dp(dpre, rows);
  Previous<T> previous(at.start, at.origin, carries);
  Local<T> ct(ct_final, rows.first, rows.last), dr(ct_final, rows.first, rows.last);
  Local<T> through(flags ? ct_final : Arrays<T>(), rows.first, rows.last);
  Local<T> restarted(dorigin, rows.first, rows.last);  // of the steps since it was last added
  const int together = root(layer.call.steps);
  Blocks<T> blocks(layer, &dextras);
  rows.copy(ct.arrays, 0, ct_final, 0);
  rows.each(dorigin, 0, dorigin, 0, [](T* a, T*, int64_t n, int) { std::fill_n(a, n, T(0)); });
  size_t place = blocks.add(at.start);
  blocks.add(pre.arrays), blocks.add(layer.extras), blocks.add(noise.arrays);
  size_t ct_place = blocks.add(flags ? through.arrays : ct.arrays);
  for (const Array<T>& leaf : given.arrays)
    if (!flags && leaf.data) blocks.add({leaf});
  size_t dr_place = blocks.add(dr.arrays);
  blocks.add(dp.arrays), blocks.add(dextras.arrays);
  for (int k = layer.call.steps - 1; k >= 0; k--) {
    int t = layer.time(k);
    const uint8_t *valid = layer.flags(layer.valid, t), *restart = layer.flags(layer.restart, t);
    for (const Arrays<T>* next : {&layer.pre, &cts, &at.carries}) rows.prefetch(*next, k - 1);
    if (k) carries.read(layer.time(k - 1));
    pre.read(t), noise.read(t), given.read(t);
    if (flags) part_ways(rows, ct.arrays, given.arrays, through.arrays, t, valid);
    blocks.set(place, previous.before(k));
    if (!flags) blocks.set(ct_place, ct.arrays);
    blocks.set(dr_place, dr.arrays);
    const Some& some = rows.valid_at(t);
    some.each(rows.first, rows.last, [&](int first, int last) { blocks.run(t, first, last); });
    if (!some.whole)
      rows.each(dp.arrays, t, dp.arrays, t, [=](T* a, T*, int64_t n, int b) {
        if (!valid[b]) std::fill_n(a, n, T(0));
      });
    dp.write(t);
    Array<T> to = dr.arrays[0];
    rows.multiply(dpre.back(), to, to, t, some);
    if (valid) rows.copy(dr.arrays, 0, ct.arrays, 0, valid, false);
    if (restart)
      rows.each(restarted.arrays, 0, dr.arrays, 0, [=](T* sum, T* a, int64_t n, int b) {
        if (restart[b]) add<T>(sum, a, n), std::fill_n(a, n, T(0));
      });
    if (restart && k % together == 0)
      rows.each(dorigin, 0, restarted.arrays, 0, [](T* sum, T* a, int64_t n, int) {
        add<T>(sum, a, n), std::fill_n(a, n, T(0));
      });
    std::swap(ct.arrays, dr.arrays);
  }
  rows.copy(dcarry, 0, ct.arrays, 0);
}
