"""Decompositions of batches of matrices: against NumPy, in derivatives, and without a deadlock."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.test_util import check_grads

from lstm_jax import _linalg, diagnostics, regularizers

GRID = pytest.mark.grid
SHAPES = [(3, 3), (2, 5, 3), (2, 3, 4, 4), (0, 0), (2, 0, 3)]


@pytest.fixture(autouse=True)
def _x64(x64):
    """float64 throughout."""


def drawn(rng, shape):
    return jnp.asarray(rng.standard_normal(shape))


def near(seen, wanted, tolerance=1e-13):
    np.testing.assert_allclose(seen, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", SHAPES)
def test_decompositions_give_the_matrix_again(shape, rng):
    a = drawn(rng, shape)
    q, r = _linalg.qr(a)
    near(q @ r, a)
    near(jnp.tril(r, -1), np.zeros(r.shape))
    u, s, vt = _linalg.svd(a)
    near((u * s[..., None, :]) @ vt, a)
    near(_linalg.singular_values(a), s)


def test_eigenvalues_are_numpys(rng):
    a = drawn(rng, (3, 4, 4))
    near(np.sort_complex(_linalg.eigenvalues(a)), np.sort_complex(np.linalg.eigvals(a)))


@pytest.mark.parametrize("vmapped", [False, True])
def test_solve_solves(vmapped, rng):
    a, b = drawn(rng, (2, 3, 4, 4)), drawn(rng, (2, 3, 4, 2))
    solve = jax.vmap(_linalg.solve) if vmapped else _linalg.solve
    near(a @ solve(a, b), b, 1e-11)


@pytest.mark.parametrize("norm", [0.0, 1e-3, 0.5, 3.0, 100.0])
def test_expm_is_scipys(norm, rng):
    x = rng.standard_normal((2, 5, 5))
    x = norm * (x - np.swapaxes(x, 1, 2)) / np.abs(x).sum(1).max()
    near(_linalg.expm(jnp.asarray(x)), scipy.linalg.expm(x), 1e-12)
    near(_linalg.expm(jnp.asarray(x, jnp.float32)), scipy.linalg.expm(x), 2e-5 * max(norm, 1))


def test_expm_of_a_huge_matrix_is_nan():
    assert jnp.isnan(_linalg.expm(jnp.full((2, 2), 1e6))).all()


@pytest.mark.parametrize("function", [_linalg.singular_values, _linalg.expm])
@pytest.mark.parametrize("modes", [["fwd"], ["rev"]])
def test_derivatives_over_a_batch_and_vmap(function, modes, rng):
    check_grads(jax.vmap(function), (drawn(rng, (2, 2, 3, 3)),), order=1, modes=modes)


def rebuilt(a):
    """A function of U, s and V that does not depend on their signs."""
    u, s, vt = _linalg.svd(a)
    return (u * jnp.sin(s)[..., None, :]) @ jnp.cos(vt * vt[..., :1])


SECOND = {
    "svd": rebuilt,
    "margin": lambda a: regularizers.singular_value_margin(a, 0.1),
    "clip": lambda a: regularizers.clip_singular_values(a, 0.5, 1.2),
    "spectral_norm": diagnostics.spectral_norm,
}


@pytest.mark.parametrize(
    ("name", "shape"),
    [("margin", (2, 2))]
    + [pytest.param(name, (2, 4), marks=GRID) for name in ("clip", "spectral_norm")]
    + [pytest.param("svd", shape, marks=GRID) for shape in ((3, 2), (2, 2, 3), (1, 1))],
)
def test_second_derivatives(name, shape, rng):
    check_grads(jax.jit(SECOND[name]), (drawn(rng, shape),), order=2)


def test_equal_singular_values_have_a_gradient():
    seen = jax.grad(lambda w: regularizers.singular_value_margin(w, 0.0))(2 * jnp.eye(3))
    near(seen, 2 * np.eye(3))


@pytest.mark.parametrize("modes", [["fwd"], ["rev"]])
def test_derivatives_of_solutions(modes, rng):
    a, b = drawn(rng, (2, 2, 3, 3)), drawn(rng, (2, 2, 3, 2))
    check_grads(jax.vmap(_linalg.solve), (a + 3 * jnp.eye(3)[None, None], b), order=1, modes=modes)


DEADLOCK = """
import os
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
import jax, jax.numpy as jnp, lstm_jax as lj
from lstm_jax.regularizers import NearOrthogonal, singular_value_margin
net = lj.stack(lj.LSTM(32), lj.LSTM(32))
{kept}
def loss(params):
    return {loss}
@jax.jit
@jax.vmap
def of_seed(key):
    return jax.grad(loss)({free}(net.init(key, 32)))
for seed in range(40):
    jax.block_until_ready(of_seed(jax.random.split(jax.random.key(seed), 12)))
print("done")
"""
TREES = "sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves({}))"
PROGRAMS = {
    "starts": {"kept": "", "free": "", "loss": TREES.format("params")},
    "margin": {
        "kept": "",
        "free": "",
        "loss": "sum(singular_value_margin(layer['w_hh'], 0.1) for layer in params.values())",
    },
}
for name in ("exp", "cayley"):
    PROGRAMS[name] = {
        "kept": f"kept = NearOrthogonal(map={name!r})",
        "free": "kept.free",
        "loss": TREES.format("kept.weights(params)"),
    }


@pytest.mark.skipif(sys.platform != "linux", reason="pins itself to two cores")
@pytest.mark.parametrize(
    "name", ["starts", *(pytest.param(name, marks=GRID) for name in ("exp", "cayley", "margin"))]
)
def test_layers_and_seeds_on_two_cores_end(name):
    """With jnp.linalg the operations of two layers waited for each other's threads, for ever."""
    code = DEADLOCK.format(**PROGRAMS[name])
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=True)
    assert done.stdout == "done\n"
