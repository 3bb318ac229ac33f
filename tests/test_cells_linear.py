"""Cells without a recurrent matmul, and the unroll of all steps at once, against NumPy loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
from registry import CASES

import lstm_jax as lj
from lstm_jax._cells.linear import Affine
from lstm_jax._recurrence.engines import associative

pytestmark = pytest.mark.sampled

T, B, H = 7, 3, 4
CELLS = {
    "min_gru": (lj.MinGRU(H), 3),
    "min_gru_signed": (lj.MinGRU(H, True), 3),
    "min_lstm": (lj.MinLSTM(H), 3),
    "min_lstm_no_bias": (lj.MinLSTM(H, bias=False), 3),
    "sru": (lj.SRU(H), 3),
    "sru_highway": (lj.SRU(H, highway_bias=-1.5), H),
    "sru_not_rescaled": (lj.SRU(H, highway_bias=-1.5, rescale=False), H),
}
"""Name to (cell, D)."""
GRID = [
    (name, implementation)
    for name in CELLS
    for implementation in ("associative", "fused", "scan")
    if not (name.startswith("sru") and implementation == "associative")
]


@pytest.fixture(autouse=True)
def _x64(x64):
    """float64 throughout."""


# ---- the equations -------------------------------------------------------------------------------
def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def g(x):
    return np.where(x >= 0, x + 0.5, sigmoid(x))


def min_gru(cell, p, carry, x):
    w_z, w_h = np.split(p["w_ih"], 2, axis=1)
    b_z, b_h = np.split(p["b"], 2)
    z = sigmoid(x @ w_z + b_z)
    factor = 1 - 2 * z if cell.signed else 1 - z
    return (factor * carry[0] + z * g(x @ w_h + b_h),)


def min_lstm(cell, p, carry, x):
    f, i, h = np.split(x @ p["w_ih"] + p.get("b", 0), 3, axis=-1)
    f, i = sigmoid(f), sigmoid(i)
    return (f / (f + i) * carry[0] + i / (f + i) * g(h),)


def sru(cell, p, carry, x):
    _, c = carry
    n, f, r = np.split(x @ p["w_ih"] + p["b"], 3, axis=-1)
    f, r = sigmoid(f + p["v_f"] * c), sigmoid(r + p["v_r"] * c)
    alpha = np.sqrt(1 + 2 * np.exp(cell.highway_bias)) if cell.rescale else 1.0
    s = x @ p["w_skip"] if "w_skip" in p else alpha * x
    c = f * c + (1 - f) * n
    return r * c + (1 - r) * s, c


def numpy_unroll(name, params, xs, carry, mask, resets, reverse):
    """(final carry, ys), step by step; the start after a reset is zero."""
    cell, carry, ys = CELLS[name][0], tuple(carry), np.zeros((T, B, H))
    step = {"min_g": min_gru, "min_l": min_lstm}.get(name[:5], sru)
    for t in range(T)[::-1] if reverse else range(T):
        restart = resets[t] if not reverse else resets[t + 1] if t + 1 < T else np.zeros(B, bool)
        carry = tuple(np.where(restart[:, None], 0, leaf) for leaf in carry)
        new, valid = step(cell, params, carry, xs[t]), mask[t][:, None]
        carry = tuple(np.where(valid, a, b) for a, b in zip(new, carry, strict=True))
        ys[t] = np.where(valid, new[0], 0)
    return carry, ys


def problem(name):
    """((params, xs, carry), (mask, resets)): gaps, restarts, a sequence of length 0."""
    rng, (cell, size) = np.random.default_rng(3), CELLS[name]
    params = registry.random_params(cell, size, rng)
    carry = registry.random_carry(cell, params, (B,), rng)
    mask, resets = rng.random((T, B)) < 0.7, rng.random((T, B)) < 0.3
    mask[:, 2] = resets[:, 2] = False
    return (params, rng.standard_normal((T, B, size)), carry), (mask, resets)


@functools.lru_cache
def compiled(name, implementation, reverse=False):
    """Jitted: (args, flags) -> ((final carry, ys), gradients of `total`)."""

    def run(args, flags):
        mask, resets = flags
        options = {"reverse": reverse, "implementation": implementation}
        carry, ys = lj.unroll(CELLS[name][0], *args, mask=mask, resets=resets, **options)
        outs = (tuple(carry), ys)
        return sum(jnp.vdot(w, x) for w, x in weighted(outs)), outs

    return jax.jit(lambda args, flags: jax.grad(run, has_aux=True)(args, flags)[::-1])


def weighted(outs):
    """(weights, leaf) of each leaf; the weights differ everywhere."""
    leaves = jax.tree.leaves(outs)
    return [(np.cos(np.arange(x.size)).reshape(x.shape) + n, x) for n, x in enumerate(leaves)]


def total(outs):
    return float(sum(np.vdot(w, x) for w, x in weighted(outs)))


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize(("name", "implementation"), GRID)
def test_numpy(name, implementation, reverse, rng):
    """Values, and gradients by central differences, of the loop."""
    args, flags = problem(name)
    outs, grads = compiled(name, implementation, reverse)(args, flags)
    registry.assert_close(outs, numpy_unroll(name, *args, *flags, reverse), 1e-12)
    moves = jax.tree.map(np.multiply, args, registry.normal(args, rng))
    for place in range(3):
        zeros = jax.tree.map(np.zeros_like, args)
        direction = (*zeros[:place], moves[place], *zeros[place + 1 :])
        ends = [
            total(numpy_unroll(name, *moved(args, direction, eps), *flags, reverse))
            for eps in (1e-6, -1e-6)
        ]
        wanted = (ends[0] - ends[1]) / 2e-6
        assert registry.directional(grads, direction) == pytest.approx(wanted, rel=1e-6, abs=1e-6)


def moved(args, direction, eps):
    return jax.tree.map(lambda a, v: a + eps * v, args, direction)


# ---- continuation --------------------------------------------------------------------------------
@pytest.mark.parametrize("implementation", ["associative", "fused", "scan"])
@pytest.mark.parametrize("name", ["min_lstm", "min_gru"])
def test_min_lstm_chunked_continuation_differs_from_the_full_run(name, implementation):
    """The defect of another library, which took the carry for a candidate: log g(h), not log h.

    In pieces, in single steps, from a carry of zeros and from one that is positive.
    """
    cell, _ = CELLS[name]
    (params, xs, carry), _ = problem(name)
    run = jax.jit(functools.partial(lj.unroll, cell, implementation=implementation))
    step = jax.jit(cell.step)
    for start in (cell.initial_carry(params, (B,)), lj.State(np.abs(carry.h))):
        registry.check_pieces_and_steps(run, step, params, xs, start)


@pytest.mark.parametrize("implementation", ["associative", "fused", "scan"])
def test_a_carry_of_any_sign(implementation):
    """Zero, negative, positive: the derivative by the carry is the product of the a_t."""
    cell, (args, _) = lj.MinLSTM(H), problem("min_lstm")
    wx = args[1] @ args[0]["w_ih"] + args[0]["b"]
    f, i, _ = (sigmoid(x) for x in np.split(wx, 3, axis=-1))
    wanted = np.prod(f / (f + i), axis=0)
    for h in (np.zeros((B, H)), -np.ones((B, H)), np.ones((B, H))):
        run = functools.partial(lj.unroll, cell, *args[:2], implementation=implementation)
        final, pull = jax.vjp(lambda h, run=run: run(lj.State(h))[0].h, h)
        registry.assert_close(pull(np.ones((B, H)))[0], wanted, 1e-12)
        assert np.all(np.isfinite(final))


# ---- extremes ------------------------------------------------------------------------------------
@pytest.mark.parametrize("implementation", ["associative", "fused"])
@pytest.mark.parametrize("name", ["min_gru", "min_lstm"])
def test_shut_and_open_gates(name, implementation):
    """Preactivations of -100, 0 and 100 in all combinations, in float32: all of it is finite."""
    cell = CASES[name].make(1)
    gates = len(cell.gate_names)
    xs = np.stack(np.meshgrid(*[[-100.0, 0, 100]] * gates), axis=-1).reshape(-1, gates)
    xs = jnp.asarray(np.tile(xs[:, None], (1, 2, 1)), jnp.float32)
    params = {"w_ih": jnp.eye(gates, dtype=jnp.float32), "b": jnp.zeros(gates, jnp.float32)}

    def value(params, xs):
        return jnp.sum(lj.unroll(cell, params, xs, implementation=implementation)[1])

    out, grads = jax.jit(jax.value_and_grad(value, argnums=(0, 1)))(params, xs)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((out, grads)))


def test_two_shut_gates_share_equally():
    """f / (f + i) of sigmoid(-1000) twice is a half, not 0 / 0."""
    log_a, _ = lj.MinLSTM(1).affine(jnp.asarray([-1000.0, -1000.0, 0.0]))
    np.testing.assert_allclose(np.exp(log_a), 0.5)


@pytest.mark.grid
def test_ten_thousand_steps_in_float32():
    """No drift: the products underflow to zero, as they should."""
    cell, rng = lj.MinGRU(2), np.random.default_rng(0)
    params = registry.random_params(cell, 2, rng)
    args = (params, rng.standard_normal((10_000, 1, 2)))
    _, wanted = lj.unroll(cell, *args, implementation="fused")
    _, seen = lj.unroll(cell, *registry.cast(args, jnp.float32), implementation="associative")
    registry.assert_close(seen, wanted, 1e-5)


@pytest.mark.grid
@pytest.mark.parametrize("name", ["min_gru", "min_lstm"])
def test_a_long_memory_keeps_its_digits(name):
    """Gates that forget 1e-4 a step: products of 1 - 1e-4 in float32 would be 1e-5 off."""
    cell, rng = CELLS[name][0], np.random.default_rng(0)
    params = registry.random_params(cell, 2, rng)
    shut = {"min_gru": [-9.0, 0], "min_lstm": [0, -9.0, 0]}[name]
    params["b"] = params["b"] + np.repeat(shut, H)
    args = (params, rng.standard_normal((4096, 1, 2)))
    rounded = registry.cast(registry.cast(args, jnp.float32), jnp.float64)
    _, wanted = lj.unroll(cell, *rounded, implementation="fused")
    _, seen = lj.unroll(cell, *registry.cast(args, jnp.float32), implementation="associative")
    assert np.abs(wanted[2000]).max() > 0.1
    registry.assert_close(seen, wanted, 2e-6)


# ---- all steps at once ---------------------------------------------------------------------------
@pytest.mark.grid
@pytest.mark.parametrize("name", ["min_gru", "min_lstm"])
def test_every_mode_of_the_associative_scan(name, rng):
    """Tangents, second derivatives and vmap, against those of plain "scan"."""
    args, (mask, resets) = problem(name)
    v = registry.normal(args, rng)
    double = jax.tree.map(lambda a, b: np.stack([a, b]), args, moved(args, v, 0.1))

    @functools.partial(jax.jit, static_argnums=0)
    def modes(implementation, args, double):
        def value(args):
            options = {"mask": mask, "resets": resets, "implementation": implementation}
            outs = lj.unroll(CELLS[name][0], *args, **options)
            return sum(jnp.sum(jnp.sin(w * leaf)) for w, leaf in weighted(outs))

        _, tangent = jax.jvp(value, (args,), (v,))
        _, second = jax.jvp(jax.grad(value), (args,), (v,))
        return tangent, second, jax.vmap(jax.grad(value))(double)

    registry.assert_close(modes("associative", args, double), modes("scan", args, double), 1e-10)


@pytest.mark.parametrize("logarithmic", [False, True])
def test_composition_is_associative(logarithmic, rng):
    """With a restart in any of the stretches, and NaN before it."""
    then, shape = functools.partial(associative.then, logarithmic=logarithmic), (64, H)
    a, b, c = (
        associative.Stretch(*rng.standard_normal((2, *shape)), rng.random(64) < 0.4)
        for _ in range(3)
    )
    registry.assert_close(then(then(a, b), c), then(a, then(b, c)), 1e-12)
    spoiled = then(a._replace(a=a.a * np.nan, b=a.b * np.nan), b)
    kept = np.stack([spoiled.a, spoiled.b])[:, b.restarted]
    assert np.all(np.isfinite(kept))


@pytest.mark.parametrize("name", ["min_gru", "min_lstm"])
def test_which_tells(name):
    """On a CPU the walk is faster; elsewhere steps that wait for each other are what costs."""
    cell = CASES[name].make(2)
    on_cpu, on_gpu = (lj.which(cell, platform=platform) for platform in ("cpu", "gpu"))
    best = registry.FASTEST
    assert on_cpu.implementation == best and on_gpu.implementation == "associative"
    assert on_cpu.rejected["associative"] == f"{best} comes first"
    assert on_gpu.rejected["fused"] == "associative comes first"
    with pytest.raises(NotImplementedError, match="the state of LSTM does not enter .* a h"):
        lj.which(lj.LSTM(2), implementation="associative")


def test_a_map_of_ones_own():
    """Any `affine`, of any sign, with a parameter of its own; but not beside another `update`."""

    class Wave(Affine):
        gate_names = ("a", "b")
        elementwise = ("w",)

        def init(self, key, input_size):
            params = super().init(key, input_size)
            return params | {"w": params["b"][: self.hidden_size] + 2}

        def affine(self, wx, w):
            a, b = jnp.split(wx, 2, axis=-1)
            return jnp.sin(a * jnp.broadcast_to(w, a.shape)), b

    class Bent(Wave):
        def update(self, carry, wx, u, w):
            return lj.State(jnp.tanh(super().update(carry, wx, u, w=w).h))

    rng, cell = np.random.default_rng(0), Wave(H)
    params = registry.random_params(cell, 2, rng)
    args = (params, rng.standard_normal((T, B, 2)), registry.random_carry(cell, params, (B,), rng))

    def outs(name):
        return jax.jit(functools.partial(lj.unroll, cell, implementation=name))(*args)

    registry.assert_close(outs("associative"), outs("fused"), 1e-12)
    assert lj.which(Bent(H), platform="gpu").implementation == "fused"


@pytest.mark.parametrize("reverse", [False, True])
def test_no_steps_and_no_batch(reverse):
    cell, ((params, xs, carry), _) = lj.MinGRU(H), problem("min_gru")
    options = {"implementation": "associative", "reverse": reverse}
    final, ys = lj.unroll(cell, params, xs[:0], carry, **options)
    registry.assert_close(final, carry, 0)
    assert ys.shape == (0, B, H)
    wanted = lj.unroll(cell, params, xs, carry, **options)
    seen = lj.unroll(cell, params, xs[:, 1], lj.State(carry.h[1]), **options)
    registry.assert_close(seen, (lj.State(wanted[0].h[1]), wanted[1][:, 1]), 1e-12)


# ---- starts --------------------------------------------------------------------------------------
@pytest.mark.grid
def test_parameters():
    """No w_hh; a forget bias of one; a skip only between two sizes."""
    key = jax.random.key(0)
    min_gru, min_lstm = (cell(4).init(key, 3) for cell in (lj.MinGRU, lj.MinLSTM))
    assert jax.tree.map(np.shape, min_gru) == {"w_ih": (3, 8), "b": (8,)}
    np.testing.assert_array_equal(min_lstm["b"], np.repeat([1, 0, 0], 4))
    assert lj.SRU(4).init(key, 4).keys() == {"w_ih", "b", "v_f", "v_r"}
    params = lj.SRU(4, highway_bias=-2.0).init(key, 3)
    assert params["w_skip"].shape == (3, 4)
    np.testing.assert_array_equal(params["b"], np.repeat([0, 0, -2], 4))


@pytest.mark.grid
def test_the_start_of_an_sru_keeps_the_variance():
    """var(s) + var(c) through the highway stays near var(x), as the paper's section 3.2 wants."""
    cell, size = lj.SRU(400), 400
    params = cell.init(jax.random.key(0), size)
    variances = [np.var(w) * size for w in np.split(params["w_ih"], 3, axis=1)]
    np.testing.assert_allclose(variances, [1, 0.5, 0.5], rtol=0.05)
    np.testing.assert_allclose([np.var(params["v_f"]), np.var(params["v_r"])], 0.5, rtol=0.2)
    other = cell.init(jax.random.key(0), 300)["w_skip"]
    np.testing.assert_allclose(np.var(other) * 300, 3, rtol=0.05)


def test_errors():
    with pytest.raises(ValueError, match="highway_bias: got nan"):
        lj.SRU(3, highway_bias=float("nan"))
    with pytest.raises(ValueError, match="heads: got 2, wanted 1; MinGRU"):
        lj.MinGRU(4, heads=2)
