"""The agent: a layer, a recurrent module, and heads for policy and value; and how it acts."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

import lstm_jax as lj

from .modules import MODULES, Memory
from .pole import Pole, fresh, observed, played


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a training is run with; an update is one rollout and all that is learned from it."""

    updates: int = 976
    environments: int = 4
    steps: int = 128
    epochs: int = 4
    minibatches: int = 4
    hidden_size: int = 128
    observed: int = 2  # Of position, angle, speed and spin: the first two.
    learning_rate: float = 2.5e-4
    max_norm: float = 0.5
    discount: float = 0.99
    trace: float = 0.95
    clip: float = 0.2
    value_weight: float = 0.5
    entropy_weight: float = 0.01


# ---- parameters ----------------------------------------------------------------------------------
def init(settings: Settings, module: str, key: Any) -> Any:
    """Draw the parameters: the same for every module, each in its own layout."""
    size, keys = settings.hidden_size, jax.random.split(key, 6)

    def layer(key, inputs, outputs, gain):
        w = lj.initializers.orthogonal(gain)(key, (inputs, outputs))
        return {"w": w, "b": jnp.zeros(outputs)}

    return {
        "embed": layer(keys[0], settings.observed, size, math.sqrt(2)),
        "memory": MODULES[module](size).own(lj.GRU(size).init(keys[1], size)),
        "actor": [layer(keys[2], size, size, 2.0), layer(keys[3], size, 2, 0.01)],
        "critic": [layer(keys[4], size, size, 2.0), layer(keys[5], size, 1, 1.0)],
    }


def dense(params: Any, x: Any) -> Any:
    """x @ w + b."""
    return x @ params["w"] + jnp.expand_dims(params["b"], range(x.ndim - 1))


def embedded(params: Any, x: Any) -> Any:
    """The inputs of the recurrent module, from observations [..., D]."""
    return jax.nn.relu(dense(params["embed"], x))


def heads(params: Any, y: Any) -> tuple[Any, Any]:
    """Logits of the two actions [..., 2] and the value [...], from the module's outputs."""
    logits, value = (
        dense(last, jax.nn.relu(dense(first, y)))
        for first, last in (params["actor"], params["critic"])
    )
    return logits, value[..., 0]


def log_probability(logits: Any, actions: Any) -> Any:
    """ln p of the actions."""
    return -optax.losses.softmax_cross_entropy_with_integer_labels(logits, actions)


# ---- acting --------------------------------------------------------------------------------------
class Acting(NamedTuple):
    """What goes on from step to step, and from one rollout to the next.

    Attributes:
        pole: the environments.
        carry: the carry of the recurrent module after the last step.
        done: [N] bool, True where that step ended an episode: the carry is then to restart.
        total: [N], the rewards of the episode so far.
    """

    pole: Pole
    carry: Any
    done: Any
    total: Any


class Steps(NamedTuple):
    """What a rollout leaves behind, each leaf [T, N, ...].

    Attributes:
        xs, actions, log_p, values: what the agent saw, did and thought of it.
        rewards, dones: what the environment answered; dones[t] if step t ended an episode.
        returns: the return of an episode at its last step, elsewhere 0.
    """

    xs: Any
    actions: Any
    log_p: Any
    values: Any
    rewards: Any
    dones: Any
    returns: Any


def started(settings: Settings, memory: Memory, params: Any, key: Any) -> Acting:
    """Environments at the start of their first episodes."""
    count = settings.environments
    carry = memory.start(params["memory"], count)
    return Acting(fresh(key, count), carry, jnp.zeros(count, bool), jnp.zeros(count))


def evaluated(settings: Settings, memory: Memory, params: Any, acting: Acting) -> Any:
    """One step of the agent: (x, carry, logits, value)."""
    x = observed(acting.pole, settings.observed)
    inputs = embedded(params, x)
    carry, y = memory.step(params["memory"], acting.carry, inputs, acting.done)
    return x, carry, *heads(params, y)


def rollout(settings: Settings, memory: Memory, params: Any, acting: Acting, key: Any) -> Any:
    """Act for T steps: (acting, steps)."""

    def act(acting, key):
        key_action, key_pole = jax.random.split(key)
        x, carry, logits, value = evaluated(settings, memory, params, acting)
        action = jax.random.categorical(key_action, logits)
        pole, reward, done = played(acting.pole, action, key_pole)
        total = acting.total + reward
        ended = jnp.where(done, total, 0.0)
        steps = Steps(x, action, log_probability(logits, action), value, reward, done, ended)
        return Acting(pole, carry, done, total - ended), steps

    return lax.scan(act, acting, jax.random.split(key, settings.steps))
