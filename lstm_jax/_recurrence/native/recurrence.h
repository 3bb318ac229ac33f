// The three functions of base.py for a slice of the batch.
//
// Included once for each instruction set, after program.h.

template <class T>
using Arrays = std::vector<Array<T>>;

// What the three have in common.
template <class T>
struct Layer {
  Call call;
  const Instruction* code;
  int instructions;
  const T* constants;
  const Weights<T>* W;  // null: u has no elements
  const Weights<T>* W_x;  // of the projection; null: pre has wx itself
  const T* b;  // null: zero
  Arrays<T> pre, extras, noise;
  const uint8_t *valid, *restart;  // [T, B], null where there is none

  int time(int k) const { return call.reverse ? call.steps - 1 - k : k; }
  const uint8_t* flags(const uint8_t* all, int t) const {
    return all ? all + int64_t(t) * call.batch : nullptr;
  }
};

// The carries that a derivative is taken at: s_0, the carry after a restart, and all s_t.
template <class T>
struct Primal {
  Arrays<T> start, origin, carries;
};

// The arrays of a step, in the program's order, and the program over blocks of their rows.
template <class T>
struct Blocks {
  const Layer<T>& layer;
  std::vector<T> scratch;
  std::vector<T*> bases;
  Arrays<T> arrays;

  explicit Blocks(const Layer<T>& layer) : layer(layer), scratch(layer.call.scratch) {}

  // The place of the first of them.
  size_t add(const Arrays<T>& more) {
    arrays.insert(arrays.end(), more.begin(), more.end());
    return arrays.size() - more.size();
  }
  void set(size_t place, const Arrays<T>& other) {
    std::copy(other.begin(), other.end(), arrays.begin() + place);
  }
  void run(int t, int first, int last) {
    bases.resize(arrays.size() + 2);
    bases[0] = scratch.data();
    bases[1] = const_cast<T*>(layer.constants);
    Machine<T> machine{layer.code, layer.instructions, bases.data()};
    for (int b = first; b < last; b += layer.call.block) {
      for (size_t k = 0; k < arrays.size(); k++) bases[k + 2] = arrays[k].at(t, b);
      machine.run(std::min(layer.call.block, last - b));
    }
  }
};

// Arrays [rows, n] of one thread, at the rows that it has of the batch; of two steps, or of one.
template <class T>
struct Local {
  std::vector<std::vector<T>> data;
  Arrays<T> arrays;

  Local(const Arrays<T>& like, int first, int last, int steps = 1) {
    for (const Array<T>& leaf : like) {
      int64_t step = int64_t(last - first) * leaf.row;
      data.emplace_back(steps * step);
      arrays.push_back({data.back().data() - int64_t(first) * leaf.row, step, leaf.row, steps - 1});
    }
  }
  // `given`, with these where it has none.
  Arrays<T> instead(Arrays<T> given) const {
    for (size_t c = 0; c < given.size(); c++)
      if (!given[c].data) given[c] = arrays[c];
    return given;
  }
};

// Rows [first, last) of a batch on one thread, or on a team.
template <class T>
struct Rows {
  const Layer<T>& layer;
  int first, last;
  Team& team;

  // f(row of to, row of from, elements) for each leaf and row.
  template <class F>
  void each(const Arrays<T>& to, int t, const Arrays<T>& from, int s, F f) const {
    for (size_t c = 0; c < to.size(); c++)
      for (int b = first; b < last; b++) f(to[c].at(t, b), from[c].at(s, b), from[c].row, b);
  }
  void copy(const Arrays<T>& to, int t, const Arrays<T>& from, int s,
            const uint8_t* where = nullptr, bool on = true) const {
    each(to, t, from, s, [=](T* a, const T* b, int64_t n, int row) {
      if (!where || bool(where[row]) == on) std::memcpy(a, b, n * sizeof(T));
    });
  }
  // Towards the second cache, while the step before is computed: no other prefetcher sees that the
  // next step's rows are next.
  void prefetch(const Arrays<T>& arrays, int k) const {
    if (k < 0 || k >= layer.call.steps) return;
    for (const Array<T>& a : arrays) {
      if (!a.data || !a.step) continue;
      const char* from = reinterpret_cast<const char*>(a.at(layer.time(k), first));
      const char* end = reinterpret_cast<const char*>(a.at(layer.time(k), last));
      for (; from < end; from += 64) __builtin_prefetch(from, 0, 2);
    }
  }
  template <class E>
  static Matrix<E> at(const Array<T>& a, int t, int b) {
    return {a.at(t, b), a.row, 1};
  }

  // y_t = start_t + x W, where start may be y itself.
  void multiply(const Array<T>& x, const Array<T>& start, const Array<T>& y, int t) const {
    if (!layer.W) return;
    const Weights<T>& W = *layer.W;
    Matrix<const T> x_t = at<const T>(x, t, first), from = {nullptr, 0, 1};
    if (start.data) from = at<const T>(start, t, first);
    Matrix<T> y_t = at<T>(y, t, first);
    team.run([&](int part) {
      times<T>(W, last - first, x_t, from, y_t, W.panels * part / team.parts,
               W.panels * (part + 1) / team.parts);
    });
  }

  // wx_t = x_t W_x + b for t in [t0, t1), by tiles of a step's rows or, where they are few, of a
  // row's steps. A panel of W_x stays in the first cache meanwhile.
  void project(int t0, int t1, const Array<T>& wx) const {
    const Weights<T>& W = *layer.W_x;
    const Array<T>& x = layer.pre[0];
    team.run([&](int part) {
      for (int p = W.panels * part / team.parts; p < W.panels * (part + 1) / team.parts; p++) {
        int m = p * COLUMNS<T>;
        auto times_panel = [&](int t, int b, int n, int64_t x_row, int64_t wx_row) {
          multiply_rows<T>(n, {x.at(t, b), x_row, 1}, {W.panel(p), COLUMNS<T>}, W.K,
                           {layer.b ? layer.b + m : nullptr, 0, 1}, {wx.at(t, b) + m, wx_row, 1},
                           W.width(p));
        };
        if (last - first < 2 * ROWS)
          for (int b = first; b < last; b++) times_panel(t0, b, t1 - t0, x.step, wx.step);
        else
          for (int t = t0; t < t1; t++) times_panel(t, first, last - first, x.row, wx.row);
      }
    });
  }
};

// How many steps are projected at a time, a power of two: few enough for the second cache to keep
// them, and enough rows for W_x to be read once.
template <class T>
int projected_steps(const Layer<T>& layer, int rows) {
  constexpr int most = (512 << 10) / sizeof(T), least = 64;
  if (!layer.W_x) return 1;
  int steps = 1, wanted = std::max(most / (rows * layer.W_x->M), (least + rows - 1) / rows);
  while (steps * 2 <= std::min(wanted, layer.call.steps)) steps *= 2;
  return steps;
}

// The arrays as they stand at one step.
template <class T>
Arrays<T> frozen(Arrays<T> arrays, int t) {
  for (Array<T>& leaf : arrays) leaf.data = leaf.at(t, 0), leaf.step = 0;
  return arrays;
}

// r_t: what stands before step k, with the restarted rows from `origin` in `held`.
template <class T>
Arrays<T> before(const Rows<T>& rows, int k, const Arrays<T>& start, const Arrays<T>& origin,
                 const Arrays<T>& carries, const Arrays<T>& held) {
  const Layer<T>& layer = rows.layer;
  Arrays<T> r = k ? frozen(carries, layer.time(k - 1)) : start;
  const uint8_t* restart = layer.flags(layer.restart, layer.time(k));
  if (!restart) return r;
  rows.copy(held, 0, r, 0, restart, false);
  rows.copy(held, 0, origin, 0, restart, true);
  return held;
}

// r_t = restart_t ? origin : s_{t-1};  u_t = r_t W;  s_t = valid_t ? update(r_t, ...) : r_t
// What nobody asked for of all steps has no data in `kept` (the carries) and `sums` (u).
template <class T>
void run(const Rows<T>& rows, const Arrays<T>& start, const Arrays<T>& origin,
         const Arrays<T>& kept, const Arrays<T>& final, const Array<T>& sums) {
  const Layer<T>& layer = rows.layer;
  const Call& call = layer.call;
  int block = projected_steps(layer, rows.last - rows.first);
  Local<T> turns(start, rows.first, rows.last, 2), sum({sums}, rows.first, rows.last, block);
  Arrays<T> carries = turns.instead(kept), pre = layer.pre;
  Array<T> u = sum.instead({sums})[0];
  bool apart = layer.W_x && !call.additive;  // wx is not in u's place
  Local<T> wx(apart ? Arrays<T>{{nullptr, 0, layer.W_x->M}} : Arrays<T>(), rows.first, rows.last, block);
  if (layer.W_x) pre[0] = apart ? wx.arrays[0] : u;
  Blocks<T> blocks(layer);
  Local<T> held(layer.restart ? start : Arrays<T>(), rows.first, rows.last);
  size_t place = blocks.add(start);
  if (!call.additive) blocks.add(pre);
  for (const Arrays<T>& more : {Arrays<T>{u}, layer.extras, layer.noise, carries}) blocks.add(more);
  for (int k = 0; k < call.steps; k++) {
    int t = layer.time(k);
    int in_block = t % block;
    if (layer.W_x && (k == 0 || in_block == (call.reverse ? block - 1 : 0)))
      rows.project(t - in_block, std::min(t - in_block + block, call.steps), pre[0]);
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

// ---- calls ---------------------------------------------------------------------------------------
template <class T>
Layer<T> prepared(const Arguments<T>& in) {
  Layer<T> layer{};
  std::memcpy(&layer.call, in.call.begin(), sizeof(Call));
  layer.code = reinterpret_cast<const Instruction*>(in.code.begin());
  layer.instructions = int(in.code.size() * sizeof(int32_t) / sizeof(Instruction));
  layer.constants = in.constants.begin();
  return layer;
}

// The recurrent weights, the next buffer, as they are or transposed.
template <class T>
Weights<T> weights(Arguments<T>& in, const Call& call, bool transposed) {
  const T* w = in.next(false).data;
  int K = call.weights, M = call.width, n = threads(in.pool), rows = (call.batch + n - 1) / n;
  if (transposed) return Weights<T>(in.pool, {w, 1, M}, M, K, rows);
  return Weights<T>(in.pool, {w, M, 1}, K, M, rows);
}

// w [D, M] of the projection, the next buffer.
template <class T>
Weights<T> projection(Arguments<T>& in) {
  ffi::AnyBuffer w = in.args.template get<ffi::AnyBuffer>(in.arg++).value();
  int K = int(w.dimensions()[0]), M = int(w.dimensions()[1]);
  return Weights<T>(in.pool, {static_cast<const T*>(w.untyped_data()), M, 1}, K, M, FEW + 1);
}

// f(rows, thread) for slices of the batch, or for all of it on a team where there are fewer rows
// than threads and a step's product is worth the waiting.
template <class T, class F>
void over_rows(Arguments<T>& in, const Layer<T>& layer, const F& f) {
  constexpr int64_t least = 32768;  // multiplications a part; a guess, not measured
  int batch = layer.call.batch, n = threads(in.pool);
  int64_t work = layer.W ? int64_t(layer.W->K) * layer.W->M * batch : 0;
  if (batch < n && work >= 2 * least) {
    Team team(in.pool, int(std::min<int64_t>({n, layer.W->panels, work / least})));
    return f(Rows<T>{layer, 0, batch, team}, 0);
  }
  split(in.pool, batch, [&](int thread, int first, int last) {
    Team alone(in.pool, 1);
    f(Rows<T>{layer, first, last, alone}, thread);
  });
}

template <class T>
void run_call(Arguments<T>& in) {
  Layer<T> layer = prepared<T>(in);
  const Call& call = layer.call;
  std::optional<Weights<T>> W, W_x;
  if (call.weights) layer.W = &W.emplace(weights<T>(in, call, false));
  if (call.projection) layer.W_x = &W_x.emplace(projection<T>(in));
  if (call.projection == 2) layer.b = in.next(false).data;
  Arrays<T> start = in.take(call.carries, false);
  Arrays<T> origin = in.take(call.restart ? call.carries : 0, false);
  layer.pre = in.take(call.pre, true);
  layer.extras = in.take(call.extras, false, true);
  layer.noise = in.take(call.noise, true);
  layer.valid = in.flags(call.valid), layer.restart = in.flags(call.restart);
  Arrays<T> final = in.take_out(call.carries, false), carries(call.carries);
  for (int c = 0; c < call.carries; c++)
    if (call.stacked >> c & 1) carries[c] = in.next_out(true);
  Array<T> u{nullptr, 0, call.width};
  if (call.stacked >> call.carries & 1) u = in.next_out(true);
  over_rows(in, layer, [&](const Rows<T>& rows, int) {
    run<T>(rows, start, origin, carries, final, u);
  });
}

// Where the derivative is taken.
template <class T>
Primal<T> primal(Arguments<T>& in, Layer<T>& layer) {
  const Call& call = layer.call;
  Primal<T> at;
  at.start = in.take(call.carries, false);
  at.origin = in.take(call.restart ? call.carries : 0, false);
  at.carries = in.take(call.carries, true);
  layer.pre = in.take(call.pre, true);
  layer.extras = in.take(call.extras, false, true);
  layer.noise = in.take(call.noise, true);
  return at;
}

template <class T>
void linearized_call(Arguments<T>& in) {
  Layer<T> layer = prepared<T>(in);
  const Call& call = layer.call;
  std::optional<Weights<T>> W;
  if (call.weights) layer.W = &W.emplace(weights<T>(in, call, false));
  Primal<T> at = primal(in, layer);
  Arrays<T> dextras = in.take(call.extras, false, true);
  Arrays<T> start = in.take(call.carries, false);
  Arrays<T> origin = in.take(call.restart ? call.carries : 0, false);
  Arrays<T> dpre = in.take(call.pre, true);
  layer.valid = in.flags(call.valid), layer.restart = in.flags(call.restart);
  Arrays<T> final = in.take_out(call.carries, false), carries = in.take_out(call.carries, true);
  over_rows(in, layer, [&](const Rows<T>& rows, int) {
    linearized<T>(rows, at, start, origin, dpre, dextras, carries, final);
  });
}

template <class T>
void transposed_call(Arguments<T>& in) {
  Layer<T> layer = prepared<T>(in);
  const Call& call = layer.call;
  std::optional<Weights<T>> W;
  if (call.weights) layer.W = &W.emplace(weights<T>(in, call, true));
  Primal<T> at = primal(in, layer);
  Arrays<T> ct_final = in.take(call.carries, false), cts(call.carries);
  for (int c = 0; c < call.carries; c++)
    if (call.stacked >> c & 1) cts[c] = in.next(true);
  layer.valid = in.flags(call.valid), layer.restart = in.flags(call.restart);
  size_t first_ret = in.ret;
  Arrays<T> dextras = in.take_out(call.extras, false, true);
  Arrays<T> dcarry = in.take_out(call.carries, false);
  Arrays<T> dorigin = in.take_out(call.restart ? call.carries : 0, false);
  Arrays<T> dpre = in.take_out(call.pre, true);
  std::vector<std::vector<std::vector<T>>> sums(threads(in.pool));
  over_rows(in, layer, [&](const Rows<T>& rows, int thread) {
    Arrays<T> own;
    for (int e = 0; e < call.extras; e++) sums[thread].emplace_back(in.elements_out(first_ret + e));
    for (std::vector<T>& sum : sums[thread]) own.push_back({sum.data(), 0, 0});
    transposed<T>(rows, at, ct_final, cts, dpre, own, dcarry, dorigin);
  });
  for (int e = 0; e < call.extras; e++) {
    std::fill_n(dextras[e].data, in.elements_out(first_ret + e), T(0));
    for (auto& of_thread : sums)
      if (!of_thread.empty()) add<T>(dextras[e].data, of_thread[e].data(), of_thread[e].size());
  }
}
