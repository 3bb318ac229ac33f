"""Fixed and slow points: closed forms, published bifurcations, nets and wrappers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry

import lstm_jax as lj
from lstm_jax import diagnostics

pytestmark = pytest.mark.sampled

# One object, so that tests of one cell and one shape share what was compiled.
fixed_points = jax.jit(diagnostics.fixed_points, static_argnums=0, static_argnames="steps")
SIGMOID = lj.RNN(1, jax.nn.sigmoid)


def found(points):
    """The entries of the distinct points, in the order of the first number of their carries."""
    points = jax.tree.map(lambda leaf: np.asarray(leaf)[points.distinct], points)
    order = np.argsort(jax.tree.leaves(points.carry)[0][:, 0])
    return jax.tree.map(lambda leaf: leaf[order], points)


def neuron(w, b=0.0, dtype: type = np.float64):
    return {"w_ih": np.zeros((1, 1), dtype), "w_hh": np.full((1, 1), w, dtype), "b": dtype(b)[None]}


def on_a_line(low, high, dtype=np.float64):
    return lj.State(jnp.linspace(low, high, 12, dtype=dtype)[:, None])


NONE = np.zeros(1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_latch_has_two_stable_points_and_an_unstable_one(dtype):
    """Bengio, Simard & Frasconi (1994): w = 1.25, x* = 0.710412, slope 0.619144; at 0 it is w."""
    with jax.enable_x64(dtype is np.float64):
        seen = fixed_points(lj.RNN(1), neuron(1.25, 0.0, dtype), NONE, on_a_line(-1, 1, dtype))
    assert seen.speed.dtype == dtype and seen.fixed.all() and not seen.slow.any()
    seen = found(seen)
    np.testing.assert_allclose(seen.carry.h[:, 0], [-0.710412, 0, 0.710412], atol=6e-7)
    np.testing.assert_allclose(seen.eigenvalues[:, 0], [0.619144, 1.25, 0.619144], atol=6e-7)
    np.testing.assert_array_equal(seen.unstable, [0, 1, 0])
    assert np.all(seen.steps <= 8)


B_2, B_1 = -2.655610, -2.344390


@pytest.mark.parametrize(("b", "count"), [(B_1 + 1e-3, 1), (B_1 - 1e-3, 3), (B_2 + 1e-3, 3)])
def test_a_sigmoid_neuron_is_bistable_between_its_bifurcations(b, count, x64):
    """Doya (1993), Pascanu et al. (2013) figure 3: w = 5; outside a slow point is what remains."""
    seen = fixed_points(SIGMOID, neuron(5.0, b), NONE, on_a_line(0, 1))
    assert np.all(seen.fixed | seen.slow)
    seen = found(seen)
    assert seen.fixed.sum() == count
    if count == 3:
        np.testing.assert_array_equal(seen.unstable, [0, 1, 0])
        return
    (slow,) = np.flatnonzero(seen.slow)
    # Where 5 sigma (1 - sigma) = 1, F is smallest; there the slope of the step is 1.
    np.testing.assert_allclose(seen.carry.h[slow], 0.27639, atol=1e-3)
    np.testing.assert_allclose(seen.radius[slow], 1, atol=1e-6)
    assert 0 < seen.speed[slow] < 3e-4


@pytest.mark.grid
def test_a_linear_network_has_one(rng, x64):
    size, cell = 6, lj.RNN(6, "identity")
    w, b, w_ih = (
        0.5 * rng.standard_normal((size, size)),
        rng.standard_normal(size),
        np.ones((2, size)),
    )
    params = {"w_ih": jnp.asarray(w_ih), "w_hh": jnp.asarray(w), "b": jnp.asarray(b)}
    x, starts = jnp.asarray([0.3, -0.7]), lj.State(jnp.asarray(rng.standard_normal((4, size))))
    seen = fixed_points(cell, params, x, starts)
    wanted = np.linalg.solve(np.eye(size) - w.T, b + x @ w_ih)
    np.testing.assert_array_equal(seen.distinct, [True, False, False, False])
    np.testing.assert_allclose(seen.carry.h, np.tile(wanted, (4, 1)), rtol=1e-11)
    sizes = np.sort(np.abs(np.linalg.eigvals(w)))[::-1]
    np.testing.assert_allclose(np.abs(seen.eigenvalues[0]), sizes, rtol=1e-11)
    np.testing.assert_allclose(seen.radius, sizes[0], rtol=1e-11)
    np.testing.assert_array_equal(seen.unstable, np.sum(sizes > 1))


@pytest.mark.grid
def test_every_point_of_an_identity_is_fixed(rng, x64):
    """A = 0: the search stays where it starts, though Newton's equations are singular."""
    h = jnp.asarray(rng.standard_normal((3, 1)))
    seen = fixed_points(lj.RNN(1, "identity"), neuron(1.0), NONE, lj.State(h))
    np.testing.assert_array_equal(seen.carry.h, h)
    assert seen.fixed.all() and seen.distinct.all()
    np.testing.assert_array_equal(seen.radius, 1)


@pytest.mark.grid
def test_a_line_of_fixed_points_is_met(rng, x64):
    """W = v v^T / |v|^2 keeps one direction: of a start, its projection on the line is found."""
    size, v = 5, rng.standard_normal(5)
    v = v / np.linalg.norm(v)
    params = {
        "w_ih": jnp.zeros((1, size)),
        "w_hh": jnp.asarray(np.outer(v, v)),
        "b": jnp.zeros(size),
    }
    starts = rng.standard_normal((8, size))
    seen = fixed_points(lj.RNN(size, "identity"), params, NONE, lj.State(jnp.asarray(starts)))
    assert seen.fixed.all() and seen.distinct.all()
    np.testing.assert_allclose(seen.carry.h, np.outer(starts @ v, v), atol=1e-7)


@pytest.mark.grid
def test_a_gru_at_the_origin(rng, x64):
    """J = 0.5 I + 0.25 W_hh of the candidate, without inputs and biases (Kanai et al. 2017)."""
    size = 4
    params = jax.tree.map(jnp.zeros_like, lj.GRU(size).init(jax.random.key(0), 1))
    w = 3 * rng.standard_normal((size, size))
    params = registry.cast(params, np.float64) | {
        "w_hh": jnp.asarray(np.concatenate([rng.standard_normal((size, 2 * size)), w], axis=1))
    }
    start = lj.State(jnp.asarray(1e-3 * rng.standard_normal((1, size))))
    seen = fixed_points(lj.GRU(size), params, NONE, start)
    np.testing.assert_allclose(seen.carry.h, 0, atol=1e-13)
    wanted = 0.5 + 0.25 * np.linalg.eigvals(w)
    assert int(seen.unstable[0]) == np.sum(np.abs(wanted) > 1)
    np.testing.assert_allclose(
        np.sort_complex(seen.eigenvalues[0]), np.sort_complex(wanted), atol=1e-11
    )


def test_a_lstm_on_h_and_c(rng, x64):
    """Without recurrent weights c* = i g / (1 - f), h* = o tanh(c*); eigenvalues f and 0."""
    cell = lj.LSTM(2)
    params = registry.cast(cell.init(jax.random.key(0), 3), np.float64)
    params["w_hh"] = jnp.zeros_like(params["w_hh"])
    x = jnp.asarray(rng.standard_normal(3))
    start = lj.LSTMState(*(jnp.asarray(rng.standard_normal((5, 2))) for _ in range(2)))
    seen = fixed_points(cell, params, x, start)
    i, f, g, o = np.split(np.asarray(x @ params["w_ih"] + params["b"]), 4)
    i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
    c = i * np.tanh(g) / (1 - f)
    np.testing.assert_array_equal(seen.distinct, [True] + [False] * 4)
    np.testing.assert_allclose(seen.carry.c, np.tile(c, (5, 1)), rtol=1e-12)
    np.testing.assert_allclose(seen.carry.h, np.tile(o * np.tanh(c), (5, 1)), rtol=1e-12)
    np.testing.assert_allclose(seen.eigenvalues[0], [*np.sort(f)[::-1], 0, 0], atol=1e-12)


def lstm_with_points(rng, size=3):
    cell = lj.LSTM(size)
    params = registry.cast(registry.random_params(cell, 2, rng), np.float64)
    params["w_hh"] = 2.5 * params["w_hh"]
    draw = functools.partial(rng.standard_normal, (12, size))
    return cell, params, jnp.zeros(2), lj.LSTMState(jnp.tanh(draw()), jnp.asarray(draw()))


@pytest.mark.grid
def test_wrappers_and_nets_keep_the_points_of_a_cell(rng, x64):
    """Zoneout at one rate p: the Jacobian is p I + (1 - p) J. A readout and an embedding: as is."""
    cell, params, x, starts = lstm_with_points(rng)
    first = found(fixed_points(cell, params, x, starts))
    zoned = found(fixed_points(lj.zoneout(cell, 0.25, 0.25), params, x, starts))
    common = jax.tree.map(lambda leaf: leaf[first.fixed], first)
    ends = np.concatenate(zoned.carry, axis=1)[zoned.fixed]
    assert len(common.radius) and len(ends)
    points = np.concatenate(common.carry, axis=1)
    for point, jacobian_values in zip(points, common.eigenvalues, strict=True):
        near = np.flatnonzero(np.abs(ends - point).max(axis=1) < 1e-8)
        if near.size:
            mixed = np.sort_complex(0.25 + 0.75 * jacobian_values)
            own = np.sort_complex(zoned.eigenvalues[zoned.fixed][near[0]])
            np.testing.assert_allclose(own, mixed, atol=1e-7)
            break
    else:
        pytest.fail("no common point")
    net = lj.embedding(lj.readout(cell, 2), 4, 2)
    around = {"inner": {"inner": params, "w": jnp.ones((3, 2)), "b": jnp.zeros(2)}}
    around["e"] = jnp.zeros((4, 2))
    same = found(fixed_points(net, around, jnp.asarray(3), starts))
    registry.assert_close(jax.tree.leaves(same.carry), jax.tree.leaves(first.carry), 1e-9)
    np.testing.assert_allclose(same.radius, first.radius, atol=1e-7)


@pytest.mark.grid
def test_what_is_found_stays_and_has_the_jacobian_of_the_step(rng, x64):
    """Of a stack of two layers: the carry is that of both."""
    net = lj.stack(lj.GRU(3), lj.RNN(2))
    params = registry.cast(net.init(jax.random.key(1), 2), np.float64)
    params = jax.tree.map(lambda leaf: 1.5 * leaf, params)
    x = jnp.asarray(rng.standard_normal(2))
    starts = net.initial_carry(params, (6,))
    starts = jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape)), starts)
    seen = fixed_points(net, params, x, starts)
    assert seen.fixed.any()
    at = int(np.argmax(seen.fixed))
    point = jax.tree.map(lambda leaf: leaf[at], seen.carry)
    registry.assert_close(net.step(params, point, x)[0], point, 1e-13)
    wanted = np.linalg.eigvals(diagnostics.step_jacobian(net, params, point, x))
    np.testing.assert_allclose(
        np.abs(seen.eigenvalues[at]), np.sort(np.abs(wanted))[::-1], atol=1e-10
    )


@pytest.mark.grid
@registry.cells(dear=True)
def test_speed_and_eigenvalues_are_those_of_every_cells_step(case, rng, x64):
    """Wherever the search ends; and it goes downhill."""
    cell = case.make(3)
    params = registry.cast(registry.random_params(cell, 2, rng), np.float64)
    starts = registry.cast(registry.random_carry(cell, params, (4,), rng), np.float64)
    x = jnp.asarray(rng.standard_normal(2))
    seen = fixed_points(cell, params, x, starts, steps=50)

    def speed(carry):
        new = jax.vmap(lambda carry: cell.step(params, carry, x)[0])(carry)
        moved = jax.tree.map(jnp.subtract, new, carry)
        return jnp.linalg.norm(diagnostics.carry_to_vector(moved), axis=-1)

    np.testing.assert_allclose(jax.jit(speed)(seen.carry), seen.speed, atol=1e-13)
    assert np.all(seen.speed <= jax.jit(speed)(starts) + 1e-13)
    first = jax.tree.map(lambda leaf: leaf[0], seen.carry)
    wanted = np.abs(np.linalg.eigvals(diagnostics.step_jacobian(cell, params, first, x)))
    np.testing.assert_allclose(seen.radius[0], wanted.max(), rtol=1e-6)


@pytest.mark.grid
def test_inputs_are_batched_by_vmap(x64):
    params = neuron(5.0) | {"w_ih": np.ones((1, 1))}
    inputs = jnp.asarray([[-2.5], [-2.2], [-2.8]])
    many = jax.jit(
        jax.vmap(lambda x: diagnostics.fixed_points(SIGMOID, params, x, on_a_line(0, 1)))
    )
    seen = many(inputs)
    np.testing.assert_array_equal(np.sum(seen.distinct & seen.fixed, axis=1), [3, 1, 1])
    first = fixed_points(SIGMOID, params, inputs[0], on_a_line(0, 1))
    registry.assert_close(jax.tree.map(lambda leaf: leaf[0], seen.carry), first.carry, 1e-12)
    np.testing.assert_allclose(seen.eigenvalues[0], first.eigenvalues, rtol=1e-12)


@pytest.mark.grid
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_start_of_a_chaotic_network_converges(dtype, rng):
    """tanh(-s W) = -tanh(s W): the points come in pairs, besides the origin."""
    size, count = 24, 60
    w = 1.8 * rng.standard_normal((size, size)) / size**0.5
    starts = rng.standard_normal((count, size))
    starts = np.concatenate([starts, -starts])
    with jax.enable_x64(dtype is np.float64):
        params = {"w_ih": np.zeros((1, size)), "w_hh": w, "b": np.zeros(size)}
        params = registry.cast(params, dtype)
        seen = fixed_points(lj.RNN(size), params, NONE, lj.State(jnp.asarray(starts, dtype)))
    assert np.mean(seen.fixed | seen.slow) > 0.95
    np.testing.assert_array_equal(seen.fixed[:count], seen.fixed[count:])
    h = np.asarray(seen.carry.h)[np.asarray(seen.fixed)]
    step = np.tanh(h.astype(np.float64) @ w)
    assert np.max(np.abs(step - h)) < 1000 * np.finfo(dtype).eps


@pytest.mark.grid
def test_a_start_that_is_not_finite_finds_nothing(x64):
    starts = lj.State(jnp.asarray([[np.nan], [0.1]]))
    seen = fixed_points(lj.RNN(1), neuron(1.25), NONE, starts)
    np.testing.assert_array_equal(seen.fixed, [False, True])
    np.testing.assert_array_equal(seen.distinct, [False, True])
    assert not seen.slow[0] and np.isnan(seen.eigenvalues[0, 0]) and seen.steps[0] == 0


BOTH = lj.bidirectional(lj.RNN(1))


@pytest.mark.parametrize(
    ("cell", "start", "keywords", "match"),
    [
        (lj.RNN(1), lj.State(jnp.zeros(())), {}, r"starts: got shape \(\), wanted .*\[S, H\]"),
        (lj.RNN(1), lj.State(jnp.zeros(1)), {}, r"carry.h: got shape \(\)"),
        (lj.RNN(1), lj.State(jnp.zeros((2, 3, 1))), {}, r"carry.h: got shape \(3, 1\)"),
        (lj.RNN(1), lj.State(jnp.zeros((2, 1))), {"steps": 0}, "steps: got 0"),
        (lj.RNN(1), lj.State(jnp.zeros((2, 1))), {"tolerance": 0.0}, "tolerance: got 0.0"),
        (lj.RNN(1), lj.State(jnp.zeros((2, 1))), {"apart": -1}, "apart: got -1"),
    ],
)
def test_errors_name_the_argument(cell, start, keywords, match):
    with pytest.raises(ValueError, match=match):
        diagnostics.fixed_points(cell, neuron(1.0, 0.0, np.float32), NONE, start, **keywords)


def test_two_directions_have_no_fixed_point():
    params = BOTH.init(jax.random.key(0), 1)
    with pytest.raises(ValueError, match="cell: got a net with bidirectional layers"):
        diagnostics.fixed_points(BOTH, params, NONE, BOTH.initial_carry(params, (2,)))
