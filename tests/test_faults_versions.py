"""What depends on the version of JAX: the kernel is in the compiled program on each of them."""

import jax
import jax.numpy as jnp
import pytest
import registry

import lstm_jax as lj

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
