"""Every diagnostic on every kind of cell and net: one step, ten thousand, 16 bits, jit and vmap.

Keep gates near one and small weights make gradients vanish slowly: within the range of float64
after 10,000 steps, so that a plain loop can follow, and far beyond that of float32. What the
diagnostics compute in float32, compiled, for several seeds at once, is held against that loop, or
against themselves in float64 where other tests hold that against closed forms.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
from jax import lax

import lstm_jax as lj
from lstm_jax import diagnostics
from lstm_jax._layers import Bidirectional, Readout, Stack
from lstm_jax.initializers import forget_bias

D, H, SEEDS, LONG, KEEP = 2, 3, 2, 10_000, 3.0


def lstm():
    return lj.LSTM(H, b_init=forget_bias(KEEP))


NETS = {
    "lstm": lstm,
    "gru": lambda: lj.GRU(H),
    "rnn": lambda: lj.RNN(H),
    "users": lambda: registry.Memory(H),
    "zoneout": lambda: lj.zoneout(lstm(), 0.2, 0.1),
    "stack": lambda: lj.readout(lj.stack(lstm(), lj.GRU(H)), 1),
    "bidirectional": lambda: lj.bidirectional(lstm(), lj.GRU(H)),
}


def started(net, key):
    """Parameters with which states are kept for tens of steps."""
    return slow(net.init(key, D), key)


def slow(params, key):
    if not isinstance(params, dict):
        return params
    if "w_hh" not in params:
        return {name: slow(part, key) for name, part in params.items()}
    block = jnp.arange(params["w_hh"].shape[1]) // H
    new = params | {name: 0.1 * params[name] for name in ("w_ih", "w_hh")}
    if block.size == H:
        new["w_hh"] = 0.97 * jnp.linalg.qr(jax.random.normal(key, (H, H)))[0]
    keeps = 0 if "p" in params else 1 if "b_hn" in params else None
    if keeps is not None:
        new["b"] = params["b"] + jnp.where(block == keeps, KEEP, 0.0)
    return new


def inputs(steps):
    return jnp.asarray(np.random.default_rng(0).standard_normal((steps, D)), jnp.float32)


def loss(ys):
    """A loss on what each direction says last."""
    ends = ys[-1, :H], ys[0, H:]
    return sum(jnp.sum(jnp.sin(1 + y)) for y in ends).astype(jnp.float32)


def wide(tree):
    return registry.cast(tree, np.float64)


# ---- a plain loop --------------------------------------------------------------------------------
def plain(net, params, xs, added, reverse=False):
    """Outputs, with added[...] = (probe, change of w_hh) of each step in every cell."""
    if isinstance(net, Stack):
        for n, layer in enumerate(net.layers):
            xs = plain(layer, params[str(n)], xs, added[n], reverse)
        return xs
    if isinstance(net, Bidirectional):
        ys = plain(net.forward, params["forward"], xs, added.forward, reverse)
        back = plain(net.backward, params["backward"], xs, added.backward, not reverse)
        return jnp.concatenate([ys, back], -1)
    if isinstance(net, Readout):
        inner = plain(net.inner, params["inner"], xs, added, reverse)
        return inner @ params["w"] + params["b"][None]

    def step(carry, inputs):
        x, (probe, change) = inputs
        carry, _ = net.step({**params, "w_hh": params["w_hh"] + change}, carry, x)
        carry = jax.tree.map(jnp.add, carry, probe)
        return carry, net.output(params, carry)

    return lax.scan(step, net.initial_carry(params), (xs, added), reverse=reverse)[1]


def nothing(net, params, steps):
    """Zeros for `plain`, nested as a net's carry is."""
    if isinstance(net, Stack):
        parts = zip(net.layers, params.values(), strict=True)
        return tuple(nothing(layer, part, steps) for layer, part in parts)
    if isinstance(net, Bidirectional):
        ends = (nothing(getattr(net, end), params[end], steps) for end in ("forward", "backward"))
        return type(net.initial_carry(params))(*ends)
    if isinstance(net, Readout):
        return nothing(net.inner, params["inner"], steps)
    both = net.initial_carry(params), params["w_hh"]
    return jax.tree.map(lambda leaf: jnp.zeros((steps, *leaf.shape), leaf.dtype), both)


def by_loop(net, params, xs):
    """ln of the norms of dL/ds_t and of dW_t, in the order of the diagnostics' leaves."""
    added = nothing(net, params, len(xs))
    of_both = jax.jit(jax.grad(lambda added: loss(plain(net, params, xs, added))))(added)
    cells = jax.tree.leaves(of_both, is_leaf=lambda x: type(x) is tuple and hasattr(x[0], "h"))
    probes = [leaf for probe, _ in cells for leaf in jax.tree.leaves(probe)]
    return [list(map(log_norms, leaves)) for leaves in (probes, [change for _, change in cells])]


def log_norms(steps):
    rows = steps.reshape(len(steps), -1)
    size = jnp.max(jnp.abs(rows), axis=-1, keepdims=True)  # Squares would underflow.
    size = jnp.where(size == 0, 1, size)
    return np.asarray(jnp.log(jnp.linalg.norm(rows / size, axis=-1)) + jnp.log(size[:, 0]))


def compiled_for_seeds(function, net, dtype=jnp.float32, steps=LONG):
    """Run function(net, params, xs) for several seeds in one program."""
    xs = inputs(steps).astype(dtype)
    params = [registry.cast(started(net, key), dtype) for key in seeds()]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    found = jax.jit(jax.vmap(functools.partial(function, net), (0, None)))(stacked, xs)
    return params, xs, [jax.tree.map(lambda leaf, n=n: leaf[n], found) for n in range(SEEDS)]


def seeds():
    return jax.random.split(jax.random.key(1), SEEDS)


def norms(net, params, xs):
    return (
        diagnostics.gradient_norms_by_lag(net, params, xs, loss),
        diagnostics.weight_gradient_norms_by_lag(net, params, xs, loss),
    )


@pytest.mark.sampled
@pytest.mark.parametrize("steps", [1, LONG])
@pytest.mark.parametrize("name", list(NETS))
def test_gradients_by_lag_are_those_of_a_plain_loop(name, steps):
    net = NETS[name]()
    params, xs, seen = compiled_for_seeds(norms, net, steps=steps)
    for of_seed, found in zip(params, seen, strict=True):
        with jax.enable_x64(True):
            wanted = by_loop(net, wide(of_seed), wide(xs))
        for leaves, want in zip(found, wanted, strict=True):
            for a, b in zip(jax.tree.leaves(leaves), want, strict=True):
                assert steps == 1 or b.min() < -90  # Beyond float32.
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=3e-3)


# ---- float32 against float64 ---------------------------------------------------------------------
def by_path(net, params, xs):
    """Of the leaf that keeps most: a leaf far below another of its step is -inf."""
    norms = diagnostics.gradient_norms_by_path(net, params, xs, loss)
    return [carry[-1] for carry in jax.tree.leaves(norms, is_leaf=lambda x: hasattr(x, "h"))]


def gates(net, params, xs):
    return diagnostics.gate_statistics(net, params, xs), diagnostics.gates(net, params, xs)


def omega(net, params, xs):
    return lj.regularizers.omega(net, params, xs, loss)


def spectra(net, params, xs):
    """The leading ones: of a carry whose h is a function of m, the others are rounding."""
    given = net, params, xs
    logs = diagnostics.jacobian_product_singular_values(*given, every=len(xs))
    found = [logs, diagnostics.leading_singular_values(*given, count=1)]
    if len(xs) > 1:  # One step tells of its first frame, which is random.
        found.append(diagnostics.lyapunov_spectrum(*given))
    leading = [
        getattr(x, "exponents", getattr(x, "logs", x))
        for x in jax.tree.leaves(found, is_leaf=is_result)
    ]
    return [x[..., :H] for x in leading]


def is_result(x):
    return hasattr(x, "exponents") or hasattr(x, "logs")


def jacobians(net, params, xs):
    return diagnostics.step_jacobian(net, params, net.initial_carry(params), xs[0])


def points(net, params, xs):
    found = diagnostics.fixed_points(net, params, xs[0], net.initial_carry(params, (2,)))
    return found.fixed, found.radius, found.carry


REST = {
    "by path": by_path,
    "gates": gates,
    "omega": omega,
    "spectra": spectra,
    "step jacobian": jacobians,
    "fixed points": points,
}
SENSELESS = {
    ("users", "gates"),  # Its gates are the user's to tell.
    ("bidirectional", "step jacobian"),  # Two directions have no common step.
    ("bidirectional", "fixed points"),
}


def pairs(names, slow):
    """Every net with every diagnostic, those of `slow` for the slow tests."""
    return [
        pytest.param(net, what, marks=pytest.mark.slow if what in slow else pytest.mark.grid)
        for net in NETS
        for what in names
        if (net, what) not in SENSELESS
    ]


@pytest.mark.parametrize("steps", [pytest.param(1, marks=pytest.mark.slow), LONG])
@pytest.mark.parametrize(("name", "what"), pairs(REST, ["spectra"]))
def test_float32_follows_float64(name, what, steps):
    net, function = NETS[name](), REST[what]
    params, xs, seen = compiled_for_seeds(function, net, steps=steps)
    for of_seed, found in zip(params, seen, strict=True):
        with jax.enable_x64(True):
            run = jax.jit(functools.partial(function, net))
            wanted = jax.device_get(run(wide(of_seed), wide(xs)))
        assert_close(found, wanted, rtol=2e-4, atol=3e-3)


@pytest.mark.parametrize(("name", "what"), pairs(["norms", *REST], REST))
def test_16_bits_follow_float32(name, what):
    net, function = NETS[name](), (REST | {"norms": norms})[what]
    if what == "gates":  # Without the shares of saturated units, which are counts.
        function = diagnostics.gates
    params, xs, seen = compiled_for_seeds(function, net, jnp.bfloat16, steps=8)
    for of_seed, found in zip(params, seen, strict=True):
        exact = registry.cast((of_seed, xs), np.float32)
        wanted = jax.jit(functools.partial(function, net))(*exact)
        assert_close(registry.cast(found, np.float32), wanted, rtol=0.02, atol=0.02)


def assert_close(found, wanted, **tolerances):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, **tolerances)
