"""RNN, LSTM and both GRUs against NumPy loops and against torch, values and gradients.

The NumPy loops are the equations of the docstrings, written a second time; the gradient is held to
central differences of the same loops along random directions.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
from registry import CASES

import lstm_jax as lj

pytestmark = pytest.mark.sampled

SIZES = (1, 3, 17, 64)
# Every T, B, D, H once alone with its equals, and once in a row of a Latin square.
SHAPES = [tuple(SIZES[i ^ (j * k)] for k in range(4)) for j in (0, 1) for i in range(4)]
ALL = list(itertools.product(SIZES, repeat=4))


def shapes(default=SHAPES):
    """All 256, those that are not in `default` slow."""
    marks = {shape: () if shape in default else pytest.mark.slow for shape in ALL}
    return [pytest.param(s, id="x".join(map(str, s)), marks=mark) for s, mark in marks.items()]


LATIN = [pytest.param(s, id="x".join(map(str, s))) for s in SHAPES[4:]]


# ---- the equations, in NumPy ---------------------------------------------------------------------
def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def rnn(f):
    def step(p, carry, x):
        return (f(x @ p["w_ih"] + carry[0] @ p["w_hh"] + p["b"]),)

    return step


def lstm(p, carry, x):
    h, c = carry
    i, f, g, o = np.split(x @ p["w_ih"] + h @ p["w_hh"] + p["b"], 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru(reset_after):
    def step(p, carry, x):
        (h,) = carry
        x_r, x_z, x_n = np.split(x @ p["w_ih"] + p["b"], 3, axis=-1)
        w_r, w_z, w_n = np.split(p["w_hh"], 3, axis=-1)
        r, z = sigmoid(x_r + h @ w_r), sigmoid(x_z + h @ w_z)
        n = np.tanh(x_n + (r * (h @ w_n + p["b_hn"]) if reset_after else (r * h) @ w_n))
        return ((1 - z) * n + z * h,)

    return step


EQUATIONS = {
    "rnn_tanh": rnn(np.tanh),
    "rnn_relu": rnn(lambda x: np.maximum(x, 0)),
    "rnn_identity": rnn(lambda x: x),
    "rnn_callable": rnn(np.sin),
    "lstm": lstm,
    "gru": gru(reset_after=True),
    "gru_reset_before": gru(reset_after=False),
}


def numpy_unroll(name, params, xs, carry):
    ys = []
    for x in xs:
        carry = EQUATIONS[name](params, carry, x)
        ys.append(carry[0])
    return carry, np.stack(ys)


# ---- the problem: a weighted sum of every output and of the final carry --------------------------
def problem(case, shape, rng):
    """(cell, (params, xs, carry), weights of the loss), in float64."""
    steps, batch, size, hidden = shape
    cell = case.make(hidden)
    params = registry.random_params(cell, size, rng)
    if hidden == 1:  # A scalar above one amplifies rounding by itself, step by step.
        params["w_hh"] = np.clip(params["w_hh"], -1, 1)
    carry = registry.random_carry(cell, params, (batch,), rng)
    xs = rng.standard_normal((steps, batch, size))
    weights = registry.normal((tuple(carry), np.zeros((steps, batch, hidden))), rng, batch**-0.5)
    return cell, (params, xs, carry), weights


def value_and_grads(cell, implementation, weights):
    """Jitted: (params, xs, carry) -> ((final carry, ys), gradients of the weighted sum)."""

    def loss(args):
        params, xs, carry = args
        outs = lj.unroll(cell, params, xs, carry, implementation=implementation)
        outs = (tuple(outs[0]), outs[1])
        products = jax.tree.map(
            lambda w, out: jnp.vdot(jnp.asarray(w, out.dtype), out), weights, outs
        )
        return sum(jax.tree.leaves(products)), outs

    return jax.jit(jax.grad(loss, has_aux=True))


def central_difference(loss, args, direction, smooth):
    """(f(x + e v) - f(x - e v)) / 2e; of smooth functions with the next term eliminated.

    A kink that lies between the two points spoils it, so without smoothness they stay close, at
    the price of rounding; `near` knows.
    """

    def at(eps):
        ends = [
            loss(jax.tree.map(lambda a, v, e=e: a + e * v, args, direction)) for e in (eps, -eps)
        ]
        return (ends[0] - ends[1]) / (2 * eps)

    return (4 * at(5e-5) - at(1e-4)) / 3 if smooth else at(1e-8)


def near(wanted, smooth):
    tol = 1e-6 if smooth else 1e-4
    return pytest.approx(wanted, rel=tol, abs=tol)


def directions(args, rng):
    """A random direction in params, in xs, in the carry, at their scale; zero in the others."""
    zeros = jax.tree.map(np.zeros_like, args)
    moves = jax.tree.map(np.multiply, args, registry.normal(args, rng))
    for place in range(3):
        yield (*zeros[:place], moves[place], *zeros[place + 1 :])


def every_implementation():
    """The default implementation at all shapes; the others, which `test_modes` holds to the same
    numbers, at the rows of the Latin square."""
    return [
        pytest.param(
            case, name, *shape.values, id=f"{case.name}-{name}-{shape.id}", marks=shape.marks
        )
        for case, name in registry.GRID
        if case.name in EQUATIONS and name in case.sampled
        for shape in (shapes() if name == case.default else LATIN)
    ]


@pytest.mark.parametrize(("case", "implementation", "shape"), every_implementation())
def test_numpy(case, implementation, shape, rng, x64):
    cell, args, weights = problem(case, shape, rng)
    final, ys = numpy_unroll(case.name, *args)
    grads, outs = value_and_grads(cell, implementation, weights)(args)
    registry.assert_close(outs, (tuple(final), ys), 1e-12)

    def loss(args):
        return registry.directional(numpy_unroll(case.name, *args), weights)

    for direction in directions(args, rng):
        wanted = central_difference(loss, args, direction, case.smooth)
        assert registry.directional(grads, direction) == near(wanted, case.smooth)


@registry.cells(registry.EXACT)
def test_the_reference_has_the_gradient_of_central_differences(case, rng, x64):
    """With masks and resets, for every cell: what the other files hold everything else to."""
    steps, batch, size, hidden = 7, 3, 2, 4
    cell, args, _ = problem(case, (steps, batch, size, hidden), rng)
    valid, resets = rng.random((steps, batch)) < 0.7, rng.random((steps, batch)) < 0.3

    @jax.jit
    @jax.value_and_grad
    def loss(args):
        carry, ys = lj.unroll(cell, *args, mask=valid, resets=resets, implementation="scan")
        return jnp.sum(jnp.sin(ys)) + sum(jnp.sum(leaf**2) for leaf in carry)

    _, grads = loss(args)
    for direction in directions(args, rng):
        wanted = central_difference(lambda args: float(loss(args)[0]), args, direction, case.smooth)
        assert registry.directional(grads, direction) == near(wanted, case.smooth)


# ---- torch ---------------------------------------------------------------------------------------
def torch_layer(torch, name, params):
    """torch.nn's layer with the same weights: rows for columns, the bias in two parts."""
    size, hidden = params["w_ih"].shape[0], params["w_hh"].shape[0]
    layer = {
        "rnn_tanh": lambda: torch.nn.RNN(size, hidden),
        "rnn_relu": lambda: torch.nn.RNN(size, hidden, nonlinearity="relu"),
        "lstm": lambda: torch.nn.LSTM(size, hidden),
        "gru": lambda: torch.nn.GRU(size, hidden),
    }[name]()
    share = np.linspace(0.2, 0.8, params["b"].size)
    b_hh = share * params["b"]
    b_ih = params["b"] - b_hh
    if "b_hn" in params:  # torch keeps the n parts of its two biases apart, as b_hn does
        b_ih[2 * hidden :], b_hh[2 * hidden :] = params["b"][2 * hidden :], params["b_hn"]
    weights = (params["w_ih"].T, params["w_hh"].T, b_ih, b_hh)
    with torch.no_grad():
        for parameter, weight in zip(layer.parameters(), weights, strict=True):
            parameter.copy_(torch.tensor(weight))
    return layer


def torch_gradients(layer, params):
    """The layer's gradients under our names. Each of torch's two biases has that of the sum."""
    w_ih, w_hh, b_ih, b_hh = (p.grad.numpy() for p in layer.parameters())
    grads = {"w_ih": w_ih.T, "w_hh": w_hh.T, "b": b_ih}
    if "b_hn" in params:
        grads["b_hn"] = b_hh[2 * params["w_hh"].shape[0] :]
    return grads


@pytest.mark.grid
@pytest.mark.parametrize("shape", shapes())
@pytest.mark.parametrize("name", ["rnn_tanh", "rnn_relu", "lstm", "gru"])
def test_torch(name, shape, rng):
    torch = pytest.importorskip("torch")
    cell, args, weights = problem(CASES[name], shape, rng)
    grads, (carry, ys) = value_and_grads(cell, None, weights)(registry.cast(args, jnp.float32))

    params, *given = args
    xs, *states = (
        torch.tensor(a, dtype=torch.float32, requires_grad=True) for a in (given[0], *given[1])
    )
    hx = tuple(state[None] for state in states)
    torch.set_num_threads(1)
    layer = torch_layer(torch, name, params)
    outs, final = layer(xs, hx if name == "lstm" else hx[0])
    final = final if name == "lstm" else (final,)
    wanted = (tuple(state[0] for state in final), outs)
    registry.assert_close((carry, ys), jax.tree.map(lambda t: t.detach().numpy(), wanted), 1e-5)

    flat = zip((*wanted[0], outs), (*weights[0], weights[1]), strict=True)
    sum((out * torch.tensor(w, dtype=torch.float32)).sum() for out, w in flat).backward()
    registry.assert_close(grads[0], torch_gradients(layer, params), 1e-5)
    seen = (grads[1], *grads[2])
    registry.assert_close(seen, tuple(t.grad.numpy() for t in (xs, *states)), 1e-5)
