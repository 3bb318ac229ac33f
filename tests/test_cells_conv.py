"""The convolutional LSTM, against loops over windows and Keras, and what unroll promises of it."""

import functools
import itertools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry

import lstm_jax as lj

pytestmark = pytest.mark.sampled

T, B, D, H = 4, 2, 2, 2
CELLS = {
    "1d": lj.ConvLSTM(H, (3,), (4,)),
    "1d_strided": lj.ConvLSTM(H, (2,), (5,), strides=2),
    "2d": lj.ConvLSTM(H, (2, 3), (3, 4)),
    "2d_valid": lj.ConvLSTM(H, (2, 3), (4, 5), strides=(1, 2), padding="valid"),
    "2d_dilated": lj.ConvLSTM(H, (2, 3), (4, 5), dilation=(1, 2)),
    "3d": lj.ConvLSTM(H, (1, 2, 2), (1, 3, 2)),
}
NAMES = pytest.mark.parametrize("name", CELLS)
IMPLEMENTATION = pytest.mark.parametrize("implementation", ["fused", "scan"])


# ---- the equations, one window at a time ---------------------------------------------------------
def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def convolved(x, w, strides, padding, dilation):
    """x [B, *space, D], w [*window, D, N]: zeros around where "same", the odd one at the end."""
    window, space = w.shape[:-2], x.shape[1:-1]
    reach = [d * (k - 1) + 1 for k, d in zip(window, dilation, strict=True)]
    if padding == "same":
        out = [-(-n // s) for n, s in zip(space, strides, strict=True)]
        lost = [
            max((m - 1) * s + r - n, 0)
            for m, s, r, n in zip(out, strides, reach, space, strict=True)
        ]
        x = np.pad(x, [(0, 0), *((p // 2, p - p // 2) for p in lost), (0, 0)])
    out = [(n - r) // s + 1 for n, r, s in zip(x.shape[1:-1], reach, strides, strict=True)]
    y = np.zeros((len(x), *out, w.shape[-1]))
    for at in itertools.product(*map(range, out)):
        for tap in itertools.product(*map(range, window)):
            where = tuple(
                a * s + k * d for a, s, k, d in zip(at, strides, tap, dilation, strict=True)
            )
            y[(slice(None), *at)] += x[(slice(None), *where)] @ w[tap]
    return y


def numpy_unroll(cell, params, xs, carry, mask=None, resets=None):
    """(final carry, ys)."""
    ones, ys = (1,) * len(cell.kernel_shape), []
    h, c = carry
    for t, x in enumerate(xs):
        if resets is not None:
            h, c = (np.where(rows(resets[t], leaf), 0, leaf) for leaf in (h, c))
        wx = convolved(x, params["w_ih"], cell.strides, cell.padding, cell.dilation)
        u = convolved(h, params["w_hh"], ones, "same", ones)
        i, f, g, o = np.split(wx + params["b"] + u, 4, axis=-1)
        new_c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        new = (sigmoid(o) * np.tanh(new_c), new_c)
        valid = rows(np.ones(B, bool) if mask is None else mask[t], h)
        h, c = (np.where(valid, a, b) for a, b in zip(new, (h, c), strict=True))
        ys.append(np.where(valid, h, 0))
    return (h, c), np.stack(ys)


def rows(flags, like):
    return flags.reshape(-1, *[1] * (like.ndim - 1))


def problem(cell):
    """(params, xs, carry)."""
    rng = np.random.default_rng(0)
    params = registry.random_params(cell, D, rng)
    xs = rng.standard_normal((T, B, *cell.input_shape, D))
    return params, xs, registry.random_carry(cell, params, (B,), rng)


@functools.lru_cache
def compiled(cell, implementation, reverse=False, remat=None):
    """Jitted: (args, flags) -> ((final carry, ys), gradients of `total`)."""

    def run(args, flags):
        options = {"implementation": implementation, "reverse": reverse, "remat": remat}
        outs = lj.unroll(cell, *args, **flags, **options)
        return total(outs, jnp), outs

    return jax.jit(lambda args, flags: jax.grad(run, has_aux=True)(args, flags)[::-1])


def total(outs, np=np):
    """A sum with weights that differ everywhere."""
    leaves = enumerate(jax.tree.leaves(outs))
    return sum(np.sum(np.cos(np.arange(x.size) + n).reshape(x.shape) * x) for n, x in leaves)


FLAGS = {
    "mask": np.array([[1, 0], [0, 0], [1, 0], [1, 0]], bool),
    "resets": np.array([[0, 0], [1, 0], [0, 0], [1, 0]], bool),
}


@IMPLEMENTATION
@NAMES
def test_numpy(name, implementation, rng, x64):
    """Values, and gradients by central differences, of the loop."""
    cell = CELLS[name]
    args = problem(cell)
    (final, ys), grads = compiled(cell, implementation)(args, {})
    registry.assert_close((tuple(final), ys), numpy_unroll(cell, *args), 1e-12)
    moves = jax.tree.map(np.multiply, args, registry.normal(args, rng))
    ends = [
        total(numpy_unroll(cell, *jax.tree.map(lambda a, v, e=e: a + e * v, args, moves)))
        for e in (1e-6, -1e-6)
    ]
    slope = (ends[0] - ends[1]) / 2e-6
    assert registry.directional(grads, moves) == pytest.approx(slope, rel=1e-6, abs=1e-6)


# ---- what unroll promises ------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["1d", "2d_valid"])
def test_gaps_restarts_and_padding(name, x64):
    """The loop with flags; NaN where a step is not valid changes no bit."""
    cell = CELLS[name]
    params, xs, carry = problem(cell)
    run = compiled(cell, "fused")
    (final, ys), grads = run((params, xs, carry), FLAGS)
    wanted = numpy_unroll(cell, params, xs, carry, **FLAGS)
    registry.assert_close((tuple(final), ys), wanted, 1e-12)
    valid = FLAGS["mask"].reshape(T, B, *[1] * (xs.ndim - 2))
    spoiled = run((params, np.where(valid, xs, np.nan), carry), FLAGS)
    registry.assert_close(spoiled, ((final, ys), grads), 0)


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("name", ["1d_strided", "2d"])
def test_implementations_agree(name, reverse, x64):
    """Values and gradients, with every flag, and rematerialised."""
    cell, args = CELLS[name], problem(CELLS[name])
    wanted = compiled(cell, "scan", reverse)(args, FLAGS)
    registry.assert_close(compiled(cell, "fused", reverse)(args, FLAGS), wanted, 1e-10)
    registry.assert_close(compiled(cell, "fused", reverse, 2)(args, FLAGS), wanted, 1e-10)


@pytest.mark.parametrize("name", ["1d", "2d_valid", "3d"])
def test_pieces_steps_and_layouts_are_one_unroll(name, x64):
    cell = CELLS[name]
    params, xs, carry = problem(cell)
    run, step = jax.jit(functools.partial(lj.unroll, cell)), jax.jit(cell.step)
    final, ys = run(params, xs, carry)
    middle, head = run(params, xs[:3], carry)
    last, tail = run(params, xs[3:], middle)
    registry.assert_close((last, np.concatenate([head, tail])), (final, ys), 1e-12)

    by_batch = lj.unroll(cell, params, xs.swapaxes(0, 1), carry, time_major=False)
    registry.assert_close(by_batch, (final, ys.swapaxes(0, 1)), 1e-12)
    many = jax.tree.map(lambda leaf: leaf.reshape(1, B, 1, *leaf.shape[1:]), carry)
    seen = lj.unroll(cell, params, xs.reshape(T, 1, B, 1, *xs.shape[2:]), many)[1]
    registry.assert_close(seen.reshape(ys.shape), ys, 1e-12)
    alone = jax.tree.map(lambda leaf: leaf[1], carry)
    registry.assert_close(lj.unroll(cell, params, xs[:, 1], alone)[1], ys[:, 1], 1e-12)

    for x, y in zip(xs, ys, strict=True):
        carry, seen = step(params, carry, x)
        registry.assert_close(seen, y, 1e-12)


@pytest.mark.grid
def test_every_mode(rng, x64):
    """Tangents, second derivatives and vmap of the default, against those of plain "scan"."""
    cell = CELLS["1d"]
    args = problem(cell)
    v = registry.normal(args, rng)
    double = jax.tree.map(lambda a, b: np.stack([a, a + 0.1 * b]), args, v)

    def modes(implementation, args, double):
        def value(args):
            return total(lj.unroll(cell, *args, **FLAGS, implementation=implementation), jnp)

        _, tangent = jax.jvp(value, (args,), (v,))
        _, second = jax.jvp(jax.grad(value), (args,), (v,))
        return tangent, second, jax.vmap(jax.grad(value))(double)

    modes = jax.jit(modes, static_argnums=0)
    registry.assert_close(modes("fused", args, double), modes("scan", args, double), 1e-10)


@pytest.mark.parametrize("case", registry.SPATIAL.values(), ids=lambda case: case.name)
def test_bfloat16(case):
    """Outputs in bfloat16, the state in float32, gradients in both."""
    cell = case.make(H)
    args = registry.cast(problem(cell)[:2], jnp.bfloat16)

    @jax.jit
    def run(params, xs):
        return jax.grad(lambda *a: jnp.sum(lj.unroll(cell, *a)[1]), (0, 1))(params, xs)

    final, ys = jax.eval_shape(functools.partial(lj.unroll, cell), *args)
    assert ys.dtype == jnp.bfloat16 and all(leaf.dtype == jnp.float32 for leaf in final)
    grads = jax.tree.leaves(run(*args))
    assert all(leaf.dtype == jnp.bfloat16 and np.all(np.isfinite(leaf)) for leaf in grads)


def test_no_steps(x64):
    cell = CELLS["2d"]
    params, xs, carry = problem(cell)
    final, ys = lj.unroll(cell, params, xs[:0], carry)
    registry.assert_close(final, carry, 0)
    assert ys.shape == (0, B, 3, 4, H)


@pytest.mark.grid
def test_a_stack_of_two(x64):
    """The second has the first one's output for its input."""
    first = lj.ConvLSTM(3, (3,), (6,), strides=2)
    net = lj.stack(first, lj.ConvLSTM(2, (2,), first.output_shape))
    params, xs = net.init(jax.random.key(0), D), np.ones((T, B, 6, D))
    _, ys = lj.unroll(net, params, xs)
    _, wanted = lj.unroll(first, params["0"], xs)
    registry.assert_close(ys, lj.unroll(net.layers[1], params["1"], wanted)[1], 1e-12)


# ---- Keras ---------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def keras():
    os.environ.setdefault("KERAS_BACKEND", "jax")
    return pytest.importorskip("keras")


OPTIONS = [
    {"strides": 2},
    {"padding": "valid"},
    {"dilation": 2},
]


@pytest.mark.grid
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: next(iter(options)))
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_keras(keras, axes, options, rng):
    """Values in float32 with the same kernels and biases: the layouts are the same."""
    cell = lj.ConvLSTM(H, (2, 3, 2)[:axes], (5, 6, 4)[:axes], **options)
    params, xs, _ = registry.cast(problem(cell), jnp.float32)
    given = {"padding": "same", **options}
    if "dilation" in given:
        given["dilation_rate"] = given.pop("dilation")
    layer = getattr(keras.layers, f"ConvLSTM{axes}D")(
        H, cell.kernel_shape, return_sequences=True, return_state=True, **given
    )
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        layer.build((B, T, *cell.input_shape, D))
        layer.set_weights([params["w_ih"], params["w_hh"], params["b"]])
        ys, h, c = layer(np.asarray(xs.swapaxes(0, 1)))
    wanted = (lj.LSTMState(jnp.asarray(h), jnp.asarray(c)), jnp.asarray(ys))
    seen = lj.unroll(cell, params, xs.swapaxes(0, 1), time_major=False)
    registry.assert_close(seen, wanted, 1e-5)


# ---- starts and errors ---------------------------------------------------------------------------
@pytest.mark.grid
def test_parameters():
    """Each gate's kernel by itself: orthogonal over its window, Glorot by its receptive field."""
    cell = lj.ConvLSTM(8, [3, 3], [5, 5], b_init=lj.initializers.forget_bias(2.0))
    params = cell.init(jax.random.key(0), 6)
    assert params["w_ih"].shape == (3, 3, 6, 32) and params["w_hh"].shape == (3, 3, 8, 32)
    np.testing.assert_array_equal(params["b"], np.repeat([0, 2, 0, 0], 8))
    for w in np.split(np.asarray(params["w_hh"]).reshape(72, 32), 4, axis=1):
        np.testing.assert_allclose(w.T @ w, np.eye(8), atol=1e-5)
    bound = np.sqrt(6 / (9 * 6 + 9 * 8))
    assert 0.95 * bound < np.abs(params["w_ih"]).max() <= bound
    assert cell == lj.ConvLSTM(8, (3, 3), (5, 5), b_init=lj.initializers.forget_bias(2.0))
    assert lj.ConvLSTM(8, (3,), (5,), param_dtype="bfloat16").init(jax.random.key(0), 6)[
        "w_hh"
    ].dtype == np.dtype("bfloat16")


@NAMES
def test_the_start_of_the_carry(name):
    cell = CELLS[name]
    params = cell.init(jax.random.key(0), D)
    _, ys = jax.eval_shape(
        functools.partial(lj.unroll, cell), params, np.ones((T, B, *cell.input_shape, D), "float32")
    )
    assert ys.shape == (T, B, *cell.output_shape, H)
    carry = cell.initial_carry(params, (B,))
    assert all(leaf.shape == ys.shape[1:] and not np.any(leaf) for leaf in carry)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lj.ConvLSTM(2, 3, (4,)), "kernel_shape: got 3, wanted 1, 2 or 3 sizes"),
        (lambda: lj.ConvLSTM(2, (3,) * 4, (4,) * 4), "kernel_shape: got .* wanted 1, 2 or 3 sizes"),
        (lambda: lj.ConvLSTM(2, (3,), (4, 4)), "input_shape: got .* wanted 1 sizes"),
        (lambda: lj.ConvLSTM(2, (3,), (4,), strides=0), "strides: got 0"),
        (lambda: lj.ConvLSTM(2, (3,), (4,), dilation=(1, 2)), "dilation: got .* wanted 1 sizes"),
        (lambda: lj.ConvLSTM(2, (3,), (4,), padding="full"), "padding: got 'full', wanted one of"),
        (lambda: lj.ConvLSTM(2, (5,), (4,), padding="valid"), "wanted at least the kernel"),
        (lambda: lj.ConvLSTM(2, (3,), (4,), heads=2), "heads: got 2, wanted 1"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_input_of_another_shape():
    cell = CELLS["2d"]
    params, xs, _ = problem(cell)
    with pytest.raises(ValueError, match=r"xs: got shape .* wanted .* input_shape = \(3, 4\)"):
        lj.unroll(cell, params, xs[:, :, :2])
