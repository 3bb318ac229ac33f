"""Equality of static jit arguments: equal only if they compute the same, and compiled once."""

import copy
import dataclasses
import functools
import itertools
import operator
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
from jax.sharding import PartitionSpec as P

import lstm_jax as lj
from lstm_jax import data, initializers
from lstm_jax._static import compiled_for

pytestmark = pytest.mark.sampled

T, B, D, H = 3, 2, 2, 4


def outputs(cell, seed=0):
    """ys of a small problem, eagerly, so that `unroll`'s own cache of programs decides."""
    rng = np.random.default_rng(seed)
    params = registry.cast(registry.random_params(cell, D, rng), jnp.float32)
    xs = jnp.asarray(rng.standard_normal((T, B, D)), jnp.float32)
    return np.asarray(lj.unroll(cell, params, xs)[1])


class compilations:
    """Count the programs that `jax.jit` compiles inside the context."""

    def __enter__(self):
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._seen)
        return self

    def _seen(self, event, duration, **rest):
        self.count += event == "/jax/core/compile/backend_compile_duration"

    def __exit__(self, *error):
        jax.monitoring.unregister_event_duration_listener(self._seen)


# ---- 6a: equal only if it computes the same ------------------------------------------------------
class Scaling(lj.Cell):
    """A cell h_t = tanh(gain * (wx_t + u_t)), whose subclasses set `gain` in different ways."""

    gain: float = 0.0

    def update(self, carry, wx, u):
        return lj.State(jnp.tanh(self.gain * (wx + u)))


def test_fault_6a_an_attribute_of_an_undecorated_cell_is_refused_by_name():
    class Scaled(lj.Cell):
        def __init__(self, hidden_size, gain):
            super().__init__(hidden_size)
            self.gain = gain

    with pytest.raises(AttributeError, match=r"Scaled.gain: got .*dataclass\(frozen=True\)"):
        Scaled(5, 1.0)


def by_field():
    @dataclasses.dataclass(frozen=True)
    class Scaled(Scaling):
        gain: float = 0.0

    return Scaled


def by_field_not_compared():
    @dataclasses.dataclass(frozen=True, eq=False)
    class Scaled(Scaling):
        gain: float = dataclasses.field(default=0.0, compare=False)

    return Scaled


def by_slot():
    @dataclasses.dataclass(frozen=True, slots=True)
    class Scaled(Scaling):
        gain: float = 0.0

    return Scaled


def by_force():
    class Scaled(Scaling):
        def __init__(self, hidden_size, gain):
            super().__init__(hidden_size)
            object.__setattr__(self, "gain", gain)

    return Scaled


def by_grandchild():
    class Scaled(by_field()):
        pass

    return Scaled


def by_wrapper():
    @dataclasses.dataclass(frozen=True)
    class Gained(lj._cells.wrappers.Wrapper):
        gain: float = 0.0

        def change(self, carry, new, noise):
            return jax.tree.map(lambda leaf: self.gain * leaf, new)

    return lambda size, gain: Gained(lj.RNN(size), gain)


def by_net():
    scaled = by_field()
    return lambda size, gain: lj.stack(lj.RNN(size), scaled(size, gain=gain))


def by_partial():
    return lambda size, gain: lj.RNN(size, functools.partial(jnp.multiply, gain))


WAYS = [
    by_field,
    by_field_not_compared,
    by_slot,
    by_force,
    by_grandchild,
    by_wrapper,
    by_net,
    by_partial,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_fault_6a_cells_that_differ_are_not_equal_and_do_not_share_a_program(way):
    make = way()
    one, half = make(H, gain=1.0), make(H, gain=0.5)
    assert one != half and hash(one) != hash(half)
    assert one == make(H, gain=1.0) and hash(one) == hash(make(H, gain=1.0))
    seen, wanted = outputs(one), [outputs(half), outputs(make(H, gain=0.0))]
    assert np.abs(seen - wanted[0]).max() > 0.01
    assert np.abs(wanted[1]).max() == 0 and np.abs(wanted[0]).max() > 0.01


@pytest.mark.parametrize(
    "values",
    [(0.0, -0.0), (1, True), (1, 1.0), (1.0, np.float32(1)), (np.float32(0), np.float32(-0.0))],
    ids=str,
)
def test_fault_6a_numbers_that_python_calls_equal_are_told_apart(values):
    @dataclasses.dataclass(frozen=True)
    class Held(lj.Cell):
        value: object = None

    one, other = (Held(H, value=value) for value in values)
    assert values[0] == values[1] and one != other
    assert Held(H, value=values) != Held(H, value=values[::-1])
    assert one == Held(H, value=values[0])
    assert Held(H, value=float("nan")) == Held(H, value=float("nan"))


def test_fault_6a_a_difference_inside_a_value_of_another_dataclass_counts():
    @dataclasses.dataclass(frozen=True)
    class Slope:
        by: float

        def __call__(self, x):
            return self.by * x

    assert lj.RNN(H, Slope(1.0)) != lj.RNN(H, Slope(1)) and Slope(1.0) == Slope(1)
    assert lj.RNN(H, Slope(1.0)) == lj.RNN(H, Slope(1.0))


def test_fault_6a_a_class_changed_at_run_time_runs_as_it_is_now():
    class Scaled(Scaling):
        gain = 1.0

    cell = Scaled(H)
    before = outputs(cell)
    Scaled.gain = 0.0
    assert np.abs(before).max() > 0 and np.abs(outputs(cell)).max() == 0
    Scaled.update = lambda self, carry, wx, u: lj.State(wx + u)
    np.testing.assert_allclose(outputs(cell), outputs(lj.RNN(H, "identity")), rtol=1e-5)
    params = cell.init(jax.random.key(0), D)
    step = functools.partial(cell.step, params, cell.initial_carry(params), jnp.ones(D))
    assert np.abs(step()[1]).max() > 0
    Scaled.update = lambda self, carry, wx, u: lj.State(0 * wx)
    assert np.abs(step()[1]).max() == 0


@pytest.mark.parametrize("value", [[1.0], np.ones(2), {"a": 1}], ids=["list", "array", "dict"])
def test_fault_6a_what_does_not_hash_is_refused_by_name(value):
    @dataclasses.dataclass(frozen=True)
    class Held(lj.RNN):
        table: object = None

    for net in (Held(H, table=value), lj.stack(lj.GRU(H), lj.zoneout(Held(H, table=value)))):
        with pytest.raises(ValueError, match=r"Held.table: got a \w+, wanted a value that hashes"):
            lj.unroll(net, {}, jnp.ones((T, B, D)))
        with pytest.raises(ValueError, match="Held.table"):
            hash(net)
        assert net == net and net != copy.copy(net)


def test_fault_6a_what_a_cell_has_computed_of_itself_does_not_count():
    class Counted(lj.RNN):
        @functools.cached_property
        def table(self):
            return [self.hidden_size]

    one, other = Counted(H), Counted(H)
    assert one.table == [H] and one == other and hash(one) == hash(other)


TASKS = [data.Adding, data.CopyMemory, data.GroupWords, data.Parity, data.TemporalOrder]
TASKS += [data.Reber, data.NoisePadded]


@pytest.mark.parametrize("kind", [*TASKS, initializers.uniform], ids=lambda kind: kind.__name__)
def test_fault_6a_tasks_and_initializers_are_told_apart_by_all_that_they_hold(kind):
    class Own(kind):
        pass

    given = () if kind is initializers.uniform else (60,)
    one, other = Own(*given), Own(*given)
    assert one == other and one != kind(*given)
    object.__setattr__(other, "extra", 1)
    assert one != other
    with pytest.raises(AttributeError):
        one.extra = 1


def test_fault_6a_every_cell_is_equal_to_its_twin_alone():
    made = {name: [case.make(H) for _ in range(2)] for name, case in registry.EVERY.items()}
    for one, twin in made.values():
        assert one == twin and hash(one) == hash(twin)
        assert compiled_for(one) is compiled_for(twin)
    for (a, _), (b, _) in itertools.combinations(made.values(), 2):
        assert a != b


# ---- 15b: compiled once for what computes the same ---------------------------------------------
def net_of(init, activation):
    inner = lj.zoneout(lj.RNN(H, activation, w_hh_init=init, b_init=init))
    return lj.readout(lj.stack(lj.learned_start(inner), lj.GRU(H, w_ih_init=init)), 2)


@pytest.mark.parametrize(
    "make", [lambda i, a: lj.RNN(H, a, w_hh_init=i), net_of], ids=["cell", "net"]
)
def test_fault_15b_initializers_and_partials_made_anew_do_not_compile_anew(make):
    def fresh():
        init, activation = (lambda *a: jnp.zeros(*a[1:])), functools.partial(jnp.multiply, 0.5)
        return make(init, activation)

    cell = fresh()
    params, xs = cell.init(jax.random.key(0), D), jnp.ones((T, B, D))
    carry = cell.initial_carry(params, (B,))

    def run(cell):
        return lj.unroll(cell, params, xs, carry), cell.step(params, carry, xs[0])

    wanted = run(cell)
    with compilations() as made:
        seen = run(fresh())
    assert made.count == 0
    registry.assert_close(seen, wanted, 0)


def test_fault_15b_cells_that_start_otherwise_are_not_equal_and_share_a_program():
    one, other = lj.LSTM(H), lj.LSTM(H, b_init=initializers.chrono(50))
    assert one != other and compiled_for(one) is compiled_for(other)
    assert compiled_for(one) != compiled_for(lj.LSTM(H, peepholes=True))
    assert repr(compiled_for(other)) == f"LSTM(hidden_size={H})"


@pytest.mark.parametrize("method", ["update", "recur", "initial_carry"])
def test_fault_15b_a_step_that_reads_an_initializer_is_told_so(method):
    def read(self, *args, **options):
        if isinstance(self.w_hh_init, initializers.orthogonal):
            return getattr(lj.RNN, method)(self, *args, **options)

    kind = type("Reading", (lj.RNN,), {method: read})
    cell, plain = kind(H), lj.RNN(H)
    params, xs = plain.init(jax.random.key(0), D), jnp.ones((T, B, D))
    with pytest.raises(ValueError, match="w_hh_init: got .*init_only"):
        lj.unroll(cell, params, xs)
    allowed = type("Allowed", (kind,), {"init_only": ()})(H)
    registry.assert_close(lj.unroll(allowed, params, xs), lj.unroll(plain, params, xs), 1e-6)


@pytest.mark.parametrize("case", registry.EVERY.values(), ids=registry.EVERY)
def test_fault_15b_every_cell_survives_pickle_and_copies(case):
    cell = case.make(H)
    copies = [copy.copy(cell)]
    if case.name not in ("rnn_callable", "leaky_dale"):  # JAX's own functions do not pickle.
        copies += [copy.deepcopy(cell), pickle.loads(pickle.dumps(cell))]
    for again in copies:
        assert again == cell and hash(again) == hash(cell)
        assert compiled_for(again) is compiled_for(cell)


@pytest.mark.parametrize("start", sorted(initializers.PRESETS["torch"]))
def test_fault_15b_presets_survive_pickle(start):
    cell = getattr(lj, start)(H, **initializers.preset("torch", start))
    assert pickle.loads(pickle.dumps(cell)) == cell


# ---- 15a: a step is compiled, and its arguments are checked once for their types ---------------
def test_fault_15a_step_is_one_compiled_call_and_inside_jit_no_call_of_its_own():
    for net in (lj.LSTM(H), lj.readout(lj.stack(lj.GRU(H, reset_after=False), lj.RNN(H)), 2)):
        params, x = net.init(jax.random.key(0), D), np.ones((B, D), np.float32)
        carry = net.initial_carry(params, (B,))
        wanted = net.step(params, carry, x)
        with compilations() as made:
            seen = net.step(params, carry, x)
        assert made.count == 0
        registry.assert_close(seen, wanted, 0)
        inside = jax.jit(net.step).lower(params, carry, x).as_text()
        assert "@_step" not in inside and "dot_general" in inside


def test_fault_15a_the_shapes_wanted_are_found_once(monkeypatch):
    cell = lj.LSTM(H + 1)
    params, xs = cell.init(jax.random.key(0), D), jnp.ones((1, B, D))
    carry = cell.initial_carry(params, (B,))

    def run():
        cell.step(params, carry, xs[0])
        return lj.unroll(cell, params, xs, carry)[0]

    run()
    seen = []
    monkeypatch.setattr(jax, "eval_shape", lambda *a, **k: seen.append(a))
    run()
    assert not seen
    monkeypatch.undo()
    for wrong in (carry._replace(h=carry.c[:1]), params | {"b": params["b"][1:]}, carry[:1]):
        given = (wrong, carry) if isinstance(wrong, dict) else (params, wrong)
        with pytest.raises(ValueError, match="got"):
            cell.step(*given, xs[0])
        with pytest.raises(ValueError, match="got"):
            lj.unroll(cell, given[0], xs, given[1])


# ---- 12a: whatever varies over devices -----------------------------------------------------------
VARYING = ("params", "xs", "carry", "seq_lengths", "mask", "resets", "key")
MEMBERS = 2


def members(cell):
    """Each argument of `unroll` for two members, stacked in front."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: cell.init(key, D), jax.random.key(0))
    carry = jax.eval_shape(lambda p: cell.initial_carry(p, (B,)), shapes)
    normal = lambda s: jnp.asarray(rng.standard_normal((MEMBERS, *s.shape)) / 2, jnp.float32)  # noqa: E731
    return {
        "params": jax.tree.map(normal, shapes),
        "xs": jnp.asarray(rng.standard_normal((MEMBERS, T, B, D)), jnp.float32),
        "carry": jax.tree.map(normal, carry),
        "seq_lengths": jnp.asarray([[T, 1], [2, 0]]),
        "mask": jnp.asarray(rng.random((MEMBERS, T, B)) < 0.7),
        "resets": jnp.asarray(rng.random((MEMBERS, T, B)) < 0.4),
        "key": jax.random.split(jax.random.key(1), MEMBERS),
    }


def check_varying(net, implementation, varies, **options):
    """Value and gradients of two members on two devices are those of one after another."""
    check_vma = options.pop("check_vma", True)
    every = members(net)
    given = {n: x if n == varies else jax.tree.map(lambda a: a[0], x) for n, x in every.items()}
    if varies != "key":
        del given["key"]
    moving = {n: given[n] for n in ("params", "xs", "carry")}
    fixed = {n: x for n, x in given.items() if n not in moving}

    def one(given):
        outs = lj.unroll(net, **given, implementation=implementation, **options)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(outs))

    def member(given):
        own = {n: jax.tree.map(lambda a: a[0], x) if n == varies else x for n, x in given.items()}
        return jnp.reshape(one(own), 1)

    mesh = jax.make_mesh((MEMBERS,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    specs = {n: P("d") if n == varies else P() for n in given}
    split = jax.shard_map(
        member, mesh=mesh, in_specs=(specs,), out_specs=P("d"), check_vma=check_vma
    )

    def alone(given):
        each = range(MEMBERS)
        own = [jax.tree.map(operator.itemgetter(n), given[varies]) for n in each]
        return jnp.stack([one({**given, varies: value}) for value in own])

    def gradient(run):
        total = lambda moving, fixed: jnp.sum(run({**moving, **fixed}))  # noqa: E731
        return jax.jit(jax.value_and_grad(total))(moving, fixed)

    registry.assert_close(gradient(split), gradient(alone), 1e-5)


SPLIT = {
    "lstm": lambda: lj.LSTM(H, peepholes=True),
    "user_update": lambda: registry.Memory(H),
    "min_gru": lambda: lj.MinGRU(H),
    "gru_before": lambda: lj.GRU(H, reset_after=False),
    "noisy": lambda: lj.zoneout(lj.recurrent_dropout(lj.GRU(H), 0.3), 0.2),
    "net": lambda: lj.readout(lj.stack(lj.LSTM(H), lj.bidirectional(lj.RNN(H)), dropout=0.2), 2),
}


@pytest.mark.parametrize(
    ("net", "implementation", "varies"),
    [
        ("lstm", "fused", "params"),
        ("lstm", "scan", "params"),
        ("net", None, "params"),
        ("user_update", "fused", "mask"),
        ("noisy", None, "key"),
    ],
)
def test_fault_12a_one_argument_alone_varies_over_the_devices(net, implementation, varies):
    check_varying(SPLIT[net](), implementation, varies)


@pytest.mark.slow
@pytest.mark.parametrize("check_vma", [True, False], ids=["checked", "unchecked"])
@pytest.mark.parametrize("varies", VARYING)
@pytest.mark.parametrize("net", SPLIT)
def test_fault_12a_every_argument_alone_varies_over_the_devices(net, varies, check_vma):
    for name in ("scan", "fused", "native", "associative"):
        if all(registry.runs(cell, name) for cell in lj._net.cells_of(SPLIT[net]())):
            # XLA is in its place where the kernel may not be: a mask on h for each sequence.
            check_varying(SPLIT[net](), registry.asked(name), varies, check_vma=check_vma)


def test_fault_12a_a_scan_over_steps_of_members():
    cell = lj.LSTM(H)
    draw = jax.jit(jax.vmap(lambda key: cell.init(key, D)))
    params = draw(jax.random.split(jax.random.key(0), MEMBERS))
    xs = jnp.ones((T, B, D))

    def member(params):
        own = jax.tree.map(lambda leaf: leaf[0], params)
        step = functools.partial(cell.step, own)
        return jax.lax.scan(step, cell.initial_carry(own, (B,)), xs)[1][None]

    mesh = jax.make_mesh((MEMBERS,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.shard_map(member, mesh=mesh, in_specs=P("d"), out_specs=P("d"))
    wanted = jax.jit(jax.vmap(lambda own: lj.unroll(cell, own, xs)[1]))(params)
    registry.assert_close(jax.jit(split)(params), wanted, 1e-5)


@pytest.mark.grid
@pytest.mark.parametrize("options", [{"remat": 2}, {"reverse": True}], ids=str)
@pytest.mark.parametrize("varies", ["params", "resets"])
def test_fault_12a_with_other_options(varies, options):
    check_varying(SPLIT["user_update"](), "fused", varies, **options)


# ---- 12b: a carry keeps its dtypes from step to step --------------------------------------------
WIDTHS = [("float32", "float64"), ("bfloat16", "float64"), ("float64", "float32")]
CHOICES = [{}, {"carry_dtype": "bfloat16"}, {"dtype": "float32"}, {"accumulation_dtype": "float64"}]


@pytest.mark.parametrize("given", WIDTHS, ids=str)
@pytest.mark.parametrize("name", ["user_update", "stack"])
def test_fault_12b_the_carry_keeps_its_dtypes(name, given, x64):
    check_types(registry.EVERY[name], {}, given)


def check_types(case, options, given):
    """By types alone, for a step and a piece: what a scan over them needs."""
    net = case.make(H, **options)
    space = getattr(net, "input_shape", ())
    params = jax.eval_shape(lambda key: net.init(key, D), jax.random.key(0))
    params = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, given[0]), params)
    xs = jax.ShapeDtypeStruct((T, B, *space, D), given[1])
    start = jax.eval_shape(lambda p: net.initial_carry(p, (B,)), params)
    for name in (*case.implementations, None):
        run = functools.partial(lj.unroll, net, implementation=name)
        for carry in (start, None):
            assert jax.eval_shape(run, params, xs, carry)[0] == start
        assert jax.eval_shape(run, params, xs, key=jax.random.key(0))[0] == start
    if "bidirectional" not in case.name and case.name != "deep":
        x = jax.ShapeDtypeStruct(xs.shape[1:], xs.dtype)
        assert jax.eval_shape(net.step, params, start, x)[0] == start


@pytest.mark.parametrize("options", CHOICES, ids=str)
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=pytest.mark.slow if case.extra else pytest.mark.grid)
        for name, case in registry.EVERY.items()
    ],
)
def test_fault_12b_every_carry_keeps_its_dtypes(case, options, x64):
    for given in WIDTHS:
        check_types(case, options, given)


def test_fault_12b_scans_over_steps_and_pieces_give_what_unroll_gives(x64):
    cell = lj.LSTM(H)
    params = cell.init(jax.random.key(0), D)
    xs = jnp.asarray(np.random.default_rng(0).standard_normal((4, B, D)))
    start = cell.initial_carry(params, (B,))
    final, ys = lj.unroll(cell, params, xs)
    assert {leaf.dtype.name for leaf in final} == {"float32"} and ys.dtype == "float64"
    by_step = jax.lax.scan(functools.partial(cell.step, params), start, xs)
    pieces = lambda carry, xs: lj.unroll(cell, params, xs, carry)  # noqa: E731
    last, parts = jax.lax.scan(pieces, start, xs.reshape(2, 2, B, D))
    for seen in (by_step, (last, parts.reshape(ys.shape))):
        registry.assert_close(seen, (final, ys), 1e-6)


# ---- 9: axes without elements -------------------------------------------------------------------
EMPTY = [(5, 0), (0, 2), (0, 0)]
REMATS = [None, 2, "sqrt", "minimal"]


def gradient_over_nothing(net, shape, implementation=None, **options):
    """A function of (params, xs) whose sums have nothing to sum."""

    def total(params, xs):
        outs = lj.unroll(net, params, xs, implementation=implementation, **options)
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(outs[1]))

    return jax.grad(total, argnums=(0, 1))


def flags_of(steps, batch):
    flag = jnp.ones((steps, batch), bool)
    return {"mask": flag, "resets": flag, "seq_lengths": jnp.zeros(batch, jnp.int32)}


def check_empty(case, name, shape, remat, options):
    net = case.make(H)
    params = net.init(jax.random.key(0), 2)
    xs = jnp.zeros((*shape, *getattr(net, "input_shape", ()), 2))
    run = gradient_over_nothing(net, shape, name, remat=remat, **options)
    seen = jax.jit(run)(params, xs)
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(seen))


@pytest.mark.parametrize("remat", REMATS[1:3], ids=str)
@pytest.mark.parametrize("name", ["lstm_heads", "user_step"])
def test_fault_9_remat_of_a_batch_without_sequences(name, remat):
    cell = registry.CASES[name].make(H)
    params = cell.init(jax.random.key(0), 2)
    for shape in EMPTY:
        run = gradient_over_nothing(cell, shape, remat=remat, **flags_of(*shape))
        xs = jnp.zeros((*shape, 2))
        seen = jax.eval_shape(run, params, xs)
        assert jax.tree.map(jnp.shape, seen) == jax.tree.map(jnp.shape, (params, xs))
    check_empty(registry.CASES[name], None, (5, 0), remat, {})


@pytest.mark.parametrize("axes", [0, (0, None), (None, 0)], ids=str)
@pytest.mark.parametrize(("members", "steps", "batch"), [(0, 3, 2), (2, 0, 2), (2, 3, 0)])
def test_fault_9_vmap_where_an_axis_is_empty(axes, members, steps, batch):
    cell = lj.GRU(H)
    params = cell.init(jax.random.key(0), 2)
    of_params, of_xs = axes if isinstance(axes, tuple) else (axes, axes)
    many = jax.tree.map(lambda leaf: jnp.zeros((members, *leaf.shape)), params)
    xs = jnp.zeros((members, steps, batch, 2))
    arguments = (
        params if of_params is None else many,
        xs if of_xs == 0 else jnp.zeros(xs.shape[1:]),
    )
    run = gradient_over_nothing(cell, (steps, batch))
    seen = jax.eval_shape(jax.vmap(run, axes), *arguments)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(seen)} == {members}
    turned = jax.grad(lambda *a: jnp.sum(jax.vmap(lambda *b: lj.unroll(cell, *b)[1], axes)(*a)))
    seen = jax.eval_shape(turned, *arguments)
    assert jax.tree.map(jnp.shape, seen) == jax.tree.map(jnp.shape, arguments[0])


@pytest.mark.slow
@pytest.mark.parametrize("case", registry.EVERY.values(), ids=registry.EVERY)
def test_fault_9_every_cell_over_nothing(case):
    for name, shape, remat in itertools.product(case.implementations, EMPTY, REMATS):
        for options in ({}, {"return_carries": True}, flags_of(*shape)):
            net = case.make(2)
            params = jax.eval_shape(lambda key, net=net: net.init(key, 2), jax.random.key(0))
            run = gradient_over_nothing(net, shape, name, remat=remat, **options)
            space = getattr(net, "input_shape", ())
            jax.eval_shape(run, params, jax.ShapeDtypeStruct((*shape, *space, 2), jnp.float32))


# ---- 12e: a network that runs by itself ---------------------------------------------------------
def check_alone(case):
    """Without inputs: every implementation, the gradient, and the step."""
    net = case.make(H)
    params = net.init(jax.random.key(0), 0)
    xs = jnp.zeros((T, B, *getattr(net, "input_shape", ()), 0))
    start = net.initial_carry(params, (B,))

    def total(params, name):
        final, ys = lj.unroll(net, params, xs, implementation=name)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves((final, ys))), (final, ys)

    run = jax.value_and_grad(total, has_aux=True)
    wanted = jax.jit(functools.partial(run, name="scan"))(params)
    for name in case.implementations[:-1]:
        seen = jax.jit(functools.partial(run, name=name))(params)
        registry.assert_close(seen, wanted, 1e-5)
    if case.name not in ("bidirectional", "deep"):
        _, y = net.step(params, start, xs[0])
        registry.assert_close(y, wanted[0][1][1][0], 1e-5)


@pytest.mark.parametrize("name", ["lstm", "gru_reset_before"])
def test_fault_12e_a_network_without_inputs(name):
    check_alone(registry.EVERY[name])


ALONE = {name: case for name, case in registry.EVERY.items() if name != "readout"}
"""All but the net with a residual, whose outputs are as wide as its inputs."""


@pytest.mark.grid
@pytest.mark.parametrize("case", ALONE.values(), ids=ALONE)
def test_fault_12e_every_network_without_inputs(case):
    check_alone(case)
