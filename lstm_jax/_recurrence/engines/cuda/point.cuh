// The point at which a derivative is taken: of a step of the forward run what a unit had.

constexpr int POINT = CARRY + PRE + EXTRAS + NOISE;  // the program's arguments before the others

struct Point : Flagged {
  float at[SIZE(CARRY)], pre[SIZE(PRE)], noise[SIZE(NOISE)];

  INLINE bool read(const Arguments& in, const Item& item, int k, int64_t& row) {
    if (!begin(in, item, k, row)) return false;
    if (restart) load_carry(in.given + GIVEN_ORIGIN, item.b, item.unit, at);
    else if (!k) load_carry(in.given + GIVEN_CARRY, item.b, item.unit, at);
    else load_carries(in.given + GIVEN_CARRIES, before(in, item, k), item.unit, at);
    load_pre(in.given + GIVEN_PRE, row, item.unit, pre);
    load_noise(in.given + GIVEN_NOISE, row, item.unit, noise);
    return true;
  }
  static INLINE int64_t before(const Arguments& in, const Item& item, int k) {
    return int64_t(time(in, k - 1)) * in.batch + item.first;
  }
  // The extras stay where they are.
  INLINE void put(float* a) const {
    copy<CARRY>(at, a), copy<PRE>(pre, a + CARRY), copy<NOISE>(noise, a + CARRY + PRE + EXTRAS);
  }
};
