"""Regularisers: against NumPy on explicit matrices, and what their gradients may see."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstm_jax as lj
from lstm_jax import regularizers

pytestmark = pytest.mark.sampled

T, B, D, H = 7, 3, 2, 4
FORMS = ["ratio", "squared_ratio"]


def loss(ys):
    """One that sees every step, sequence and unit unequally, of outputs [T, B, H]."""
    t, b, h = (jnp.arange(size, dtype=ys.dtype) for size in ys.shape)
    targets = jnp.cos(3 * t[:, None, None] + 5 * b[None, :, None] + 7 * h[None, None])
    return jnp.mean((1 + t)[:, None, None] * jnp.square(ys - targets))


def first_three(ys):
    return loss(ys[:3])


def last(ys):
    return jnp.sum(jnp.sin(ys[-1]))


def any_batch(ys):
    return jnp.sum(jnp.sin(ys))


@functools.partial(jax.jit, static_argnames=("cell", "loss", "form"))
def omega_and_gradients(cell, params, xs, loss, form="squared_ratio", **kwargs):
    """The penalty, and its gradient by the parameters and by xs, in one compiled call."""

    def penalty(params, xs):
        return regularizers.omega(cell, params, xs, loss, form=form, **kwargs)

    return jax.value_and_grad(penalty, argnums=(0, 1))(params, xs)


omega = jax.jit(regularizers.omega, static_argnames=("cell", "loss", "form"))


def problem(key, cell=None, scale=1.5):
    """A small cell far from zero, and its inputs."""
    cell = lj.RNN(H) if cell is None else cell
    params = jax.tree.map(lambda w: scale * w, jax.jit(cell.init, static_argnums=1)(key, D))
    xs = jax.random.normal(jax.random.fold_in(key, 1), (T, B, D), params["w_hh"].dtype)
    return cell, params, xs


attractor = regularizers.manifold_attractor


def double(activation="tanh"):
    return lj.RNN(H, activation, param_dtype="float64")


# ------------------------------------------------------------------------- weights


def test_l2_is_the_sum_of_squares(rng):
    tree = {"w": rng.standard_normal((3, 4)), "b": [rng.standard_normal(5)]}
    wanted = (tree["w"] ** 2).sum() + (tree["b"][0] ** 2).sum()
    got = regularizers.l2(jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree))
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
    assert got.dtype == jnp.float32
    assert regularizers.l2({}) == 0


def test_penalties_of_16_bits_sum_in_float32():
    w = jnp.full((64, 64), 0.0625, jnp.bfloat16)
    assert regularizers.l2(w) == 16.0
    assert regularizers.orthogonality(jnp.eye(3, 6, dtype=jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.parametrize("dtypes", [("float32",) * 2, ("float64",) * 2, ("float64", "bfloat16")])
def test_penalties_on_weights_take_any_dtypes_in_64_bits(dtypes, x64, rng):
    w, b = (
        jnp.asarray(rng.standard_normal(s), d) for s, d in zip(((3, 3), 3), dtypes, strict=True)
    )
    wide, narrow = np.asarray(w, np.float64), np.asarray(b, np.float64)
    got = regularizers.l2({"w": w, "b": b})
    np.testing.assert_allclose(got, (wide**2).sum() + (narrow**2).sum(), rtol=1e-6)
    seen = attractor(w, b, 2)
    wanted = ((wide - np.eye(3))[:, :2] ** 2).sum() + (narrow[:2] ** 2).sum()
    np.testing.assert_allclose(seen, wanted, rtol=1e-6)
    assert got.dtype == seen.dtype == jnp.dtype(dtypes[0])


def test_orthogonality_sums_over_gates(x64, rng):
    w = rng.standard_normal((H, 3 * H))
    blocks = [w[:, H * g : H * (g + 1)] for g in range(3)]
    wanted = sum(np.linalg.norm(block.T @ block - np.eye(H), "fro") ** 2 for block in blocks)
    np.testing.assert_allclose(regularizers.orthogonality(jnp.asarray(w)), wanted, rtol=1e-12)


def test_orthogonality_is_zero_and_flat_where_norms_are_kept(x64, key):
    cell = lj.LSTM(H, param_dtype="float64")
    w = cell.init(key, D)["w_hh"]
    value, gradient = jax.value_and_grad(regularizers.orthogonality)(w)
    assert value < 1e-28
    np.testing.assert_allclose(gradient, 0, atol=1e-13)
    # One column twice as long: (4 - 1)^2.
    np.testing.assert_allclose(regularizers.orthogonality(w.at[:, H].multiply(2)), 9.0)


def test_orthogonality_of_blocks_with_more_rows_than_columns():
    w = jnp.concatenate([jnp.eye(5, 3), jnp.roll(jnp.eye(5, 3), 2, axis=0)], axis=1)
    assert regularizers.orthogonality(w, hidden_size=3) == 0
    assert regularizers.orthogonality(2 * w, hidden_size=3) == 6 * 9


def test_units_of_a_manifold_attractor_keep_their_state_and_gradient(x64, rng):
    w, b, units = rng.standard_normal((H, H)), rng.standard_normal(H), 2
    wanted = sum(
        (w[i, i] - 1) ** 2 + b[i] ** 2 + sum(w[j, i] ** 2 for j in range(H) if j != i)
        for i in range(units)
    )
    got = regularizers.manifold_attractor(jnp.asarray(w), jnp.asarray(b), units)
    np.testing.assert_allclose(got, wanted, rtol=1e-12)
    w[:, :units], b[:units] = np.eye(H, units), 0
    assert regularizers.manifold_attractor(jnp.asarray(w), jnp.asarray(b), units) == 0
    cell = double("relu")
    params = {"w_ih": np.zeros((D, H)), "w_hh": w, "b": b}
    h = np.arange(1.0, H + 1)
    kept, _ = lj.unroll(cell, params, np.zeros((50, D)), cell.state(jnp.asarray(h)))
    np.testing.assert_array_equal(kept.h[:units], h[:units])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: attractor(jnp.ones((3, 6)), jnp.ones(6), 1),
            r"w: got shape \(3, 6\), wanted \[H, H",
        ),
        (lambda: attractor(jnp.ones((3, 3)), jnp.ones(2), 1), r"b: got shape \(2,\), wanted \[H\]"),
        (lambda: attractor(jnp.ones((3, 3)), jnp.ones(3), 4), "units: got 4, wanted at most H = 3"),
        (lambda: attractor(jnp.ones((3, 3)), jnp.ones(3), 0.9), "units: got 0.9"),
        (lambda: regularizers.l2(jnp.ones(2, jnp.int32)), "w: got dtype int32"),
        (lambda: regularizers.orthogonality(jnp.ones(3)), r"w: got shape \(3,\), wanted \[H, G\*H"),
        (lambda: regularizers.orthogonality(jnp.ones((3, 4))), r"w: got shape \(3, 4\)"),
        (lambda: regularizers.orthogonality(jnp.ones((2, 3)), 3), "wanted at least H = 3 rows"),
        (lambda: regularizers.orthogonality(jnp.ones((3, 3)), 0), "hidden_size: got 0"),
    ],
)
def test_errors_of_the_weights_name_the_argument(call, match):
    with pytest.raises(ValueError, match=match) as error:
        call()
    assert ";" in str(error.value)


# ------------------------------------------------------------------------- omega, its value


def numpy_slopes(params, xs):
    """phi' = 1 - h_t^2 at steps 1 .. T, and h_1 .. h_T [T, B, H], of h_t = tanh(..)."""
    w_ih, w_hh, b = (np.asarray(params[name]) for name in ("w_ih", "w_hh", "b"))
    h = [np.zeros((xs.shape[1], w_hh.shape[0]))]
    for x in np.asarray(xs):
        h.append(np.tanh(x @ w_ih + h[-1] @ w_hh + b))
    h = np.stack(h[1:])
    return 1 - h**2, h


def numpy_errors(w_hh, slopes, direct):
    """dE/dh_1 .. dE/dh_T by the explicit backward recursion."""
    errors = [direct[-1]]
    for slope, immediate in zip(slopes[:0:-1], direct[-2::-1], strict=True):
        errors.append(immediate + (errors[-1] * slope) @ w_hh.T)
    return np.stack(errors[::-1])


def numpy_omega(w_hh, slopes, errors, form):
    """The paper's Omega with h_k and dE/dh_k as given: a function of w_hh alone."""
    total, count = 0.0, 0
    for slope, error in zip(slopes, errors, strict=True):
        for b in range(error.shape[0]):
            norm2 = (error[b] ** 2).sum()
            if norm2 < 1e-20:
                continue
            jacobian = np.diag(slope[b]) @ w_hh.T  # dh_{k+1}/dh_k, rows of k+1
            ratio2 = ((error[b] @ jacobian) ** 2).sum() / norm2
            total += ((ratio2 if form == "squared_ratio" else np.sqrt(ratio2)) - 1) ** 2
            count += 1
    return total / count


def frozen(params, xs, loss=loss):
    """Slopes and errors of a tanh network, which Omega holds constant."""
    slopes, h = numpy_slopes(params, xs)
    direct = np.asarray(jax.jit(jax.grad(loss))(jnp.asarray(h)))
    return slopes, numpy_errors(np.asarray(params["w_hh"]), slopes, direct)


@pytest.mark.parametrize("form", FORMS)
def test_omega_of_a_tanh_network_is_the_papers(x64, key, rng, form):
    cell, params, xs = problem(key, double())
    slopes, errors = frozen(params, xs)
    w_hh, direction = np.asarray(params["w_hh"]), rng.standard_normal((H, H))
    got, (gradient, _) = omega_and_gradients(cell, params, xs, loss, form)
    np.testing.assert_allclose(got, numpy_omega(w_hh, slopes, errors, form), rtol=1e-12)
    # The gradient is that of the formula with h_k and dE/dh_k held.
    ahead = numpy_omega(w_hh + 1e-6 * direction, slopes, errors, form)
    behind = numpy_omega(w_hh - 1e-6 * direction, slopes, errors, form)
    wanted = (ahead - behind) / 2e-6
    np.testing.assert_allclose(np.sum(gradient["w_hh"] * direction), wanted, rtol=1e-6)


def test_omega_is_the_authors_formula(x64, key):
    # Batch mean, sum over time, over the number of steps that count: their order of operations.
    cell, params, xs = problem(key, double())
    slopes, errors = frozen(params, xs, first_three)
    before = (((errors * slopes) @ np.asarray(params["w_hh"]).T) ** 2).sum(2)
    norm2 = (errors**2).sum(2)
    counts = norm2 >= 1e-20
    ratios = np.where(counts, before / np.where(counts, norm2, 1), 1)
    wanted = ((ratios - 1) ** 2).mean(1).sum() / counts.mean(1).sum()
    assert counts.sum() == 3 * B
    got = omega(cell, params, xs, first_three)
    np.testing.assert_allclose(got, wanted, rtol=1e-12)
    np.testing.assert_allclose(omega(cell, params, xs[:3], loss), wanted, rtol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_omega_of_an_orthogonal_linear_network_is_zero(x64, key, form):
    cell, params, xs = problem(key, double("identity"), scale=1.0)
    value, (gradient, _) = omega_and_gradients(cell, params, xs, loss, form)
    assert value < 1e-26
    np.testing.assert_allclose(gradient["w_hh"], 0, atol=1e-13)
    doubled = {**params, "w_hh": 2 * params["w_hh"]}
    ratio = 2.0 if form == "ratio" else 4.0
    got, _ = omega_and_gradients(cell, doubled, xs, loss, form)
    np.testing.assert_allclose(got, (ratio - 1) ** 2, rtol=1e-12)


CELLS = [
    lj.LSTM(H, param_dtype="float64"),
    lj.GRU(H, param_dtype="float64"),
    lj.GRU(H, reset_after=False, param_dtype="float64"),
]


@functools.partial(jax.jit, static_argnums=0)
def explicit(cell, params, xs):
    """dE/dx_1 .. dE/dx_T [T, B, N] and step Jacobians [T, B, N, N] of the whole carry, N its size.

    The errors by adding zeros to every carry, the Jacobians by autodiff of `step`.
    """

    def run(zeros):
        def body(carry, inputs):
            x, zero = inputs
            carry = jax.tree.map(jnp.add, cell.step(params, carry, x)[0], zero)
            return carry, carry

        return jax.lax.scan(body, first, (xs, zeros))[1]

    first = cell.initial_carry(params, (B,))
    zeros = jax.tree.map(lambda leaf: jnp.zeros((T, *leaf.shape), leaf.dtype), first)
    errors = jax.grad(lambda zeros: loss(run(zeros).h))(zeros)
    before = jax.tree.map(lambda x, xs: jnp.concatenate([x[None], xs[:-1]]), first, run(zeros))
    one = jax.jacrev(lambda carry, x: cell.step(params, carry, x)[0])
    jacobians = jax.vmap(jax.vmap(one))(before, xs)
    rows = [jnp.concatenate(list(row), axis=-1) for row in jacobians]
    return jnp.concatenate(list(errors), axis=-1), jnp.concatenate(rows, axis=-2)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: type(cell).__name__)
def test_omega_of_any_cell_is_that_of_its_whole_carry(x64, key, cell):
    cell, params, xs = problem(key, cell)
    errors, jacobians = map(np.asarray, explicit(cell, params, xs))
    before = np.einsum("tbi,tbij->tbj", errors, jacobians)
    ratios = (before**2).sum(-1) / (errors**2).sum(-1)
    got = omega_and_gradients(cell, params, xs, loss)[0]
    np.testing.assert_allclose(got, np.mean((ratios - 1) ** 2), rtol=1e-10)


# ------------------------------------------------------------------------- omega, its gradient


@pytest.mark.grid
def test_omega_gradient_of_an_lstm_holds_the_gates_fixed(x64, key, rng):
    # With the Jacobians of `update` held, dx_{k+1}/dx_k is a matrix linear in W: explicit in NumPy.
    cell, params, xs = problem(key, CELLS[0])
    errors = np.asarray(explicit(cell, params, xs)[0])
    _, carries = lj.unroll(cell, params, xs, return_carries=True)
    before = jax.tree.map(lambda x: jnp.concatenate([jnp.zeros((1, B, H)), x[:-1]]), carries)
    update = jax.jit(jax.vmap(jax.vmap(jax.jacrev(cell.update, argnums=(0, 2)))))
    rows = update(before, cell.project(params, xs), before.h @ params["w_hh"])

    def value(w_hh):
        blocks = [[np.asarray(by.h + by_u @ w_hh.T), np.asarray(by.c)] for by, by_u in rows]
        back = np.einsum("tbi,tbij->tbj", errors, np.block(blocks))
        return np.mean(((back**2).sum(-1) / (errors**2).sum(-1) - 1) ** 2)

    got, (gradient, _) = omega_and_gradients(cell, params, xs, loss)
    w_hh, direction = np.asarray(params["w_hh"]), rng.standard_normal((H, 4 * H))
    np.testing.assert_allclose(got, value(w_hh), rtol=1e-10)
    wanted = (value(w_hh + 1e-6 * direction) - value(w_hh - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(np.sum(gradient["w_hh"] * direction), wanted, rtol=1e-6)


@pytest.mark.parametrize("cell", [double(), *CELLS], ids=lambda cell: type(cell).__name__)
def test_omega_gradient_reaches_the_recurrent_weights_alone(x64, key, cell):
    cell, params, xs = problem(key, cell)
    _, (by_params, by_xs) = omega_and_gradients(cell, params, xs, loss)
    assert np.abs(by_params.pop("w_hh")).max() > 1e-3
    for leaf in jax.tree.leaves((by_params, by_xs)):
        assert not np.any(leaf)


@pytest.mark.grid
def test_omega_gradient_does_not_reach_the_readout(key):
    cell, params, xs = problem(key)

    def penalty(readout, scale):
        weights = {**params, "w_hh": scale * params["w_hh"]}
        return regularizers.omega(cell, weights, xs, lambda ys: loss(ys * readout[None, None]))

    by_readout, by_scale = jax.jit(jax.grad(penalty, argnums=(0, 1)))(jnp.ones(H), 1.0)
    assert not np.any(by_readout)
    assert by_scale != 0


@pytest.mark.grid
@pytest.mark.parametrize("form", FORMS)
def test_omega_without_error_or_without_recurrence_is_finite(key, form):
    cell, params, xs = problem(key)
    no_recurrence = {**params, "w_hh": jnp.zeros((H, H))}
    value, (gradient, _) = omega_and_gradients(cell, no_recurrence, xs, loss, form)
    assert value == 1  # Nothing comes back: (0 - 1)^2.
    assert np.isfinite(gradient["w_hh"]).all()
    mask = jnp.zeros((T, B), bool)
    value, (gradient, _) = omega_and_gradients(cell, params, xs, loss, form, mask=mask)
    assert value == 0
    assert not np.any(gradient["w_hh"])


# ------------------------------------------------------------------------- omega, which steps count


def test_errors_count_whatever_their_size(key):
    cell, params, xs = problem(key)

    @jax.jit
    def penalty(size):
        return regularizers.omega(cell, params, xs, lambda ys: size * loss(ys))

    # Squares of 1e30 overflow float32; NaN is not taken for a step without error.
    np.testing.assert_allclose(penalty(1e30), penalty(1.0), rtol=1e-4)
    assert penalty(1e-12) == 0
    assert np.isnan(penalty(np.nan))


def test_padding_does_not_count(x64, key):
    cell, params, xs = problem(key, double())
    lengths = jnp.array([T, 3, 0])
    mask = jnp.arange(T)[:, None] < lengths[None]
    padded = jnp.where(mask[..., None], xs, jnp.nan)
    value, (by_params, _) = omega_and_gradients(
        cell, params, padded, any_batch, seq_lengths=lengths
    )
    long = omega(cell, params, xs[:, 0], any_batch)
    short = omega(cell, params, xs[:3, 1], any_batch)
    np.testing.assert_allclose(value, (T * long + 3 * short) / (T + 3), rtol=1e-12)
    assert np.isfinite(by_params["w_hh"]).all()
    np.testing.assert_allclose(omega(cell, params, padded, any_batch, mask=mask), value, rtol=1e-12)


@pytest.mark.grid
def test_a_gap_is_left_out_as_if_it_were_not_there(x64, key):
    cell, params, xs = problem(key, double())
    keep = jnp.array([0, 1, 4, 5, 6])
    mask = jnp.zeros((T, B), bool).at[keep].set(True)
    got = omega(cell, params, xs, any_batch, mask=mask)
    np.testing.assert_allclose(got, omega(cell, params, xs[keep], any_batch), rtol=1e-12)


def test_the_first_carry_is_where_it_starts(x64, key):
    cell, params, xs = problem(key, double())
    carry, _ = lj.unroll(cell, params, xs[:4])
    slopes, errors = frozen(params, xs, last)
    wanted = numpy_omega(np.asarray(params["w_hh"]), slopes[4:], errors[4:], "squared_ratio")
    got = omega(cell, params, xs[4:], last, carry=carry)
    np.testing.assert_allclose(got, wanted, rtol=1e-12)


@pytest.mark.grid
def test_omega_under_vmap_and_with_any_batch(x64, key):
    cell, params, xs = problem(key, double())
    each = jnp.stack([omega(cell, params, xs[:, b], any_batch) for b in range(B)])
    batched = jax.vmap(lambda xs: omega(cell, params, xs, any_batch), in_axes=1)(xs)
    np.testing.assert_allclose(batched, each, rtol=1e-12)
    np.testing.assert_allclose(omega(cell, params, xs, any_batch), each.mean(), rtol=1e-12)
    more = omega(cell, params, xs[:, :, None], any_batch)
    np.testing.assert_allclose(more, each.mean(), rtol=1e-12)


@pytest.mark.grid
def test_omega_keeps_the_gradient_from_vanishing(key):
    # A small tanh network of the paper: descent on the penalty alone pulls the ratio towards 1.
    cell = lj.RNN(20, w_hh_init=lj.initializers.normal(0.1))
    params = cell.init(key, D)
    xs = jax.random.normal(jax.random.fold_in(key, 1), (30, 8, D))

    def body(params, _):
        value, (gradient, _) = omega_and_gradients(cell, params, xs, last)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient), value

    _, values = jax.lax.scan(body, params, None, 300)
    assert values[0] > 0.5
    assert values[-1] < 0.2 * values[0]


def test_omega_checks_its_form(key):
    cell, params, xs = problem(key)
    with pytest.raises(ValueError, match="form: got 'cubed', wanted one of 'squared_ratio'"):
        regularizers.omega(cell, params, xs, loss, form="cubed")
