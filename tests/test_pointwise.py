"""Dense layers and functions in a stack: by hand, and everywhere that a net goes."""

import copy
import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry

import lstm_jax as lj
from lstm_jax import checkpoint, diagnostics, interop

T, B, D = 5, 3, 2
LENGTHS = np.array([5, 3, 0])
VALID = (np.arange(T)[:, None] < LENGTHS)[..., None]
A, Z = lj.LSTM(4), lj.GRU(3)
NET = lj.stack(lj.dense(3), jax.nn.softplus, A, jnp.tanh, lj.dense(2, bias=False))


def setup(net, rng, size=D):
    params = registry.random_params(net, size, rng)
    return params, rng.standard_normal((T, B, size))


def by_hand(params, xs, **options):
    """NET, layer by layer."""
    given = np.logaddexp(0, xs @ params["0"]["w"] + params["0"]["b"])
    carry, ys = jax.jit(functools.partial(lj.unroll, A))(params["2"], given, **options)
    return carry, np.tanh(ys) @ params["4"]["w"]


def test_layers_one_after_another(rng, x64):
    params, xs = setup(NET, rng)
    assert params["1"] == params["3"] == {} and set(params["4"]) == {"w"}
    carry, ys = jax.jit(lambda p, x: lj.unroll(NET, p, x, seq_lengths=LENGTHS))(params, xs)
    wanted, outputs = by_hand(params, xs, seq_lengths=LENGTHS)
    registry.assert_close(carry, ((), (), wanted, (), ()), 1e-12)
    registry.assert_close(ys, np.where(VALID, outputs, 0), 1e-12)
    state = NET.initial_carry(params, (B,))
    for t in range(3):
        state, y = NET.step(params, state, xs[t])
        registry.assert_close(y[:2], ys[t][:2], 1e-12)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (jax.nn.softmax, lambda x: jax.nn.softmax(x, axis=-1)),
        (lambda x: x[1:], lambda x: x[..., 1:]),
        (functools.partial(jnp.multiply, 2.0), lambda x: 2.0 * x),
        (jax.jit(jnp.cumsum), lambda x: jnp.cumsum(x, axis=-1)),
        (lambda x: (x * x).astype("float32"), lambda x: (x * x).astype("float32").astype(x.dtype)),
    ],
    ids=["softmax", "slice", "partial", "jitted", "dtype"],
)
def test_a_function_sees_one_step_of_one_sequence(function, wanted, rng, x64):
    """However it treats axes, it mixes neither time nor batch; its dtype is that of its inputs."""
    net = lj.stack(A, function)
    params, xs = setup(net, rng)
    _, inner = lj.unroll(A, params["0"], xs)
    _, ys = lj.unroll(net, params, xs)
    assert ys.dtype == inner.dtype
    registry.assert_close(ys, wanted(inner), 1e-12)
    carry, y = net.step(params, net.initial_carry(params, (B,)), xs[0])
    registry.assert_close(y, ys[0], 1e-12)
    assert jax.tree.structure(carry) == jax.tree.structure(net.initial_carry(params, (B,)))


def test_a_derivative_that_is_infinite_at_zero_does_not_come_from_padding(rng, x64):
    net = lj.stack(lj.stack(jnp.sqrt), A, jnp.abs, jnp.sqrt)
    params, xs = setup(net, rng)
    xs = np.abs(xs)

    def loss(params, xs):
        return jnp.sum(lj.unroll(net, params, xs, seq_lengths=LENGTHS)[1])

    def by_steps(params, xs):
        ys = [lj.unroll(net, params, xs[:n, b])[1] for b, n in enumerate(LENGTHS) if n]
        return sum(map(jnp.sum, ys))

    spoiled = np.where(VALID, xs, np.nan)
    seen = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, spoiled)
    registry.assert_close(seen, jax.jit(jax.grad(by_steps, argnums=(0, 1)))(params, xs), 1e-9)


# ---- dropout and skips ---------------------------------------------------------------------------
def test_a_function_belongs_to_the_layer_before_it(rng, x64):
    """With dense skips: the second cell sees the inputs and f(h), the net shows f(h) and h."""
    net = lj.stack(A, jnp.tanh, Z, skip="dense")
    params, xs = setup(net, rng)
    _, ys = lj.unroll(net, params, xs)
    first = np.tanh(lj.unroll(A, params["0"], xs)[1])
    _, second = lj.unroll(Z, params["2"], np.concatenate([xs, first], axis=-1))
    registry.assert_close(ys, np.concatenate([first, second], axis=-1), 1e-12)


def test_dropout_acts_once_between_two_cells(rng, x64):
    """Not before a function, nor after the last layer."""
    wide, shown = lj.RNN(200, "identity"), lj.dense(200, bias=False)
    net = lj.stack(jnp.negative, wide, jax.nn.softplus, shown, jnp.tanh, dropout=0.25)
    params, xs = setup(net, rng)
    params["3"] = {"w": np.eye(200)}
    _, plain = lj.unroll(net, params, xs)
    _, dropped = lj.unroll(net, params, xs, key=jax.random.key(3))
    kept = np.asarray(dropped) != 0
    registry.assert_close(dropped, np.where(kept, np.tanh(np.arctanh(plain) / 0.75), 0), 1e-9)
    assert 0.7 < kept.mean() < 0.8


# ---- everywhere ----------------------------------------------------------------------------------
def test_a_net_without_cells_and_one_over_images(rng):
    net = lj.stack(lj.dense(3), jnp.tanh)
    params, xs = setup(net, rng)
    carry, ys = lj.unroll(net, params, xs, implementation="scan")
    assert carry == ((), ()) and lj.which(net) == () and ys.shape == (T, B, 3)
    _, alone = lj.unroll(lj.stack(lj.dense(3)), {"0": params["0"]}, xs)
    assert lj.unroll(lj.dense(3), params["0"], xs)[0] == ()
    registry.assert_close(ys, np.tanh(alone), 1e-6)
    images = lj.stack(jax.nn.softplus, lj.dense(3), lj.ConvLSTM(2, (2, 2), (4, 4)), lj.dense(1))
    params, xs = images.init(jax.random.key(0), 2), rng.random((T, 4, 4, 2)).astype("float32")
    assert lj.unroll(images, params, xs)[1].shape == (T, 4, 4, 1)


def test_both_directions_and_residuals_take_dense_layers(rng):
    net = lj.residual(lj.bidirectional(lj.stack(lj.dense(2), jnp.tanh), lj.GRU(2), "sum"))
    params, xs = setup(net, rng)
    _, ys = lj.unroll(net, params, xs)
    inner = params["inner"]
    ahead = np.tanh(xs @ inner["forward"]["0"]["w"] + inner["forward"]["0"]["b"])
    _, back = lj.unroll(lj.GRU(2), inner["backward"], xs, reverse=True)
    registry.assert_close(ys, xs + ahead + back, 1e-5)


def test_a_function_may_close_over_a_traced_value(rng, x64, recwarn):
    """Its derivative is right, nothing leaks, and the cells run as fast as ever."""
    params, xs = setup(lj.stack(A, jnp.tanh), rng)

    def loss(a):
        return jnp.sum(lj.unroll(lj.stack(A, lambda x: a * x), params, xs)[1])

    seen = [jax.grad(loss)(a) for a in (1.0, 2.0)]
    registry.assert_close(seen, [np.sum(lj.unroll(A, params["0"], xs)[1])] * 2, 1e-12)
    assert not recwarn.list
    found = lj.inspect(jax.grad(loss), 1.0)
    assert {each.implementation for each in found} == {registry.FASTEST}


def test_it_is_compiled_once_and_pickles(rng):
    def made():
        return lj.stack(lj.dense(3), jax.nn.relu, A, functools.partial(jnp.multiply, 2.0))

    net = made()
    params, xs = setup(net, rng)
    run = jax.jit(lambda net, params, xs: lj.unroll(net, params, xs)[1], static_argnums=0)
    run(net, params, xs)
    run(made(), params, xs)
    assert run._cache_size() == 1
    other = lj.stack(lj.dense(3), jax.nn.silu, A, functools.partial(jnp.multiply, 2.0))
    assert other != net == made() == copy.copy(net) and hash(net) == hash(made())
    assert pickle.loads(pickle.dumps(NET)) == NET
    assert repr(lj.stack(A, jax.nn.relu).layers[1]) == "Function(function='relu')"


def test_files_keep_the_net_and_its_parameters(tmp_path, rng):
    net = lj.stack(jax.nn.relu, lj.dense(3), A, jax.nn.silu, lj.dense(1))
    params = net.init(jax.random.key(0), D)
    assert interop.files.build(interop.files.describe(net)) == net
    interop.to_safetensors(net, params, tmp_path / "a.safetensors", names="lstm_jax")
    again, read = interop.from_safetensors(tmp_path / "a.safetensors")
    assert again == net
    registry.assert_close(read, params, 0)
    checkpoint.save(tmp_path / "a.npz", params)
    read, _ = checkpoint.load(tmp_path / "a.npz")
    assert jax.tree.structure(read) == jax.tree.structure(params)
    assert "1 cell, " in interop.files.summary(net, params)
    with pytest.raises(ValueError, match="net.function: got .*lambda.*wanted a number, a name"):
        interop.files.describe(lj.stack(A, lambda x: x))
    with pytest.raises(ValueError, match="net: got a Dense, wanted a stack of cells"):
        interop.to_torch(lj.stack(A, lj.dense(2)), {"0": A.init(jax.random.key(0), D), "1": {}})


def test_diagnostics_are_nested_like_the_carry(rng, x64):
    params, xs = setup(NET, rng)
    params = registry.cast(params, np.float64)
    norms = diagnostics.gradient_norms_by_lag(NET, params, jnp.asarray(xs), jnp.sum)
    assert jax.tree.structure(norms) == jax.tree.structure(NET.initial_carry(params))

    def through(ys):
        return jnp.sum(jnp.tanh(ys) @ params["4"]["w"])

    given = jax.nn.softplus(xs @ params["0"]["w"] + params["0"]["b"][None, None])
    wanted = diagnostics.gradient_norms_by_lag(A, params["2"], given, through)
    registry.assert_close(*(jax.tree.map(np.exp, logs) for logs in (norms[2], wanted)), 1e-9)
    one = jax.tree.map(lambda leaf: leaf[0], NET.initial_carry(params, (1,)))
    jacobian = diagnostics.step_jacobian(NET, params, one, jnp.asarray(xs[0, 0]))
    alone = diagnostics.step_jacobian(A, params["2"], one[2], given[0, 0])
    registry.assert_close(jacobian, alone, 1e-12)
    spectrum = diagnostics.lyapunov_spectrum(NET, params, jnp.asarray(xs[:, 0]))
    assert spectrum.exponents.shape == (8,)


def test_wrappers_and_resets_reach_the_cells_alone(rng):
    net = lj.learned_start(NET)
    params, xs = setup(net, rng)
    assert "start_h" in params["2"] and params["1"] == {}
    carry = net.initial_carry(params, (B,))
    moved = jax.tree.map(lambda leaf: leaf + 1, carry)
    reset = np.array([True, False, True])
    seen = lj.reset_carry(net, params, moved, reset)
    registry.assert_close(seen[2].h[0], carry[2].h[0], 0)
    registry.assert_close(net.step(params, moved, xs[0], reset), net.step(params, seen, xs[0]), 0)


# ---- errors --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lj.dense(0), "output_size: got 0"),
        (lambda: lj.dense(2, bias=1), "bias: got 1, wanted True or False"),
        (lambda: lj.stack(A, jnp.sum), r"layers: got .*gives ShapeDtypeStruct\(shape=\(\)"),
        (lambda: lj.stack(A, jax.nn.glu, lj.dense(1), jax.nn.glu), "raises AssertionError.*D = 1"),
        (lambda: lj.stack(A, lambda x: x.size / 0 * x), "layers: got .*raises ZeroDivisionError"),
        (lambda: lj.zoneout(lj.stack(lj.dense(2), jnp.tanh), h=0.1), "net: got .*without a cell"),
        (lambda: lj.learned_start(lj.dense(2)), "net: got .*without a cell"),
        (lambda: lj.which(lj.dense(2), implementation="nativ"), "implementation: got 'nativ'"),
        (lambda: lj.stack(A, lambda x: x[:, 0]), r"layers: got .*raises IndexError.*D = 4"),
        (lambda: lj.stack(A, jnp.argsort), "gives .*int32.*wanted a function of one x_t"),
        (lambda: lj.stack(A, lambda x, y: x), "raises TypeError.*sees neither time nor batch"),
        (lambda: lj.stack(jnp.tanh, lj.embedding(A, 5, 2)), "layers: got a net over integers"),
        (lambda: lj.stack(lj.bidirectional(A, merge=None), jnp.tanh), "layers: got merge=None"),
        (lambda: lj.residual(jnp.tanh), r"net: got .*stack\(LSTM\(128\), jax.nn.relu\)"),
        (lambda: lj.stack(A, jax.nn.initializers), "layers: got .*module"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make().init(jax.random.key(0), D)


def test_functions_of_numpy_are_refused_time_and_again():
    """`jax.jit` of a ufunc itself crashed the process at its second call."""
    for _ in range(3):
        with pytest.raises(ValueError, match="raises TracerArrayConversionError"):
            lj.stack(lj.dense(3), np.tanh).init(jax.random.key(0), D)


def test_other_sizes_and_implementations_are_refused_where_no_cell_checks_them(rng):
    net = lj.stack(jax.nn.glu)
    with pytest.raises(ValueError, match="raises AssertionError.*D = 5"):
        lj.unroll(net, net.init(jax.random.key(0), 4), np.zeros((T, B, 5)))
    with pytest.raises(ValueError, match="implementation: got 'nativ'"):
        lj.unroll(net, {"0": {}}, np.zeros((T, B, 4)), implementation="nativ")


def test_parameters_of_another_net_are_refused(rng):
    params, xs = setup(NET, rng)
    with pytest.raises(ValueError, match="params: got leaves"):
        lj.unroll(NET, params | {"1": {"w": np.eye(3)}}, xs)
    with pytest.raises(ValueError, match="carry: got"):
        lj.unroll(NET, params, xs, A.initial_carry(params["2"], (B,)))
