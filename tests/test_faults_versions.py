"""What depends on the version of JAX: the kernel is in the compiled program on each of them."""

import types

import jax
import jax.numpy as jnp
import pytest
import registry
from jax.interpreters import mlir, partial_eval
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import lstm_jax as lj
from lstm_jax import _jax
from lstm_jax._recurrence.native import library

STEPS, BATCH, INPUTS, UNITS = 4, 2, 3, 5


def compiled(function, *args):
    """The text of the program that runs."""
    return registry.jit(function).lower(*args).compile().as_text()


@registry.needs_kernel
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_the_kernel_is_in_the_compiled_program(kind):
    cell = getattr(lj, kind)(UNITS)
    params = cell.init(jax.random.key(0), INPUTS)
    xs = jnp.ones((STEPS, BATCH, INPUTS))

    def loss(params, xs):
        return jnp.sum(lj.unroll(cell, params, xs)[1] ** 2)

    forward, gradient = compiled(loss, params, xs), compiled(jax.grad(loss, (0, 1)), params, xs)
    run, transposed = (f'custom_call_target="lstm_jax_{name}_' for name in ("run", "transposed"))
    assert forward.count(run) == 1 and transposed not in forward
    assert gradient.count(run) == 1 and gradient.count(transposed) == 1


@registry.needs_kernel
def test_fault_14_erf_and_its_derivative_are_the_kernels():
    """From JAX 0.11 on its derivative takes bits apart, within a function of JAX's own."""
    cell = lj.RNN(UNITS, activation=jax.lax.erf)
    params = cell.init(jax.random.key(0), INPUTS)
    xs = jax.random.normal(jax.random.key(1), (STEPS, BATCH, INPUTS))

    def loss(params, implementation=None):
        return jnp.sum(lj.unroll(cell, params, xs, implementation=implementation)[1] ** 2)

    text = compiled(jax.grad(loss), params)
    assert "lstm_jax_run_" in text and "lstm_jax_transposed_" in text
    seen, wanted = (jax.grad(loss)(params, name) for name in ("native", "scan"))
    registry.assert_close(seen, wanted, 1e-5)


# ---- an attribute of JAX's insides that is not there ---------------------------------------------
@pytest.mark.parametrize("where", [*_jax.NEEDED, *_jax.FIELDS], ids=lambda where: where[1])
def test_without_what_says_where_the_kernel_may_run_there_is_none(monkeypatch, where):
    """And whoever asks is told."""
    owner, name = where
    owner = getattr(mlir, owner) if isinstance(owner, str) else owner
    kept = {each: getattr(owner, each) for each in dir(owner) if each != name}
    if where in _jax.FIELDS:
        monkeypatch.setattr(mlir, owner.__name__, types.SimpleNamespace(**kept))
    else:
        monkeypatch.delattr(owner, name)
    monkeypatch.delenv("LSTM_JAX_NO_NATIVE", raising=False)
    found, why = library._loaded.__wrapped__()
    assert found is None and f"JAX {jax.__version__} has no " in str(why) and name in str(why)


class Elsewhere:
    """Axes of a kind that was not known here."""

    num_devices = 1


@pytest.mark.parametrize("field", ["module_context", "lowering_parameters", "axis_context"])
def test_a_context_that_does_not_say_is_a_no(field):
    axes = Elsewhere() if field == "axis_context" else mlir.ShardingContext(1)
    module = types.SimpleNamespace(
        axis_context=axes, lowering_parameters=types.SimpleNamespace(for_export=False)
    )
    if field == "lowering_parameters":
        del module.lowering_parameters
    ctx = types.SimpleNamespace(**({} if field == "module_context" else {"module_context": module}))
    with pytest.warns(
        RuntimeWarning, match="does not say where the kernel may run .*(Elsew|attrib)"
    ):
        assert "does not say" in str(_jax.why_not_here(ctx))


@registry.needs_kernel
@pytest.mark.parametrize("split", [False, True], ids=["one device", "split"])
def test_the_kernel_does_not_run_on_what_devices_share(split):
    """The same program, of arrays that lie on one device or on two."""
    cell = lj.LSTM(UNITS)
    params = cell.init(jax.random.key(0), INPUTS)
    xs = jnp.ones((STEPS, BATCH, INPUTS))
    if split:
        mesh = Mesh(jax.devices("cpu")[:2], ("data",))
        xs = jax.device_put(xs, NamedSharding(mesh, PartitionSpec(None, "data")))
    text = compiled(lambda xs: lj.unroll(cell, params, xs)[1], xs)
    assert ("lstm_jax_run_" in text) != split


def test_without_dce_rules_everything_else_works(monkeypatch):
    """What nobody uses is computed then."""
    monkeypatch.delattr(partial_eval, "dce_rules")
    primitive = _jax.Primitive("of_this_test")
    _jax.set_rules(primitive, dead=lambda used, eqn: (used, eqn))
