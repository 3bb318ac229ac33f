"""The recurrent agent of the examples: the same losses, gradients and curve by every module."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry

import lstm_jax as lj
from bench import ppo
from examples.recurrent_ppo import __main__ as command
from examples.recurrent_ppo import learning, pole
from examples.recurrent_ppo.agent import Acting, Settings, embedded, heads, init, log_probability
from examples.recurrent_ppo.modules import MODULES

SMALL = Settings(3, steps=12, epochs=2, minibatches=2, hidden_size=5)
ENDS = np.array([1, 3, 40, 12])
"""Steps that are left to four episodes, in a rollout of 12."""


def acting(memory, params, rng):
    """Agents in the midst of their episodes, the first and the last of which have just ended."""
    around = rng.uniform(-0.05, 0.05, (4, 4)).astype(np.float32)
    poles = pole.Pole(*around, age=(pole.LIMIT - ENDS).astype(np.int32))
    start = memory.start(params["memory"], 4)
    carry = jax.tree.map(lambda leaf: rng.uniform(-1, 1, leaf.shape).astype(np.float32), start)
    return Acting(poles, carry, np.array([True, False, False, True]), np.zeros(4, np.float32))


def drawn(module, rng):
    """Parameters without zeros, as after some training; the same for each module."""
    params = init(SMALL, "lstm_jax", jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf + rng.normal(0, 0.3, leaf.shape).astype("f"), params)
    return {**params, "memory": MODULES[module](SMALL.hidden_size).own(params["memory"])}


@functools.cache
def chunk_of(module):
    """(memory, parameters, what was acting before, a rollout)."""
    memory, rng = MODULES[module](SMALL.hidden_size), np.random.default_rng(0)
    params = drawn(module, rng)
    before = acting(memory, params, rng)
    collect = jax.jit(functools.partial(learning.collected, SMALL, memory))
    return memory, params, before, collect(params, before, jax.random.key(1))[1]


@functools.partial(jax.jit, static_argnums=0)
def graded(memory, params, chunk):
    """(loss, gradients) of a chunk."""
    return jax.value_and_grad(functools.partial(learning.loss, SMALL, memory))(params, chunk)


def as_linen(module, grads):
    """The same for both: gradients of a GRU in the layout of Flax."""
    own = MODULES["linen"](SMALL.hidden_size).own
    return {**grads, "memory": own(grads["memory"])} if module == "lstm_jax" else grads


def assert_alike(seen, wanted, **tolerance):
    assert jax.tree.structure(seen) == jax.tree.structure(wanted)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), seen, wanted)


# ---- a chunk -------------------------------------------------------------------------------------
@pytest.mark.parametrize("module", ["lstm_jax", pytest.param("linen", marks=pytest.mark.grid)])
def test_a_chunk_gives_the_losses_and_gradients_of_flax(module):
    pytest.importorskip("flax")
    memory, params, _, chunk = chunk_of(module)
    theirs, their_params, _, their_chunk = chunk_of("flax")
    assert chunk.steps.dones.sum() == 3 and chunk.resets.sum() == 2 + 2
    assert_alike(chunk.steps, their_chunk.steps, rtol=1e-5, atol=1e-6)
    value, grads = graded(memory, params, chunk)
    wanted, their_grads = graded(theirs, their_params, their_chunk)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    assert_alike(as_linen(module, grads), their_grads, rtol=1e-4, atol=1e-6)


@functools.partial(jax.jit, static_argnums=0)
def difference(memory, params, chunk, resets):
    """The largest difference of ln p between acting and learning."""
    inputs = embedded(params, chunk.steps.xs)
    ys = memory.unroll(params["memory"], chunk.carry, inputs, resets)
    logits, _ = heads(params, ys)
    learned = log_probability(logits, chunk.steps.actions)
    return jnp.abs(learned - chunk.steps.log_p).max(axis=0)


def test_acting_and_learning_see_the_same_restarts():
    memory, params, before, chunk = chunk_of("lstm_jax")
    dones = chunk.steps.dones
    assert difference(memory, params, chunk, chunk.resets).max() < 1e-5
    without = difference(memory, params, chunk, lj.resets_from_dones(dones))
    np.testing.assert_array_equal(without > 1e-4, before.done)  # The chunk's first reset is lost.
    late = difference(memory, params, chunk, dones)  # Flags of the step itself: one step too early.
    np.testing.assert_array_equal(late > 1e-4, [True, True, False, True])


def test_a_carry_stored_after_its_reset_needs_no_flag():
    memory, params, before, chunk = chunk_of("lstm_jax")
    net = lj.GRU(SMALL.hidden_size)
    stored = lj.reset_carry(net, params["memory"], before.carry, before.done)
    clean = chunk._replace(carry=stored, resets=lj.resets_from_dones(chunk.steps.dones))
    assert_alike(graded(memory, params, clean), graded(memory, params, chunk), rtol=1e-6, atol=1e-7)


# ---- its parts -----------------------------------------------------------------------------------
def test_a_cart_pole_moves_by_its_equations(rng):
    """Both accelerations solve the two equations of Lagrange, which are linear in them."""
    position, angle, speed, spin = rng.uniform(-1, 1, (4, 7)).astype(np.float32)
    action = rng.integers(0, 2, 7)
    seen = pole.pushed(pole.Pole(position, angle, speed, spin, np.zeros(7, np.int32)), action)
    for n in range(7):
        sin, cos, force = np.sin(angle[n]), np.cos(angle[n]), 20.0 * action[n] - 10.0
        moment = 0.1 * 0.5
        left = [[1.1, moment * cos], [moment * cos, 4 / 3 * moment * 0.5]]
        right = [force + moment * spin[n] ** 2 * sin, moment * 9.8 * sin]
        changes = 0.02 * np.linalg.solve(left, right)
        np.testing.assert_allclose(seen.speed[n] - speed[n], changes[0], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(seen.spin[n] - spin[n], changes[1], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(seen.position, position + 0.02 * speed, rtol=1e-6)
    np.testing.assert_allclose(seen.angle, angle + 0.02 * spin, rtol=1e-6)


def test_an_episode_ends_where_the_pole_falls_and_begins_anew():
    at = np.array([[0.0, 2.39, 0.0, 0.0], [0.0, 0.0, 0.2, 0.0], [0, 2, 0, 0], [0, 0, 2, 0]])
    age = np.array([3, 3, 3, pole.LIMIT - 1], np.int32)
    before = pole.Pole(*at.astype(np.float32), age=age)
    after, rewards, dones = pole.played(before, np.ones(4, np.int32), jax.random.key(0))
    np.testing.assert_array_equal(dones, [False, True, True, True])
    np.testing.assert_array_equal(after.age, [4, 0, 0, 0])
    assert (np.abs(np.stack(after[:4])[:, 1:]) <= 0.05).all() and (rewards == 1).all()
    assert pole.observed(after, 2).shape == (4, 2)


def test_advantages_are_sums_of_errors_within_an_episode(rng):
    steps, count = 6, 3
    values, rewards = rng.normal(size=(2, steps, count)).astype(np.float32)
    last, dones = rng.normal(size=count).astype(np.float32), rng.random((steps, count)) < 0.3
    given: dict = dict.fromkeys(learning.Steps._fields)
    given |= {"values": values, "rewards": rewards, "dones": dones}
    seen = learning.advantages(SMALL, learning.Steps(**given), last)
    following = np.concatenate([values[1:], last[None]])
    errors = rewards + 0.99 * np.where(dones, 0, following) - values
    for n in range(count):
        for t in range(steps):
            total = 0.0
            for k in range(t, steps):
                total += (0.99 * 0.95) ** (k - t) * errors[k, n]
                if dones[k, n]:
                    break
            np.testing.assert_allclose(seen[t, n], total, rtol=1e-4, atol=1e-5)


# ---- a training ----------------------------------------------------------------------------------
@pytest.fixture
def lenient():
    """Promotion of dtypes, which optax's Adam needs."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.grid
@pytest.mark.usefixtures("lenient")
def test_trainings_from_the_same_start_have_the_same_curve():
    pytest.importorskip("flax")
    settings = Settings(6, steps=24, epochs=2, minibatches=2, hidden_size=8)
    ran = {
        m: learning.train_all(settings, m, *learning.drawn(settings, m, (0, 1))) for m in MODULES
    }
    curves = {module: curve for module, (_, curve) in ran.items()}
    for module in ("lstm_jax", "linen"):
        np.testing.assert_array_equal(curves[module].ended, curves["flax"].ended)
        np.testing.assert_array_equal(curves[module].returned, curves["flax"].returned)
        np.testing.assert_allclose(curves[module].loss, curves["flax"].loss, rtol=1e-3, atol=1e-4)
    assert curves["flax"].ended.sum() > 4
    assert not np.allclose(curves["none"].loss, curves["flax"].loss, rtol=1e-2)
    assert_alike(ran["linen"][0], ran["flax"][0], rtol=0.01, atol=1e-4)


@pytest.mark.grid
@pytest.mark.usefixtures("lenient")
def test_the_fastest_implementation_runs_the_update_of_many_seeds():
    params, keys = jax.eval_shape(lambda: learning.drawn(SMALL, "lstm_jax", (0, 1, 2)))
    run = functools.partial(learning.train_all, SMALL, "lstm_jax")
    found = lj.inspect(run, params, keys)
    assert [row.implementation for row in found] == [registry.FASTEST] * 2
    assert {row.batch for row in found} == {(3, 2)}


@pytest.mark.grid
@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("module", MODULES)
def test_the_command_runs(module, capsys):
    if module in ("flax", "linen"):
        pytest.importorskip("flax")
    returns = command.main(["--smoke", "--module", module, "--seeds", "2"])
    assert returns.shape == (2, 2) and capsys.readouterr().out.count(f", {module}: return") == 2


# ---- its bench -----------------------------------------------------------------------------------
def test_the_tables_of_the_bench_are_those_of_the_samples():
    ours, linen, flax = [[1e-3, 3.0], [9.0, 3.0], [1e-3, 3.0]], [[2e-3, 4.0]], [[4e-3, 6.0]]
    samples = {"lstm_jax": ours, "linen": linen, "flax": flax}
    row = {"environments": 4, "seeds": 1, "part": "update", "samples": samples}
    assert ppo.time_text(row) == "| 4 | 1 | update | 1 | 2 | 4 | 4.00 | 2.00 | 2.00 | 1.50 |"
    assert ppo.TIMES.splitlines()[0].count("|") == ppo.time_text(row).count("|")
    returned = np.array([[9, 0, 7], [9, 0, 8]])
    curve = learning.Curve(returned, returned, np.array([[1, 0, 1]] * 2))
    np.testing.assert_array_equal(
        ppo.equal_for(curve, curve._replace(returned=returned[:1])), [3, 2]
    )
    returns = {"flax": [[float(n) for n in range(10)], [9.0] * 10]}
    text = ppo.curves_text({"updates": 3, "returns": returns, "equal updates": {"linen": [3, 2]}})
    assert "| flax | 4 | 5 | 6 | 6 | 6 | 7 | 8 | 8 | 8 | 9 | 9, 9 |" in text and "[3, 2]" in text


@pytest.mark.grid
@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("seeds", [1, 2])
def test_the_bench_times_an_update_and_its_parts(seeds):
    settings = Settings(1, steps=8, epochs=1, minibatches=2, hidden_size=4)
    calls = ppo.parts(settings, "lstm_jax", seeds)
    assert list(calls) == ["update", "rollout", "learning"]
    _, steps = calls["rollout"]()
    assert steps.dones.shape == ((8, 4) if seeds == 1 else (2, 8, 4))


@pytest.mark.slow
@pytest.mark.usefixtures("lenient")
def test_an_agent_with_memory_learns_what_one_without_does_not():
    settings = Settings(400)
    found = {}
    for module in ("lstm_jax", "none"):
        _, curve = learning.train_all(settings, module, *learning.drawn(settings, module, (0, 1)))
        found[module] = command.mean_returns(curve, 10)[:, -1]
    assert found["lstm_jax"].min() > 2 * found["none"].max()
