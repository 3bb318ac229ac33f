"""Cart-poles that start again where they fall: a push to the left or right at each step, reward 1.

The equations are those of Barto, Sutton & Anderson (1983) without friction, the constants those of
Gym's CartPole-v1, whose limit of 500 steps ends an episode too.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

GRAVITY, FORCE, CART, POLE, HALF_LENGTH, SECONDS = 9.8, 10.0, 1.0, 0.1, 0.5, 0.02
FAR, STEEP, LIMIT = 2.4, math.radians(12), 500


class Pole(NamedTuple):
    """Cart-poles, each leaf [N], and for how many steps they have stood."""

    position: Any
    angle: Any
    speed: Any
    spin: Any
    age: Any


def fresh(key: Any, count: int) -> Pole:
    """Cart-poles at the start of an episode, nearly upright."""
    start = jax.random.uniform(key, (4, count), minval=-0.05, maxval=0.05)
    return Pole(*start, age=jnp.zeros(count, jnp.int32))


def pushed(pole: Pole, action: Any) -> Pole:
    """One step of Euler's method, pushed to the left (action 0) or to the right (1)."""
    position, angle, speed, spin, age = pole
    mass, moment = CART + POLE, POLE * HALF_LENGTH
    push = jnp.where(action == 1, FORCE, -FORCE)
    force = (push + moment * spin**2 * jnp.sin(angle)) / mass
    inertia = HALF_LENGTH * (4 / 3 - POLE * jnp.cos(angle) ** 2 / mass)
    turn = (GRAVITY * jnp.sin(angle) - jnp.cos(angle) * force) / inertia
    acceleration = force - moment * turn * jnp.cos(angle) / mass
    position, angle = position + SECONDS * speed, angle + SECONDS * spin
    return Pole(position, angle, speed + SECONDS * acceleration, spin + SECONDS * turn, age + 1)


def played(pole: Pole, action: Any, key: Any) -> tuple[Pole, Any, Any]:
    """One step of every environment: (cart-poles, rewards, dones); what has ended begins anew."""
    pole = pushed(pole, action)
    fallen = (jnp.abs(pole.position) > FAR) | (jnp.abs(pole.angle) > STEEP)
    done = fallen | (pole.age >= LIMIT)
    new = fresh(key, len(done))
    return jax.tree.map(functools.partial(jnp.where, done), new, pole), jnp.ones(len(done)), done


def observed(pole: Pole, count: int) -> Any:
    """What the agent sees, [N, count]: without the velocities if count is 2."""
    scaled = pole.position / FAR, pole.angle / STEEP, pole.speed, pole.spin
    return jnp.stack(scaled[:count], axis=-1)
