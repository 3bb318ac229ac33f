"""What an agent learns from its rollouts, by PPO; and the whole training as one program."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

import lstm_jax as lj

from .agent import (
    Acting,
    Settings,
    Steps,
    embedded,
    evaluated,
    heads,
    init,
    log_probability,
    rollout,
    started,
)
from .modules import MODULES, Memory


class Chunk(NamedTuple):
    """A rollout, to learn from.

    Attributes:
        carry: the carry before its first step, as it was while acting.
        resets: [T, N] bool, True where a step starts an episode.
        steps: what was done.
        advantages: [T, N].
    """

    carry: Any
    resets: Any
    steps: Steps
    advantages: Any


def collected(settings: Settings, memory: Memory, params: Any, acting: Acting, key: Any) -> Any:
    """Act for T steps: (acting, chunk)."""
    after, steps = rollout(settings, memory, params, acting, key)
    # If the rollout before ended an episode with its last step, this one restarts at its first.
    resets = lj.resets_from_dones(steps.dones, previous=acting.done)
    *_, value = evaluated(settings, memory, params, after)
    return after, Chunk(acting.carry, resets, steps, advantages(settings, steps, value))


def advantages(settings: Settings, steps: Steps, value: Any) -> Any:
    """Generalized advantages (Schulman et al. 2016), given the value after the last step."""
    goes_on = 1.0 - steps.dones.astype(value.dtype)
    following = jnp.concatenate([steps.values[1:], value[None]])
    errors = steps.rewards + settings.discount * goes_on * following - steps.values
    decay = settings.discount * settings.trace * goes_on

    def back(later, now):
        error, decay = now
        here = error + decay * later
        return here, here

    return lax.scan(back, jnp.zeros_like(value), (errors, decay), reverse=True)[1]


def loss(settings: Settings, memory: Memory, params: Any, chunk: Chunk) -> Any:
    """The loss of PPO: policy, value and entropy, both of the former clipped."""
    old, near = chunk.steps, settings.clip
    inputs = embedded(params, old.xs)
    ys = memory.unroll(params["memory"], chunk.carry, inputs, chunk.resets)
    logits, values = heads(params, ys)
    gain = (chunk.advantages - chunk.advantages.mean()) / (chunk.advantages.std() + 1e-8)
    ratio = jnp.exp(log_probability(logits, old.actions) - old.log_p)
    policy = -jnp.minimum(ratio * gain, jnp.clip(ratio, 1 - near, 1 + near) * gain)
    targets = chunk.advantages + old.values
    nearby = old.values + jnp.clip(values - old.values, -near, near)
    value = 0.5 * jnp.maximum((values - targets) ** 2, (nearby - targets) ** 2)
    log_p = jax.nn.log_softmax(logits)
    entropy = -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)
    total = policy + settings.value_weight * value - settings.entropy_weight * entropy
    return jnp.mean(total)


def picked(chunk: Chunk, which: Any) -> Chunk:
    """The part of some environments."""
    carry = jax.tree.map(lambda leaf: leaf[which], chunk.carry)
    return Chunk(carry, *jax.tree.map(lambda leaf: leaf[:, which], chunk[1:]))


def optimiser(settings: Settings) -> optax.GradientTransformation:
    """Adam with a learning rate that falls to zero, after a clip of the norm."""
    count = settings.updates * settings.epochs * settings.minibatches
    rate = optax.linear_schedule(settings.learning_rate, 0.0, count)
    return optax.chain(optax.clip_by_global_norm(settings.max_norm), optax.adam(rate, eps=1e-5))


def learning(settings: Settings, params: Any) -> Any:
    """What is learned, before the first update: (params, opt_state)."""
    return params, optimiser(settings).init(params)


def learned(settings: Settings, memory: Memory, state: Any, chunk: Chunk, key: Any) -> Any:
    """Several epochs over a chunk, in minibatches of environments: (state, losses)."""
    tx = optimiser(settings)

    def update(state, which):
        params, opt_state = state
        of_params = functools.partial(loss, settings, memory, chunk=picked(chunk, which))
        value, grads = jax.value_and_grad(of_params)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    def epoch(state, key):
        order = jax.random.permutation(key, settings.environments)
        return lax.scan(update, state, order.reshape(settings.minibatches, -1))

    return lax.scan(epoch, state, jax.random.split(key, settings.epochs))


class Curve(NamedTuple):
    """What is known after each update [updates]: a training's course.

    Attributes:
        loss: the mean loss of its minibatches.
        returned: the sum of the returns of the episodes that ended.
        ended: how many ended.
    """

    loss: Any
    returned: Any
    ended: Any


@functools.partial(jax.jit, static_argnums=(0, 1))
def train(settings: Settings, module: str, params: Any, key: Any) -> tuple[Any, Curve]:
    """Train from `params`, all updates in one program: (params, curve)."""
    memory = MODULES[module](settings.hidden_size)
    key_start, key_run = jax.random.split(key)

    def iterate(run, key):
        acting, state = run
        key_act, key_learn = jax.random.split(key)
        acting, chunk = collected(settings, memory, state[0], acting, key_act)
        state, losses = learned(settings, memory, state, chunk, key_learn)
        done = Curve(losses.mean(), chunk.steps.returns.sum(), chunk.steps.dones.sum())
        return (acting, state), done

    run = started(settings, memory, params, key_start), learning(settings, params)
    run, curve = lax.scan(iterate, run, jax.random.split(key_run, settings.updates))
    return run[1][0], curve


@functools.partial(jax.jit, static_argnums=(0, 1))
def train_all(settings: Settings, module: str, params: Any, keys: Any) -> tuple[Any, Curve]:
    """Train several agents side by side; every leaf has them as its first axis."""
    return jax.vmap(functools.partial(train, settings, module))(params, keys)


def drawn(settings: Settings, module: str, seeds: Any) -> tuple[Any, Any]:
    """Parameters and keys for `train_all`, an agent for each seed."""
    keys = [jax.random.split(jax.random.key(seed)) for seed in seeds]
    each = [init(settings, module, key) for key, _ in keys]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each), jnp.stack([k for _, k in keys])
