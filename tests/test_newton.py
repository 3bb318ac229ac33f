"""Newton's method over all steps: the loop's results where it converges; where not, it says so."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
from registry import CASES

import lstm_jax as lj
from lstm_jax import initializers
from lstm_jax._recurrence.engines import newton
from lstm_jax._recurrence.engines.newton import vectors

T, B, D, H = 24, 2, 2, 3


def problem(cell, rng, steps=T, dtype=jnp.float32):
    """(params, xs) without zeros, and options with gaps, padding and restarts."""
    params = registry.random_params(cell, D, rng)
    xs = rng.standard_normal((steps, B, D))
    flags = {"mask": rng.random((steps, B)) < 0.8, "resets": rng.random((steps, B)) < 0.1}
    return registry.cast((params, xs), dtype), flags


def gradient(cell, implementation, **options):
    """(params, xs) -> ((final carry, ys), gradient of a loss of them)."""

    def run(params, xs):
        outs = lj.unroll(cell, params, xs, implementation=implementation, **options)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(outs)), outs

    return jax.jit(jax.grad(run, argnums=(0, 1), has_aux=True))


# ---- where it converges --------------------------------------------------------------------------
def check_equality(cell, rng, reverse):
    args, flags = problem(cell, rng, dtype=jnp.float64)
    options = {"reverse": reverse, **flags}
    seen = gradient(cell, "newton", **options)(*args)
    registry.assert_close(seen, gradient(cell, "scan", **options)(*args), 1e-11)
    *_, certificate = lj.unroll_newton(cell, *args, **options)
    certificate.check()
    assert np.all(np.asarray(certificate.iterations) < T)


@pytest.mark.parametrize("reverse", [False, pytest.param(True, marks=pytest.mark.grid)])
def test_whole_jacobians_give_the_loop(reverse, rng, x64):
    """Values and gradients, with gaps and restarts, in fewer iterations than steps."""
    check_equality(lj.LSTM(H), rng, reverse)


LARGE = [lj.GRU(33), lj.LSTM(17), lj.IndRNN(33)]
"""Cells with more numbers in their carry than a whole J_t has."""


@pytest.mark.grid
@pytest.mark.parametrize("cell", LARGE, ids=str)
def test_blocks_give_the_loop(cell, rng, x64):
    check_equality(cell, rng, False)


@pytest.mark.grid
def test_cotangents_are_clipped_at_each_step(rng, x64):
    """A gradient that is no derivative, so none that a parallel scan of Jacobians gives."""
    cell = lj.zoneout(lj.clip_cotangents(lj.GRU(H), limit=0.05), h=0.1)
    args, _ = problem(cell, rng, 8, jnp.float64)
    seen, wanted = (gradient(cell, name)(*args) for name in ("newton", "scan"))
    registry.assert_close(seen, wanted, 1e-11)
    free = gradient(lj.GRU(H), "scan")(*args)
    assert not np.allclose(wanted[0][0]["w_hh"], free[0][0]["w_hh"], rtol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_cell(case, rng, x64):
    cell = case.make(4)
    args, flags = problem(cell, rng, 8, jnp.float64)
    wanted = gradient(cell, "scan", **flags)(*args)
    registry.assert_close(gradient(cell, "newton", **flags)(*args), wanted, 1e-10)


def test_a_linear_cell_takes_one_iteration(rng):
    """Then Newton's method is a parallel scan over the steps."""
    cell = lj.RNN(H, "identity")
    args, _ = problem(cell, rng)
    carry, ys, certificate = jax.jit(functools.partial(lj.unroll_newton, cell))(*args)
    registry.assert_close((carry, ys), lj.unroll(cell, *args, implementation="scan"), 1e-5)
    assert np.all(certificate.converged)
    np.testing.assert_array_equal(certificate.iterations, 1)


@pytest.mark.grid
def test_the_block_of_a_unit_is_the_diagonal_of_the_jacobian(rng, x64):
    """Also of an LSTM's two numbers a unit, where a step is masked, and where it restarts."""
    cell, seq = lj.LSTM(H), 3
    params, xs = problem(cell, rng, seq, jnp.float64)[0]
    given = lj._sequence.Sequence(
        xs=xs,
        carry=cell.initial_carry(params, (B,)),
        origin=cell.initial_carry(params, (B,)),
        valid=jnp.array([[True, False]] * seq),
        restart=jnp.array([[False, False], [True, False], [False, True]]),
    )
    before = registry.cast(registry.random_carry(cell, params, (seq, B), rng), jnp.float64)
    value, whole = vectors.Dense(given.carry).linearized(cell, params, given, before)
    seen_value, seen = vectors.Blocks(given.carry).linearized(cell, params, given, before)
    registry.assert_close(seen_value, jnp.moveaxis(value.reshape(seq, B, 2, H), 2, 3), 1e-12)
    units = jnp.einsum("tbihjh->tbhij", whole.reshape(seq, B, 2, H, 2, H))
    registry.assert_close(seen, units, 1e-12)


# ---- where it does not ---------------------------------------------------------------------------
def chaotic(hidden=16):
    """A tanh RNN of gain 3; two sequences of 1000 steps, without input, and with too much of it."""
    cell = lj.RNN(hidden, w_hh_init=initializers.normal(3 / hidden**0.5))
    params = cell.init(jax.random.key(0), 1)
    xs = jnp.stack([jnp.zeros((1000, 1)), jnp.full((1000, 1), 300.0)], axis=1)
    start = cell.state(jax.random.normal(jax.random.key(1), (2, hidden)))
    return cell, params, xs, start


@functools.cache
def refused():
    """The chaotic sequence and the saturated one: (carries, certificate)."""
    cell, params, xs, start = chaotic()
    run = functools.partial(lj.unroll_newton, cell, return_carries=True)
    _, carries, certificate = jax.jit(run)(params, xs, start)
    return carries, certificate


def test_a_chaotic_sequence_is_refused_and_the_one_beside_it_is_not():
    _, certificate = refused()
    np.testing.assert_array_equal(certificate.converged, [False, True])
    assert certificate.residual[0] > 1e-3 and certificate.residual[1] < 1e-5
    assert certificate.iterations[0] == newton.ITERATIONS > certificate.iterations[1]
    with pytest.raises(NotImplementedError, match="^newton: 1 of 2 sequences did not converge"):
        certificate.check()


def test_a_refused_sequence_has_the_results_of_the_loop():
    """Each carry is the step of the last: of chaos no two programs give the same ones for long."""
    carries, _ = refused()
    cell, params, xs, start = chaotic()
    before = jnp.concatenate([start.h[None], carries.h[:-1]])
    wanted = jnp.tanh(xs @ params["w_ih"] + before @ params["w_hh"] + params["b"][None, None])
    np.testing.assert_allclose(carries.h, wanted, rtol=0, atol=2e-6)


def test_too_few_iterations_are_the_loop(rng):
    cell = lj.GRU(H)
    args, flags = problem(cell, rng)
    carry, ys, certificate = lj.unroll_newton(cell, *args, **flags, iterations=1)
    wanted = lj.unroll(cell, *args, **flags, implementation="scan")
    registry.assert_close((carry, ys), wanted, 1e-6)
    assert not np.any(certificate.converged)
    np.testing.assert_array_equal(certificate.iterations, 1)


def test_the_loop_is_not_run_by_vmap_where_all_converge(rng):
    """No `cond`, of which vmap would run both branches: a loop of no steps."""
    cell = lj.GRU(H)
    args, _ = problem(cell, rng)
    run = jax.vmap(functools.partial(lj.unroll, cell, implementation="newton"), (None, 1))
    jaxpr = str(jax.make_jaxpr(run)(*args))
    assert "while[" in jaxpr and "cond[" not in jaxpr.replace("cond_", "")


def test_a_nan_of_the_inputs_is_a_nan_of_the_residual(rng):
    """In a batch of a size whose maximum XLA takes on a CPU so that it loses a NaN."""
    cell, batch = lj.GRU(H), 16
    params = registry.cast(registry.random_params(cell, D, rng), jnp.float32)
    xs = jnp.asarray(rng.standard_normal((T, batch, D)), jnp.float32)
    xs = xs.at[T // 2, 0].set(jnp.nan)
    carry, ys, certificate = lj.unroll_newton(cell, params, xs)
    wanted = lj.unroll(cell, params, xs, implementation="scan")
    for seen, leaf in zip(jax.tree.leaves((carry, ys)), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(seen, leaf, rtol=0, atol=1e-6, equal_nan=True)
    np.testing.assert_array_equal(np.isnan(certificate.residual), np.arange(batch) == 0)
    np.testing.assert_array_equal(certificate.converged, np.arange(batch) > 0)


# ---- what it refuses -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("cell", "name"),
    [
        (lj.MinGRU(H), "associative"),
        pytest.param(lj.LSTM(H), "newton", marks=pytest.mark.grid),
    ],
    ids=["associative", "newton"],
)
def test_a_parallel_scan_over_time_refuses_a_symbolic_number_of_steps(cell, name, rng):
    """By name, unless another is named after it; a symbolic batch is fine."""
    args, _ = problem(cell, rng)
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), args[0])

    def exported(shape, implementation):
        run = jax.jit(functools.partial(lj.unroll, cell, implementation=implementation))
        xs = jax.ShapeDtypeStruct(jax.export.symbolic_shape(shape), jnp.float32)
        return jax.export.export(run)(params, xs).call(*args)

    with pytest.raises(NotImplementedError, match=f"^{name}: T is symbolic"):
        exported(f"T, B, {D}", name)
    wanted = lj.unroll(cell, *args, implementation="scan")
    registry.assert_close(exported(f"T, B, {D}", (name, "fused")), wanted, 1e-5)
    registry.assert_close(exported(f"{T}, B, {D}", name), wanted, 1e-5)


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        (lj.LSTM(17, projection_size=3), None),
        (lj.LSTM(40, projection_size=3), "has 43 numbers, more than 32, and they are not"),
        (lj.GRU(40, reset_after=False), "has 40 numbers, more than 32, and its step does not"),
        (lj.GRU(32, reset_after=False), None),
        (lj.ConvLSTM(2, (3,), (4,)), "more axes than H"),
    ],
    ids=str,
)
def test_which_cells(cell, why):
    found = lj.which(cell).rejected["newton"]
    assert found.endswith("comes first") if why is None else why in found


def test_a_cell_that_closes_over_a_traced_value_is_refused():
    def run(a):
        return lj.which(lj.RNN(H, lambda x: a * jnp.tanh(x)), implementation="newton")

    with pytest.raises(NotImplementedError, match="^newton: RNN computes with a value that is bei"):
        jax.eval_shape(run, 1.0)


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("cell", [lj.LSTM(H), lj.MinGRU(H), lj.GRU(H, reset_after=False)], ids=str)
def test_it_is_never_the_default(cell, platform):
    found = lj.which(cell, platform=platform)
    assert found.rejected["newton"] == f"{found.implementation} comes first"


def test_a_certificate_is_of_one_cell_and_of_values(rng):
    cell = lj.GRU(H)
    args, _ = problem(cell, rng)
    with pytest.raises(ValueError, match="^cell: "):
        lj.unroll_newton(lj.stack(cell, cell), *args)
    with pytest.raises(ValueError, match="^iterations: got 0"):
        lj.unroll_newton(cell, *args, iterations=0)

    def inside(params, xs):
        carry, _, certificate = lj.unroll_newton(cell, params, xs)
        certificate.check()
        return carry

    with pytest.raises(ValueError, match="^certificate: got a traced array.*check it outside"):
        jax.eval_shape(inside, *args)


def test_no_steps_need_no_iteration(rng):
    cell = lj.GRU(H)
    (params, xs), _ = problem(cell, rng)
    _, ys, certificate = lj.unroll_newton(cell, params, xs[:0])
    certificate.check()
    assert ys.shape == (0, B, H) and certificate.iterations.shape == (B,)
