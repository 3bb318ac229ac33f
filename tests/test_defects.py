"""Defects that other libraries have or had, and this one must not have: B1 to B20.

Each test is named after the library and what goes wrong there; its docstring says so, and what
must hold here. Nothing depends on whether the other library still has it.
"""

import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
from registry import CASES

import lstm_jax as lj
from lstm_jax import diagnostics

pytestmark = pytest.mark.sampled

T, B, D, H = 5, 3, 2, 4
LENGTHS = np.array([T, 2, 0])
CLASSIC = pytest.mark.parametrize("name", ["rnn_tanh", "lstm", "gru"])
ALL = pytest.mark.parametrize("name", ["rnn_tanh", "lstm", "gru", "min_lstm"])


@pytest.fixture(autouse=True)
def _x64(x64):
    """float64, but where a test says otherwise."""


# ---- helpers -------------------------------------------------------------------------------------
def arguments(cell, rng, steps=T, batch=(B,)):
    """(params, xs, carry), NumPy's in float64, with no zero among them."""
    params = registry.random_params(cell, D, rng)
    xs = rng.standard_normal((steps, *batch, D))
    return params, xs, registry.random_carry(cell, params, batch, rng)


def total(outs):
    """A scalar of everything, with weights that differ everywhere."""
    leaves = jax.tree.leaves(outs)
    weights = [jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape) for x in leaves]
    return sum(jnp.sum(w * jnp.sin(x)) for w, x in zip(weights, leaves, strict=True))


def by_implementation(case, function=lambda unroll: unroll):
    """arguments -> {name: function(unroll)(arguments)}, NumPy's, in one compilation."""
    runs = {
        name: function(functools.partial(lj.unroll, case.make(H), implementation=name))
        for name in case.sampled
    }
    compiled = jax.jit(lambda *args, **kw: {name: run(*args, **kw) for name, run in runs.items()})
    return lambda *args, **kw: jax.tree.map(np.asarray, compiled(*args, **kw))


def gradient_of(unroll):
    """(args, flags) -> (outs, gradient of their `total` by args)."""

    def run(args, **flags):
        outs = unroll(*args, **flags)
        return total(outs), outs

    return lambda args, **flags: jax.grad(run, has_aux=True)(args, **flags)[::-1]


def after(cell, args, lengths):
    """The carry after as many steps as each sequence is long, of an unroll without lengths."""
    params, xs, carry = args
    _, carries = jax.jit(lambda *args: lj.unroll(cell, *args, return_carries=True))(
        params, xs, carry
    )

    def picked(leaf, start):
        leaf, wanted = np.asarray(leaf), np.array(start)
        for b in np.ndindex(lengths.shape):
            if lengths[b]:
                wanted[b] = leaf[(lengths[b] - 1, *b)]
        return wanted

    return jax.tree.map(picked, carries, carry)


# ---- time ----------------------------------------------------------------------------------------
def influence(run, xs):
    """[T, T] bool, at [t, s] whether y_t moves with x_s."""
    moved = xs + np.eye(T + 1, T)[:, :, None, None]  # The last one does not move.
    *ys, wanted = np.asarray(jax.jit(jax.vmap(run))(moved))
    return np.any(np.stack(ys, axis=1) != wanted[:, None], axis=(2, 3))


EARLIER, LATER = np.tri(T, dtype=bool), np.tri(T, dtype=bool).T
"""y_t sees x_0 .. x_t, or x_t .. x_{T-1}."""


@pytest.mark.parametrize("name", ["lstm", "min_lstm"])
def test_b01_keras_go_backwards_flips_its_outputs(name, rng):
    """Keras 3 on JAX: through cuDNN `go_backwards` gives the outputs flipped in time once more.

    Backwards, y_t stands at t and sees x_t and what comes after, whatever runs it.
    """
    case = CASES[name]
    params, xs, _ = arguments(case.make(H), rng)
    for implementation in case.sampled:
        options = {"reverse": True, "implementation": implementation}
        run = functools.partial(lj.unroll, case.make(H), params, **options)
        np.testing.assert_array_equal(influence(lambda xs, f=run: f(xs)[1], xs), LATER)


def test_b01_keras_bidirectional_with_dropout_mixes_wrong_times(rng):
    """Keras 3 on JAX: so `Bidirectional(LSTM(dropout=0.5))` puts y_t beside y_{T-1-t}."""
    net = lj.bidirectional(lj.input_dropout(lj.LSTM(H), 0.5))
    params, xs, _ = arguments(net, rng)

    def half(n):
        key = jax.random.key(1)
        return lambda xs: jnp.split(lj.unroll(net, params, xs, key=key)[1], 2, axis=-1)[n]

    np.testing.assert_array_equal(influence(half(0), xs), EARLIER)
    np.testing.assert_array_equal(influence(half(1), xs), LATER)


# ---- masks and lengths ---------------------------------------------------------------------------
MASK = np.array([[0, 1, 0], [1, 1, 0], [0, 0, 0], [1, 1, 0], [1, 0, 0]], bool)
"""The first step masked, a gap, the last step masked, nothing valid."""


def in_pieces(cell, params, xs, carry, mask):
    """One call of `unroll` a step."""
    ys = []
    for x, valid in zip(xs, mask, strict=True):
        carry, y = lj.unroll(cell, params, x[None], carry, mask=valid[None])
        ys.append(y)
    return carry, jnp.concatenate(ys)


def step_by_step(cell, params, xs, carry, mask):
    """`cell.step`, held and zeroed by hand where a step is not valid."""
    ys, step = [], jax.jit(cell.step)
    for x, valid in zip(xs, mask[:, :, None], strict=True):
        new, y = step(params, carry, x)
        carry = jax.tree.map(lambda a, b, valid=valid: np.where(valid, a, b), new, carry)
        ys.append(np.where(valid, y, 0))
    return carry, np.stack(ys)


@functools.cache
def in_every_way(name):
    """Jitted: (params, xs, carry, mask) -> [(final carry, ys)] of every way to run the loop."""
    case = CASES[name]
    ways = [functools.partial(in_pieces, case.make(H))] + [
        functools.partial(masked, case.make(H), implementation=implementation, remat=remat)
        for implementation in case.sampled
        for remat in (None, 2)
    ]
    return jax.jit(lambda *args: [way(*args) for way in ways])


def masked(cell, params, xs, carry, mask, **options):
    return lj.unroll(cell, params, xs, carry, mask=mask, **options)


@pytest.mark.parametrize("name", ["lstm", "min_lstm"])
def test_b02_keras_unrolled_loop_differs_from_the_scan_at_a_masked_start(name, rng):
    """Keras 3 on JAX: with the first step masked and a carry, `unroll=True` starts with another y.

    The way the loop is run (implementation, chunks, single calls) changes nothing.
    """
    cell = CASES[name].make(H)
    args = arguments(cell, rng)
    wanted = step_by_step(cell, *args, MASK)
    for outs in in_every_way(name)(*args, MASK):
        registry.assert_close(outs, wanted, 1e-12)


@pytest.mark.parametrize("name", ["lstm", "min_lstm"])
def test_b03_keras_unrolled_loop_ignores_zero_output_for_mask(name, rng):
    """Keras 3: `unroll=True` repeats the last output at a masked step although zeros are asked for.

    The output of a step that is not valid is exactly zero, however the loop is run.
    """
    args = arguments(CASES[name].make(H), rng)
    for _, ys in in_every_way(name)(*args, MASK):
        valid = np.broadcast_to(MASK[:, :, None], ys.shape)
        np.testing.assert_array_equal(np.asarray(ys) != 0, valid)


@ALL
def test_b04_flax_zero_length_returns_the_state_after_padding(name, rng):
    """flax `nn.RNN`: `seq_lengths=0` gives the carry after all padding (its index is -1).

    A sequence of length n returns the carry after n steps, with n = 0 the one that came in.
    """
    case = CASES[name]
    args = arguments(case.make(H), rng)
    wanted = after(case.make(H), args, LENGTHS)
    for final, ys in by_implementation(case)(*args, seq_lengths=LENGTHS).values():
        registry.assert_close(final, wanted, 1e-12)
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[2], b[2]), final, args[2])
        assert not np.any(ys[:, 2]) and not np.any(ys[2:, 1])


@pytest.mark.parametrize("batch", [(), (2, 3), (2, 1, 2)])
def test_b05_flax_lengths_with_two_batch_axes_give_a_carry_of_the_wrong_shape(batch, rng):
    """flax `nn.RNN`: [2, 2] lengths give a carry [1, 2, 2, H], of the wrong sequences.

    Any number of batch axes, none included.
    """
    cell = lj.LSTM(H)
    args, lengths = arguments(cell, rng, batch=batch), rng.integers(0, T + 1, batch)
    final, ys = jax.jit(functools.partial(lj.unroll, cell))(*args, seq_lengths=lengths)
    registry.assert_close(final, after(cell, args, np.asarray(lengths)), 1e-12)
    assert final.h.shape == (*batch, H) and ys.shape == (T, *batch, H)


@ALL
def test_b06_flax_and_keras_nan_in_padding_is_nan_in_the_gradient(name, rng):
    """flax, Keras 3 on JAX: NaN in padding, a finite loss, and NaN in the parameters' gradient.

    Nothing of padding is read: values and gradients are those of zeros there, bit by bit.
    """
    case = CASES[name]
    params, xs, carry = arguments(case.make(H), rng)
    within = np.broadcast_to(np.arange(T)[:, None] < LENGTHS, (T, B))[:, :, None]
    run = by_implementation(case, gradient_of)

    def padded(value):
        return run((params, np.where(within, xs, value), carry), seq_lengths=LENGTHS)

    wanted = padded(0)
    for value in (np.nan, np.inf):
        registry.assert_close(padded(value), wanted, 0)


# ---- dtypes and parameters -----------------------------------------------------------------------
@pytest.mark.parametrize("given", ["bfloat16", "float32"], ids=["half_params", "mixed"])
@CLASSIC
def test_b07_flax_bfloat16_raises_or_comes_back_as_float32(name, given, rng):
    """flax: `SimpleCell(dtype=bfloat16)` raises, so do bfloat16 parameters; others return float32.

    The matmuls' inputs and the outputs are bfloat16, the gradients of the parameters' dtype.
    """
    cell = CASES[name].make(H, dtype="bfloat16", param_dtype=given)
    params, xs, _ = registry.cast(arguments(cell, rng), given)

    def run(params, implementation=None):
        _, ys = lj.unroll(cell, params, xs, implementation=implementation)
        return jnp.sum(ys.astype("float32")), ys

    initial = jax.eval_shape(lambda key: cell.init(key, D), jax.random.key(0))
    grads, ys = jax.jit(jax.grad(run, has_aux=True))(params)
    assert ys.dtype == "bfloat16" and np.all(np.isfinite(ys.astype("float32")))
    assert {str(leaf.dtype) for leaf in jax.tree.leaves((initial, grads))} == {given}
    # The kernel's own products are not in the text.
    text = jax.jit(functools.partial(run, implementation="fused")).lower(params).as_text()
    matmuls = re.findall(r"dot_general .* : \((.*)\) ->", text)
    assert len(matmuls) == 2
    assert all(re.findall(r"x(bf16|f\d+)>", types) == ["bf16", "bf16"] for types in matmuls)


@pytest.mark.grid
def test_b08_nnx_gru_has_no_b_hn(rng):
    """flax nnx: its GRU has no bias inside the reset gate's product, so PyTorch's cannot be loaded.

    PyTorch's GRU, imported, is PyTorch's.
    """
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = torch.nn.GRU(D, H).double()
    cell, params = lj.interop.from_torch(module)
    xs = rng.standard_normal((T, B, D))
    wanted = module(torch.from_numpy(xs))[0].detach().numpy()
    run = jax.jit(functools.partial(lj.unroll, cell))
    registry.assert_close(run(params, xs)[1], wanted, 1e-12)
    without = run(params | {"b_hn": jnp.zeros_like(params["b_hn"])}, xs)[1]
    assert np.max(np.abs(without - wanted)) > 1e-2


def test_b09_nnx_optimized_lstm_has_parameters_of_its_own(rng):
    """flax nnx: `OptimizedLSTMCell` cannot take `LSTMCell`'s parameters; orthogonal is [H, 4H].

    One layout, which every implementation and wrapper runs; each gate's block is orthogonal.
    """
    cell = lj.LSTM(H)
    wrapped = (lj.zoneout(cell, 0.1), lj.weight_drop(cell, 0.1), lj.clip_state(cell, c=1.0))
    init = jax.jit(lambda key: [one.init(key, D) for one in (cell, *wrapped)])
    params, *others = init(jax.random.key(0))
    for other in others:
        registry.assert_close(other, params, 0)
    for block in np.split(np.asarray(params["w_hh"], np.float64), 4, axis=1):
        np.testing.assert_allclose(block.T @ block, np.eye(H), atol=1e-6)
    params, xs, carry = arguments(cell, rng)
    wanted = step_by_step(cell, params, xs, carry, np.ones((T, B), bool))
    for outs in by_implementation(CASES["lstm"])(params, xs, carry).values():
        registry.assert_close(outs, wanted, 1e-12)


# ---- modes ---------------------------------------------------------------------------------------
@pytest.mark.grid
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_b10_torch_has_no_vmap_no_jvp_no_double_backward(name, rng):
    """PyTorch: no vmap of any RNN, no jvp of an LSTM, no second derivative through cuDNN.

    All of them in one: a vmapped jvp and gradient of a gradient, against central differences.
    """
    cell, eps = CASES[name].make(H), 1e-5
    points, v = [arguments(cell, rng) for _ in range(2)], arguments(cell, rng)

    def loss(args, implementation=None):
        return total(lj.unroll(cell, *args, seq_lengths=LENGTHS, implementation=implementation))

    def slope(args):
        return jax.jvp(loss, (args,), (v,))[1]

    def along(args):
        products = jax.tree.map(jnp.vdot, jax.grad(loss)(args), v)
        return sum(jax.tree.leaves(products))

    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *points)
    seen = jax.jit(jax.vmap(lambda args: (slope(args), jax.grad(along)(args))))(stacked)
    plain = jax.jit(jax.value_and_grad(functools.partial(loss, implementation="scan")))
    for n, args in enumerate(points):
        ends = [plain(jax.tree.map(lambda a, v, e=e: a + e * v, args, v)) for e in (eps, -eps)]
        wanted = jax.tree.map(lambda a, b: (a - b) / (2 * eps), *ends)
        registry.assert_close(jax.tree.map(lambda leaf, n=n: leaf[n], seen), wanted, 1e-8)


@CLASSIC
def test_b10_torch_zero_steps_raise(name, rng):
    """PyTorch: a sequence of no steps is an error.

    It gives no outputs and returns the carry, with the identity for a derivative.
    """
    case = CASES[name]
    params, xs, carry = arguments(case.make(H), rng)
    run = by_implementation(case, gradient_of)
    for outs, (dparams, _, dcarry) in run((params, xs[:0], carry)).values():
        registry.assert_close(outs, (carry, np.zeros((0, B, H))), 0)
        registry.assert_close(dcarry, jax.jit(jax.grad(total))(carry), 1e-15)
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(dparams))


@pytest.mark.parametrize("name", ["min_lstm", "min_gru"])
def test_b11_min_gru_pytorch_continued_min_lstm_differs_from_the_full_run(name, rng):
    """minGRU-pytorch: its minLSTM takes log g(h) of a carry h that is g(...) already: 0.36 off.

    Chunks, each begun with the last one's carry, are one unroll, from a carry of any sign.
    """
    case = CASES[name]
    args = arguments(case.make(H), rng)

    def in_pairs(unroll):
        def run(params, xs, carry):
            ys = []
            for t in range(0, T, 2):
                carry, y = unroll(params, xs[t : t + 2], carry)
                ys.append(y)
            return carry, jnp.concatenate(ys)

        return run

    wanted = step_by_step(case.make(H), *args, np.ones((T, B), bool))
    for function in (lambda unroll: unroll, in_pairs):
        for outs in by_implementation(case, function)(*args).values():
            registry.assert_close(outs, wanted, 1e-12)


@pytest.mark.grid
def test_b12_flashrnn_clips_the_state_at_the_limit_of_the_gradient(rng):
    """flashrnn: the macro of the forward clip is set from the gradient's clip value.

    Each wrapper has a limit of its own: one changes values alone, the other gradients alone.
    """
    args = jax.tree.map(lambda leaf: 3 * leaf, arguments(lj.LSTM(H), rng))
    states, cotangents = (0.3, None), (0.01, 1e9)

    def run(state, cotangent):
        cell = lj.clip_cotangents(lj.clip_state(lj.LSTM(H), c=state), cotangent)
        return gradient_of(functools.partial(lj.unroll, cell, return_carries=True))

    pairs = [(state, cotangent) for state in states for cotangent in cotangents]
    seen = jax.jit(lambda args: [run(*pair)(args) for pair in pairs])(args)
    seen = dict(zip(pairs, seen, strict=True))
    for state in states:
        (tight, clipped), (loose, whole) = (seen[state, cotangent] for cotangent in cotangents)
        registry.assert_close(tight, loose, 0)
        peak = np.max(np.abs(tight[1].c))
        assert peak == state if state else peak > 1
        # b's gradient is a sum of T * B cotangents, each within the limit.
        bound = T * B * cotangents[0]
        assert np.max(np.abs(clipped[0]["b"])) <= bound < np.max(np.abs(whole[0]["b"]))
    wanted = jax.jit(gradient_of(functools.partial(lj.unroll, lj.LSTM(H), return_carries=True)))(
        args
    )
    registry.assert_close(seen[None, 1e9], wanted, 1e-12)


@pytest.mark.parametrize("name", ["rnn_tanh", "lstm", "gru", "slstm", "min_lstm"])
def test_b13_flashrnn_tests_pass_within_a_fifth(name, rng):
    """flashrnn: its implementations are compared within atol 0.1 to 0.2 and rtol 0.2 to 0.4.

    In float32 every one is within 1e-5 of float64, values and gradients, over 64 steps.
    """
    case = CASES[name]
    args = registry.cast(arguments(case.make(H), rng, steps=64), jnp.float32)
    plain = functools.partial(lj.unroll, case.make(H), implementation="scan")
    wanted = jax.jit(gradient_of(plain))(registry.cast(args, jnp.float64))
    for seen in by_implementation(case, gradient_of)(args).values():
        assert {leaf.dtype for leaf in jax.tree.leaves(seen)} == {np.dtype("float32")}
        registry.assert_close(seen, wanted, 1e-5)


DROPPED = {
    "weight_drop": lambda net: lj.weight_drop(net, 0.5),
    "recurrent_dropout": lambda net: lj.recurrent_dropout(net, 0.5),
    "input_dropout": lambda net: lj.input_dropout(net, 0.5),
    "between_layers": lambda net: lj.stack(*net.layers, dropout=0.5),
}


@pytest.mark.parametrize("name", DROPPED)
def test_b14_awd_lstm_weight_drop_acts_in_evaluation(name, rng):
    """awd-lstm: its variational weight drop masks the weights in evaluation too.

    Without a key nothing is dropped: it is the net without.
    """
    plain = lj.stack(lj.LSTM(H), lj.LSTM(H))
    dropped, args = DROPPED[name](plain), arguments(plain, rng)

    @jax.jit
    def runs(args, key):
        training = lj.unroll(dropped, *args, key=key)
        return training, lj.unroll(dropped, *args), lj.unroll(plain, *args)

    training, evaluation, without = runs(args, jax.random.key(0))
    registry.assert_close(evaluation, without, 0)
    assert np.max(np.abs(training[1] - without[1])) > 1e-2


@pytest.mark.parametrize("gate", ["r", "z"])
def test_b15_jax_rtrl_derivative_of_the_sigmoid_is_wrong(gate):
    """jax_rtrl: its GRU takes sigmoid(x) sigmoid(1 - x) for the derivative of sigmoid(x).

    By both modes and every implementation it is that of central differences, from -6 to 6.
    """
    size, h_0, b_hn, eps = 13, 2.0, 1.5, 1e-5
    at, other = np.linspace(-6, 6, size), np.full(size, 0.3)

    def equation(x):
        """h_1 of units that see neither inputs nor each other."""
        pre = {"r": other, "z": other} | {gate: x}
        r, z = (1 / (1 + np.exp(-pre[name])) for name in "rz")
        return (1 - z) * np.tanh(r * b_hn) + z * h_0

    zeros = jnp.zeros(size)
    params = {"w_ih": jnp.zeros((D, 3 * size)), "w_hh": jnp.zeros((size, 3 * size))}
    params["b_hn"] = jnp.full(size, b_hn)

    def h_1(x, implementation):
        pre = {"r": other, "z": other, "n": zeros} | {gate: x}
        b = jnp.concatenate([pre["r"], pre["z"], pre["n"]])
        carry, xs = lj.GRUState(jnp.full(size, h_0)), jnp.zeros((1, D))
        cell, given = lj.GRU(size), params | {"b": b}
        return lj.unroll(cell, given, xs, carry, implementation=implementation)[0].h

    wanted = np.diag((equation(at + eps) - equation(at - eps)) / (2 * eps))
    for implementation in CASES["gru"].sampled:
        run = functools.partial(h_1, implementation=registry.asked(implementation))
        for seen in jax.jit(lambda x, f=run: (jax.jacrev(f)(x), jax.jacfwd(f)(x)))(at):
            registry.assert_close(seen, wanted, 1e-9)


# ---- state ---------------------------------------------------------------------------------------
@ALL
def test_b16_memax_nan_in_the_state_survives_a_reset(name, rng):
    """memax: a reset multiplies the state by zero, and NaN and Inf times zero are NaN.

    From the reset on nothing differs by a bit, whatever the state was before it; by Newton's method
    nothing but the last bits.
    """
    case, cut = CASES[name], 2
    params, xs, carry = arguments(case.make(H), rng)
    resets = np.broadcast_to(np.arange(T)[:, None] == cut, (T, B))
    run = by_implementation(case)
    wanted = run(params, xs, carry, resets=resets)
    for bad in (np.nan, np.inf):
        start = jax.tree.map(lambda leaf, bad=bad: leaf * bad, carry)
        spoiled = np.where(np.arange(T)[:, None, None] < cut, bad, xs)
        seen = run(params, spoiled, start, resets=resets)
        for implementation, (final, ys) in seen.items():
            clean, clean_ys = wanted[implementation]
            assert np.isinf(bad) or np.all(np.isnan(ys[:cut]))  # So there was something to clear.
            # Newton's last bits are those of as many iterations as the steps before the reset took.
            tol = 1e-14 if implementation == "newton" else 0
            registry.assert_close((final, ys[cut:]), (clean, clean_ys[cut:]), tol)


def test_b16_memax_lstm_output_lacks_the_tanh(rng):
    """memax: h = o * c. Here h = o * tanh(c), which a large c shows."""
    cell = lj.LSTM(H)
    params, xs, carry = arguments(cell, rng, steps=1)
    carry = lj.LSTMState(carry.h, 9 * carry.c)
    (h, c), _ = lj.unroll(cell, params, xs, carry)
    o = (xs[0] @ params["w_ih"] + carry.h @ params["w_hh"])[:, 3 * H :] + params["b"][None, 3 * H :]
    np.testing.assert_allclose(h, np.tanh(c) / (1 + np.exp(-o)), rtol=1e-12)


def test_b17_pararnn_reports_no_residual(rng):
    """ParaRNN: three Newton iterations whatever comes of them; its convergence tests are off.

    Three are not enough here either: the certificate says so, and the loop's results come."""
    args = arguments(lj.LSTM(H), rng, steps=20)
    *seen, certificate = lj.unroll_newton(lj.LSTM(H), *args, iterations=3)
    assert not np.any(certificate.converged) and np.all(np.asarray(certificate.residual) > 1e-9)
    registry.assert_close(tuple(seen), lj.unroll(lj.LSTM(H), *args, implementation="scan"), 1e-12)


@pytest.mark.grid
def test_b17_pararnn_parallel_is_not_sequential(rng):
    """ParaRNN: nothing tests that the parallel form is the sequential one.

    "associative" is the loop, over 100 steps, values and gradients; so is "newton" in
    `test_newton.py`."""
    case = CASES["min_lstm"]
    outs = by_implementation(case, gradient_of)(arguments(case.make(H), rng, steps=100))
    for seen in outs.values():
        registry.assert_close(seen, outs["scan"], 1e-11)


def test_b18_lyapunov_autoencode_counts_the_block_of_h_alone():
    """LyapunovAutoEncode: an LSTM's exponents from dh_t/dh_{t-1}, which misses what c remembers.

    2H exponents of the full carry. Without weights c_t = f c_{t-1} + i g, and H of them are ln f;
    h_{t-1} is forgotten at once.
    """
    cell, b_f = lj.LSTM(H), np.array([2.0, -1.0, 1.0, 0.0])
    zeros = {name: np.zeros((rows, 4 * H)) for name, rows in (("w_ih", D), ("w_hh", H))}
    params = zeros | {"b": np.concatenate([np.zeros(H), b_f, np.zeros(2 * H)])}
    spectrum = functools.partial(diagnostics.lyapunov_spectrum, cell, warmup=150)
    seen = jax.jit(spectrum)(params, jnp.zeros((200, D))).exponents
    assert seen.shape == (2 * H,)
    assert np.all(seen[H:] < -20)  # -inf, but for rounding.
    np.testing.assert_allclose(seen[:H], np.sort(-np.log1p(np.exp(-b_f)))[::-1], rtol=1e-12)


# ---- interface -----------------------------------------------------------------------------------
def test_b19_purejaxrl_broken_by_a_changed_signature():
    """purejaxrl, popjaxrl: their ScannedRNN broke when flax changed an API.

    `unroll` is called so: positions, names and defaults; the docstring speaks of each.
    """
    wanted = {
        "seq_lengths": None,
        "mask": None,
        "resets": None,
        "reverse": False,
        "time_major": True,
        "key": None,
        "return_carries": False,
        "remat": None,
        "implementation": None,
    }
    parameters = inspect.signature(lj.unroll).parameters
    positional = [p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == ["cell", "params", "xs", "carry"] and parameters["carry"].default is None
    assert {p.name: p.default for p in parameters.values() if p.kind is p.KEYWORD_ONLY} == wanted
    text = inspect.cleandoc(str(lj.unroll.__doc__))
    assert set(re.findall(r"^    (\w+): ", text, re.MULTILINE)) >= set(parameters)


@pytest.mark.grid
def test_b19_purejaxrl_recurrent_policy(rng):
    """purejaxrl: what its ScannedRNN is for. A rollout by single steps that restarts where an
    episode ended, then a scan over minibatches of environments, under jit."""
    steps, envs, cell = 6, 4, lj.GRU(H)
    params, xs, carry = registry.cast(arguments(cell, rng, steps, (envs,)), "float32")
    dones = rng.random((steps, envs)) < 0.4
    dones[2] = True, False, True, False
    tx = lj.clipped_sgd(0.1)

    def act(state, observed):
        carry, done = state
        x, done_after = observed
        fresh = cell.initial_carry(params, (envs,))
        carry = jax.tree.map(lambda new, old: jnp.where(done[:, None], new, old), fresh, carry)
        carry, y = cell.step(params, carry, x)
        return (carry, done_after), y

    def learn(state, batch):
        params, opt = state
        carry, xs, resets, ys = batch

        def loss(params):
            _, seen = lj.unroll(cell, params, xs, carry, resets=resets)
            return jnp.mean((seen - ys - 1) ** 2), seen

        grads, seen = jax.grad(loss, has_aux=True)(params)
        updates, opt = tx.update(grads, opt)
        return (jax.tree.map(jnp.add, params, updates), opt), (seen, ys)

    @jax.jit
    def iteration(params, carry):
        _, ys = jax.lax.scan(act, (carry, jnp.zeros(envs, bool)), (xs, dones))
        data = (xs, lj.resets_from_dones(dones), ys)
        pieces = [jnp.moveaxis(a.reshape(steps, 2, envs // 2, *a.shape[2:]), 1, 0) for a in data]
        carries = jax.tree.map(lambda leaf: leaf.reshape(2, envs // 2, H), carry)
        return jax.lax.scan(learn, (params, tx.init(params)), (carries, *pieces))

    (new, opt), (seen, ys) = iteration(params, carry)
    # The first minibatch is seen with the parameters that acted: the rollout again.
    registry.assert_close(seen[0], ys[0], 1e-6)
    assert opt.count == 2 and opt.skipped == 0
    assert all(np.any(new[name] != params[name]) for name in params)


@CLASSIC
def test_b20_jax_rnn_length_zero_and_its_gradient(name, rng):
    """jax.experimental.rnn: length 0 returns the state after all steps; NaN gradients reported.

    It returns the carry that came in and zeros, and its inputs have no gradient.
    """
    case = CASES[name]
    args, run = arguments(case.make(H), rng), by_implementation(case, gradient_of)
    for outs, (dparams, dxs, dcarry) in run(args, seq_lengths=np.zeros(B, int)).values():
        registry.assert_close(outs, (args[2], np.zeros((T, B, H))), 0)
        assert not any(np.any(leaf) for leaf in jax.tree.leaves((dparams, dxs)))
        registry.assert_close(dcarry, jax.jit(jax.grad(total))(args[2]), 1e-15)


def test_b20_jax_rnn_copies_the_lengths_to_the_host(rng):
    """jax.experimental.rnn: the lengths are brought to the host on every call.

    Under jit they are an argument like any other, on the device.
    """
    cell = lj.LSTM(H)
    args = arguments(cell, rng)
    run = jax.jit(lambda args, lengths: lj.unroll(cell, *args, seq_lengths=lengths))
    on_device = jax.device_put((args, LENGTHS))
    run(*on_device)
    with jax.transfer_guard("disallow"):
        final, _ = jax.block_until_ready(run(*on_device))
    registry.assert_close(final, after(cell, args, LENGTHS), 1e-12)


def test_b20_jax_rnn_bidirectional_lengths(rng):
    """jax.experimental.rnn: a reported mismatch of bidirectional runs with lengths.

    Backwards each sequence begins at its own last step: a padded one is the short one.
    """
    net, n = lj.bidirectional(lj.LSTM(H)), LENGTHS[1]
    params, xs, carry = arguments(net, rng)
    run = jax.jit(functools.partial(lj.unroll, net))
    seen = jax.tree.map(lambda leaf: leaf[..., 1, :], run(params, xs, carry, seq_lengths=LENGTHS))
    start = jax.tree.map(lambda leaf: leaf[1], carry)
    final, ys = run(params, xs[:n, 1], start)
    registry.assert_close(seen, (final, np.pad(ys, ((0, T - n), (0, 0)))), 1e-12)
