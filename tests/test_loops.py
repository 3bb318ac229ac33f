"""The loop of "fused" as it is written for GPUs and TPUs: the same numbers, on a CPU."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import registry

import lstm_jax as lj
from lstm_jax._recurrence.engines import fused
from lstm_jax._recurrence.loops import Loop

T, B, D, H = 5, 3, 2, 4
GPU, TPU = fused.loop_on("cuda"), fused.loop_on("tpu")


@pytest.fixture(params=[GPU, TPU], ids=["gpu", "tpu"])
def loop(request, monkeypatch):
    monkeypatch.setattr(fused, "loop_on", lambda *given: request.param)
    return request.param


def everything(cell, params, xs, flags, implementation):
    """The value, its gradient and its tangent, in a program of its own."""

    def value(params, xs):
        final, ys = lj.unroll(cell, params, xs, implementation=implementation, **flags)
        sums = [jnp.sum(leaf, dtype=jnp.float32) for leaf in jax.tree.leaves(final)]
        return jnp.sum(jnp.sin(ys), dtype=jnp.float32) + sum(sums)

    ones = jax.tree.map(jnp.ones_like, (params, xs))
    both = jax.jit(lambda *given: (jax.grad(value, (0, 1))(*given), jax.jvp(value, given, ones)))
    return both(params, xs)


@pytest.mark.sampled
@registry.cells()
@pytest.mark.parametrize("flags", [{}, "all"], ids=["plain", "flags"])
def test_every_cell_has_the_same_numbers(case, flags, loop, rng):
    if "fused" not in case.implementations:
        pytest.skip("runs as scan")
    cell = case.make(H)
    params = registry.random_params(cell, D, rng)
    params, xs = registry.cast((params, rng.standard_normal((T, B, D))), jnp.float32)
    if flags:
        valid = np.arange(T)[:, None] < np.array([5, 3, 4])
        valid[1, 0] = False
        flags = {"mask": valid, "resets": np.eye(T, B, -2, dtype=bool), "reverse": True}
    seen, wanted = (everything(cell, params, xs, flags, name) for name in ("fused", "scan"))
    registry.assert_close(seen, wanted, 2e-5)


@pytest.mark.sampled
@pytest.mark.parametrize("make", [lj.LSTM, lj.GRU, lj.RNN])
@pytest.mark.parametrize("lengths", [None, [5, 0, 3]], ids=["full", "ragged"])
def test_bfloat16_rounds_h_where_recur_does(make, lengths, loop, rng, monkeypatch):
    cell = make(H)
    params = registry.random_params(cell, D, rng)
    params, xs = registry.cast((params, rng.standard_normal((T, B, D))), jnp.bfloat16)
    flags = {} if lengths is None else {"seq_lengths": jnp.array(lengths)}
    seen = everything(cell, params, xs, flags, "fused")
    monkeypatch.setattr(fused, "loop_on", lambda *given: Loop())
    wanted = everything(cell, params, xs, flags, "fused")
    registry.assert_close(seen, wanted, 1e-2)


@pytest.mark.sampled
@pytest.mark.parametrize("steps", [fused.ROUND + 3, 1, fused.ROUND])
def test_steps_that_fill_no_iteration(steps, loop, rng):
    cell = lj.GRU(H)
    given = registry.random_params(cell, D, rng), rng.standard_normal((steps, B, D))
    given = registry.cast(given, jnp.float32)
    seen, wanted = (everything(cell, *given, {}, name) for name in ("fused", "scan"))
    registry.assert_close(seen, wanted, 2e-5)


def test_layouts_are_for_tpus_and_for_no_export():
    cell, xs = lj.LSTM(H), jax.ShapeDtypeStruct((T, B, D), jnp.float32)
    params = jax.eval_shape(lambda key: cell.init(key, D), jax.random.key(0))
    run = jax.jit(lambda params, xs: lj.unroll(cell, params, xs, implementation="fused")[1])

    def text(platform):
        return run.trace(params, xs).lower(lowering_platforms=(platform,)).as_text()

    assert "LayoutConstraint" in text("tpu")
    assert "LayoutConstraint" not in text("cpu") + text("cuda")
    assert "optimization_barrier" in text("cuda")
    assert "optimization_barrier" not in text("cpu") + text("tpu")
    exported = jax.export.export(run, platforms=("cpu", "cuda", "tpu"))(params, xs)
    assert "LayoutConstraint" not in exported.mlir_module()
