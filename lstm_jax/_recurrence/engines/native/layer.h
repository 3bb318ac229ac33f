// What a layer's recurrence works on: its arrays, and the rows of the batch that a thread has.
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
  std::optional<Weights<T>> W;  // none: u has no elements
  std::optional<Weights<T>> W_x;  // of the projection; none: pre has wx itself
  const T* b;  // null: zero
  int team;  // threads that share a step's product
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

// The least number whose square is n or more.
inline int root(int64_t n) { return int(std::ceil(std::sqrt(double(n)))); }

// Sums over many rows, in parts of about the square root of their number that begin from zero: a sum
// that stands at a large number loses digits at every term.
template <class T>
struct Sums {
  std::vector<std::vector<T>> parts, totals;
  Arrays<T> arrays;  // where a part is added to
  int64_t together, rows = 0;

  Sums(const std::vector<size_t>& sizes, int64_t count) : together(std::max(64, root(count))) {
    for (size_t n : sizes) parts.emplace_back(n), totals.emplace_back(n);
    for (std::vector<T>& part : parts) arrays.push_back({part.data(), 0, 0});
  }
  // After `n` more rows.
  void count(int n) {
    if ((rows += n) >= together) settle();
  }
  void settle() {
    for (size_t k = 0; k < parts.size(); k++) {
      add<T>(totals[k].data(), parts[k].data(), parts[k].size());
      std::fill(parts[k].begin(), parts[k].end(), T(0));
    }
    rows = 0;
  }
};

// The arrays of a step, in the program's order, and the program over blocks of their rows.
template <class T>
struct Blocks {
  const Layer<T>& layer;
  Sums<T>* sums;  // of what the program accumulates, or null
  std::vector<T> scratch;
  std::vector<T*> bases;
  Arrays<T> arrays;

  explicit Blocks(const Layer<T>& layer, Sums<T>* sums = nullptr)
      : layer(layer), sums(sums), scratch(layer.call.scratch) {}

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
      const int rows = std::min(layer.call.block, last - b);
      machine.run(rows);
      if (sums) sums->count(rows);
    }
  }
};

// Arrays [rows, n] of one thread, at the rows that it has of the batch; of one step, or of some, a
// power of two, that take turns.
template <class T>
struct Local {
  std::vector<std::vector<T>> data;
  Arrays<T> arrays;

  Local(const Arrays<T>& like, int first, int last, int steps = 1) {
    data.reserve(like.size()), arrays.reserve(like.size());
    for (const Array<T>& leaf : like) {
      int64_t step = int64_t(last - first) * leaf.row;
      data.emplace_back(steps * step);
      arrays.push_back({data.back().data() - int64_t(first) * leaf.row, step, leaf.row, steps - 1});
    }
  }
};

// Some rows of a slice, in order: those that a step needs.
struct Some {
  std::vector<int> rows;
  bool whole = true;  // they are all rows of the slice
  bool most = true;   // so many that a product of all costs less than gathering them

  // Gathering an eighth of the rows less costs as much as it saves.
  static bool are_most(int64_t count, int64_t all) { return 8 * count > 7 * all; }
  // Of the flags of `steps` steps that follow each other, `apart`.
  static bool are_most(const uint8_t* flags, int64_t apart, int first, int last, int steps) {
    int64_t count = 0;
    for (int k = 0; k < steps; k++)
      for (int b = first; b < last; b++) count += flags[k * apart + b] != 0;
    return are_most(count, int64_t(last - first) * steps);
  }
  // Those of which needs(b) is true.
  template <class F>
  void set(int first, int last, F needs) {
    rows.clear();
    for (int b = first; b < last; b++)
      if (needs(b)) rows.push_back(b);
    whole = int(rows.size()) == last - first;
    most = are_most(rows.size(), last - first);
  }
  // f(first, last) for rows that follow each other.
  template <class F>
  void each(int first, int last, F f) const {
    if (whole) return f(first, last);
    for (size_t k = 0, next; k < rows.size(); k = next) {
      for (next = k + 1; next < rows.size() && rows[next] == rows[next - 1] + 1;) next++;
      f(rows[k], rows[next - 1] + 1);
    }
  }
};

// Rows [first, last) of a batch on one thread, or on a team.
template <class T>
struct Rows {
  const Layer<T>& layer;
  int first, last;
  Team& team;
  mutable std::vector<T> place, sums;  // room for x as lanes, and for products of rows gathered
  mutable Some some;

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
      if (!a.data || !a.step || a.narrow.data) continue;
      const char* from = reinterpret_cast<const char*>(a.at(layer.time(k), first));
      const char* end = reinterpret_cast<const char*>(a.at(layer.time(k), last));
      for (; from < end; from += 64) __builtin_prefetch(from, 0, 2);
    }
  }
  template <class E>
  static Matrix<E> at(const Array<T>& a, int t, int b) {
    return {a.at(t, b), a.row, 1};
  }

  // Those that are valid at a step.
  const Some& valid_at(int t) const {
    if (const uint8_t* valid = layer.flags(layer.valid, t))
      some.set(first, last, [=](int b) { return valid[b]; });
    return some;
  }
  // y_t = start_t + x W for some rows, or for all where they are most; start may be y itself.
  void multiply(const Array<T>& x, const Array<T>& start, const Array<T>& y, int t,
                const Some& which) const {
    if (!layer.W) return;
    if (!which.most) return multiply_some(x, start, y, t, which.rows);
    const Weights<T>& W = *layer.W;
    if (W.form != Form::numbers) place.resize(size_t(last - first) * W.lanes());
    Matrix<const T> x_t = lanes<T>(W.form, at<const T>(x, t, first), last - first, W.K,
                                   place.data()),
                    from = {nullptr, 0, 1};
    if (start.data) from = at<const T>(start, t, first);
    multiply_by_team(last - first, x_t, from, at<T>(y, t, first), t);
  }
  void multiply_some(const Array<T>& x, const Array<T>& start, const Array<T>& y, int t,
                     const std::vector<int>& which) const {
    gather_products(x, t, which);
    const int M = layer.W->M;
    for (size_t k = 0; k < which.size(); k++) {
      const int b = which[k];
      add_sums<T>(start.data ? start.at(t, b) : nullptr, sums.data() + k * M, M, y.at(t, b));
    }
  }
  // `sums` = x W for some rows, one after another.
  void gather_products(const Array<T>& x, int t, const std::vector<int>& which) const {
    const Weights<T>& W = *layer.W;
    const int n = int(which.size());
    place.resize(size_t(n) * W.lanes()), sums.resize(size_t(n) * W.M);
    for (int k = 0; k < n; k++)
      gather<T>(W.form, at<const T>(x, t, which[k]), W.K, place.data() + size_t(k) * W.lanes());
    const Matrix<const T> x_t = {place.data(), W.lanes(), 1}, zero = {nullptr, 0, 1};
    if (n) multiply_by_team(n, x_t, zero, {sums.data(), W.M, 1}, t);
  }
  void multiply_by_team(int n, const Matrix<const T>& x, const Matrix<const T>& start,
                        const Matrix<T>& y, int t) const {
    const Weights<T>& W = *layer.W;
    team.run([&](int part) {
      times<T>(W, n, x, start, y, W.panels * part / team.parts,
               W.panels * (part + 1) / team.parts, team.parts > 1 && t % 2, layer.call.batch == 1);
    });
  }

  // x of the steps [t0, t1) as lanes of a form: as it lies, or in `place`.
  Array<T> as_lanes(Form form, int t0, int t1, const Array<T>& x) const {
    if (form == Form::numbers) return x;
    const int n = last - first, K = int(x.row);
    auto of = [&](int t) {
      return Matrix<const uint16_t>{x.narrow.at(t, first, x.row), x.row, 1};
    };
    if (are_lanes<T>(form, of(t0), K))
      return {reinterpret_cast<T*>(x.narrow.data), x.narrow.step / 2, x.row / 2};
    const int64_t row = lanes_of(form, K), step = n * row;
    place.resize((t1 - t0) * step);
    for (int t = t0; t < t1; t++) paired<T>(form, of(t), n, K, place.data() + (t - t0) * step);
    return {place.data() - t0 * step - first * row, step, row};
  }

  // f(multiply, p) for the panels p of W, which the team shares.
  template <class F>
  void each_panel(const Weights<T>& W, F f) const {
    team.run([&](int part) {
      Multiplier<T> multiply(W.form);
      for (int p = W.panels * part / team.parts; p < W.panels * (part + 1) / team.parts; p++)
        f(multiply, p);
    });
  }
  // The part of b that belongs to a panel, for any number of rows.
  Matrix<const T> bias(int p) const {
    return {layer.b ? layer.b + p * COLUMNS<T> : nullptr, 0, 1};
  }

  // The same of the rows that are valid, gathered; wx of the others is b.
  void project_valid(int t0, int t1, const Array<T>& x, const Array<T>& wx) const {
    const Weights<T>& W = *layer.W_x;
    std::vector<std::pair<int, int>> pairs;
    for (int t = t0; t < t1; t++)
      for (int b = first; b < last; b++)
        if (layer.flags(layer.valid, t)[b]) pairs.push_back({t, b});
        else if (layer.b) std::copy_n(layer.b, W.M, wx.at(t, b));
        else std::fill_n(wx.at(t, b), W.M, T(0));
    const int n = int(pairs.size()), K = int(x.row);
    const int64_t row = W.lanes();
    if (!n) return;
    place.resize(n * row), sums.resize(size_t(n) * W.M);
    for (int k = 0; k < n; k++) {
      auto [t, b] = pairs[k];
      T* to = place.data() + k * row;
      if (W.form == Form::numbers) gather<T>(W.form, at<const T>(x, t, b), K, to);
      else gather<T>(W.form, Matrix<const uint16_t>{x.narrow.at(t, b, K), K, 1}, K, to);
    }
    Matrix<T> y = {sums.data(), W.M, 1};
    each_panel(W, [&](Multiplier<T>& multiply, int p) {
      multiply(n, {place.data(), row, 1}, {W.panel(p), COLUMNS<T>}, W.lanes(), bias(p),
               {y.at(0, p * COLUMNS<T>), W.M, 1}, W.width(p));
    });
    for (int k = 0; k < n; k++)
      std::copy_n(y.at(k, 0), W.M, wx.at(pairs[k].first, pairs[k].second));
  }

  // wx_t = x_t W_x + b for t in [t0, t1), by tiles of a step's rows or, where they are few, of a
  // row's steps. A panel of W_x stays in the first cache meanwhile. x in bfloat16 is not widened.
  // some: that of steps which are not valid may be left out.
  void project(int t0, int t1, const Array<T>& given, const Array<T>& wx, bool some) const {
    const uint8_t* valid = layer.flags(layer.valid, t0);
    if (some && valid && !Some::are_most(valid, layer.call.batch, first, last, t1 - t0))
      return project_valid(t0, t1, given, wx);
    const Weights<T>& W = *layer.W_x;
    const Array<T> x = as_lanes(W.form, t0, t1, given);
    each_panel(W, [&](Multiplier<T>& multiply, int p) {
      auto times_panel = [&](int t, int b, int n, int64_t x_row, int64_t wx_row) {
        multiply(n, {x.at(t, b), x_row, 1}, {W.panel(p), COLUMNS<T>}, W.lanes(), bias(p),
                 {wx.at(t, b) + p * COLUMNS<T>, wx_row, 1}, W.width(p));
      };
      if (last - first < 2 * ROWS)
        for (int b = first; b < last; b++) times_panel(t0, b, t1 - t0, x.step, wx.step);
      else
        for (int t = t0; t < t1; t++) times_panel(t, first, last - first, x.row, wx.row);
    });
  }
};

// Arrays of all steps as a thread works on them. Those that have no data in T, as nobody keeps them
// or as they lie in bfloat16, get places for some steps, shaped as `like`.
template <class T>
struct Placed {
  const Rows<T>& rows;
  std::optional<Local<T>> places;
  Arrays<T> arrays;

  Placed(const Arrays<T>& given, const Rows<T>& rows, int steps = 1)
      : Placed(given, given, rows, steps) {}
  Placed(const Arrays<T>& given, Arrays<T> like, const Rows<T>& rows, int steps)
      : rows(rows), arrays(given) {
    bool any = false;
    for (size_t c = 0; c < given.size(); c++) {
      if (given[c].data) like[c].row = 0;
      any = any || like[c].row;
    }
    if (!any) return;
    places.emplace(like, rows.first, rows.last, steps);
    for (size_t c = 0; c < given.size(); c++)
      if (like[c].row) arrays[c] = places->arrays[c], arrays[c].narrow = given[c].narrow;
  }
  // Step t from where it lies in bfloat16, and to there.
  void read(int t) const {
    each(t, [](uint16_t* bits, int64_t n, T* numbers) { from_bfloat16<T>(bits, n, numbers); });
  }
  void write(int t) const {
    each(t, [](uint16_t* bits, int64_t n, T* numbers) { to_bfloat16<T>(numbers, n, bits); });
  }

 private:
  template <class F>
  void each(int t, F f) const {
    if (!places) return;
    for (const Array<T>& a : arrays)
      if (a.narrow.data)
        f(a.narrow.at(t, rows.first, a.row), (rows.last - rows.first) * a.row, a.at(t, rows.first));
  }
};

// At the first step k of a block, wx of all its steps; those are one block whose t / block agree.
template <class T>
void project_block(const Placed<T>& x, int k, int block, const Array<T>& wx, bool some) {
  const Layer<T>& layer = x.rows.layer;
  int begins = layer.time(k) / block * block;
  if (!layer.W_x || (k && layer.time(k - 1) / block * block == begins)) return;
  int ends = std::min(begins + block, layer.call.steps);
  for (int t = begins; t < ends; t++) x.read(t);
  x.rows.project(begins, ends, x.arrays[0], wx, some);
}

// How many steps are projected at a time, a power of two: few enough for the second cache to keep
// them, and enough rows for W_x to be read once.
template <class T>
int projected_steps(const Layer<T>& layer, int rows) {
  constexpr int64_t most = (512 << 10) / sizeof(T), least = 64;
  if (!layer.W_x) return 1;
  int64_t wanted = std::max(most / (int64_t(rows) * layer.W_x->M), (least + rows - 1) / rows);
  int steps = 1;
  while (steps * 2 <= std::min<int64_t>(wanted, layer.call.steps)) steps *= 2;
  return steps;
}

// The carries of all steps, and those before and at a restart.
template <class T>
class Previous {
  const Placed<T>& carries;
  const Arrays<T>&start, &origin;
  Local<T> held;
  Arrays<T> now;

 public:
  Previous(const Arrays<T>& start, const Arrays<T>& origin, const Placed<T>& carries)
      : carries(carries), start(start), origin(origin),
        held(carries.rows.layer.restart ? start : Arrays<T>(), carries.rows.first,
             carries.rows.last),
        now(start) {}

  // What stands after `k` steps.
  const Arrays<T>& after(int k) {
    for (size_t c = 0; c < now.size(); c++) {
      const Array<T>& leaf = carries.arrays[c];
      now[c] = start[c];
      if (k) now[c] = {leaf.at(carries.rows.layer.time(k - 1), 0), 0, leaf.row};
    }
    return now;
  }
  // r_t: what stands before step k, with the restarted rows from `origin`.
  const Arrays<T>& before(int k) {
    const Rows<T>& rows = carries.rows;
    const uint8_t* restart = rows.layer.flags(rows.layer.restart, rows.layer.time(k));
    after(k);
    if (!restart) return now;
    rows.copy(held.arrays, 0, now, 0, restart, false);
    rows.copy(held.arrays, 0, origin, 0, restart, true);
    return held.arrays;
  }
};
