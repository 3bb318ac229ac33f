"""Recurrent modules that an agent may have, behind one interface."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

import lstm_jax as lj


class Memory(NamedTuple):
    """A recurrent module as the agent uses it.

    Attributes:
        own: convert parameters of this library's GRU to the module's, outside of `jax.jit`.
        start: (params, N) -> the carry of N episodes that begin.
        step: (params, carry, x [N, H], reset [N]) -> (carry, y [N, H]).
        unroll: (params, carry, xs [T, N, H], resets [T, N]) -> ys [T, N, H].
    """

    own: Callable[..., Any]
    start: Callable[..., Any]
    step: Callable[..., Any]
    unroll: Callable[..., Any]


def of_lstm_jax(size: int) -> Memory:
    """This library's GRU."""
    cell = lj.GRU(size)

    def step(params, carry, x, reset):
        return cell.step(params, carry, x, reset=reset)

    def unroll(params, carry, xs, resets):
        return lj.unroll(cell, params, xs, carry, resets=resets)[1]

    return Memory(lambda params: params, lambda p, n: cell.initial_carry(p, (n,)), step, unroll)


def of_flax(size: int) -> Memory:
    """Flax's GRUCell in a scan over time, its carry put to zero where an episode starts."""
    import flax.linen as nn  # Only if it is asked for.

    def step(params, carry, x, reset):
        carry = jnp.where(reset[:, None], jnp.zeros_like(carry), carry)
        return nn.GRUCell(size).apply(params, carry, x)

    def unroll(params, carry, xs, resets):
        return lax.scan(lambda carry, now: step(params, carry, *now), carry, (xs, resets))[1]

    return Memory(in_linen, lambda params, n: jnp.zeros((n, size)), step, unroll)


def of_linen(size: int) -> Memory:
    """Flax's GRUCell, run by this library."""
    import flax.linen as nn  # Only if it is asked for.

    cell = lj.nn.linen.GRUCell(size)
    layer = lj.nn.linen.RNN(nn.GRUCell(size), time_major=True)

    def step(params, carry, x, reset):
        carry = jnp.where(reset[:, None], jnp.zeros_like(carry), carry)
        return cell.apply(params, carry, x)

    def unroll(params, carry, xs, resets):
        params = {"params": {"cell": params["params"]}}
        return layer.apply(params, xs, initial_carry=carry, resets=resets)

    return Memory(in_linen, lambda params, n: jnp.zeros((n, size)), step, unroll)


def of_nothing(size: int) -> Memory:
    """This library's GRU, restarted at every step: what the agent reaches without memory."""
    memory = of_lstm_jax(size)

    def step(params, carry, x, reset):
        return memory.step(params, carry, x, jnp.ones_like(reset))

    def unroll(params, carry, xs, resets):
        return memory.unroll(params, carry, xs, jnp.ones_like(resets))

    return memory._replace(step=step, unroll=unroll)


def in_linen(params: Any) -> Any:
    """Parameters of a GRU as variables of Flax's GRUCell."""
    net = lj.GRU(len(params["w_hh"]))
    return {"params": lj.interop.to_linen(net, params)["params"]["cell"]}


MODULES = {"lstm_jax": of_lstm_jax, "flax": of_flax, "linen": of_linen, "none": of_nothing}
