"""Training that goes on: accumulated gradients, what stops a run and what it keeps."""

import contextlib
import csv
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lstm_jax as lj
from lstm_jax import optim, train

pytestmark = pytest.mark.sampled

SGD = optax.sgd(0.5)


def inner(params, batch):
    """A loss whose gradient is the batch."""
    return jnp.vdot(params["w"], batch)


def start(tx, w=(0.0, 0.0)):
    return train.create({"w": jnp.asarray(w, jnp.float32)}, tx)


def draw(key):
    return jax.random.normal(key, (2,))


def assert_same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


# ------------------------------------------------------------------------- accumulated gradients


def test_the_mean_over_micro_batches_is_clipped_not_each_of_them():
    tx = optim.clipped_sgd(1.0, max_norm=1.0)
    step = jax.jit(train.make_step(inner, tx, accumulate=2))
    opposite = jnp.array([[100.0, 0.5], [-100.0, 0.1]])  # Each is clipped alone; their mean is not.
    state, info = step(start(tx), opposite)
    np.testing.assert_allclose(state.params["w"], [0.0, -0.3], rtol=1e-6)
    assert info["clipped"] == 0 and state.step == 1
    state, info = step(start(tx), jnp.array([[3.0, 0.0], [5.0, 6.0]]))
    np.testing.assert_allclose(info["norm_before"], 5.0)
    np.testing.assert_allclose(state.params["w"], [-0.8, -0.6], rtol=1e-6)


@pytest.mark.grid
def test_accumulated_is_the_gradient_of_all_at_once_through_a_network(key):
    task = lj.data.Adding(6)
    net = lj.readout(lj.GRU(4), task.output_size)
    batch = task.sample(key, 12)

    def loss(params, batch):
        return task.loss(lj.unroll(net, params, batch.xs)[1], batch), {"n": batch.xs.shape[1]}

    def cut(leaf):  # [T, B, ...] -> [3, T, 4, ...], or [B, ...] -> [3, 4, ...]
        axis = leaf.shape.index(12)
        return jnp.stack(jnp.split(leaf, 3, axis))

    tx = optim.clipped_sgd(0.1)
    state = train.create(net.init(key, task.input_size), tx)
    whole, seen = jax.jit(train.make_step(loss, tx, has_aux=True))(state, batch)
    parts = jax.jit(train.make_step(loss, tx, has_aux=True, accumulate=3))
    state, info = parts(state, jax.tree.map(cut, batch))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-7), state, whole)
    np.testing.assert_allclose(info["loss"], seen["loss"], rtol=1e-5)
    assert info["aux"]["n"].tolist() == [4, 4, 4]


def test_small_gradients_add_up_in_bfloat16():
    step = jax.jit(train.make_step(lambda w, x: jnp.sum(w * x), optax.sgd(1.0), accumulate=512))
    batch = jnp.ones((512, 1), jnp.bfloat16)  # 256 + 1 is 256 in bfloat16.
    state, _ = step(train.create(jnp.zeros(1, jnp.bfloat16), optax.sgd(1.0)), batch)
    assert state.params.dtype == jnp.bfloat16 and state.params == -1


def test_a_micro_batch_of_nan_costs_one_update():
    tx = optim.clipped_sgd(1.0)
    step = jax.jit(train.make_step(inner, tx, accumulate=2))
    state, info = step(start(tx), jnp.array([[1.0, 0.0], [jnp.nan, 0.0]]))
    assert info["skipped"] == 1 and not state.params["w"].any()
    state, _ = step(state, jnp.array([[0.5, 0.0], [0.5, 0.0]]))
    np.testing.assert_allclose(state.params["w"], [-0.5, 0.0])


def test_a_loop_draws_a_batch_for_every_micro_batch(key):
    run = train.make_loop(inner, SGD, draw, 3, accumulate=4)
    state, history = run(start(SGD), key)
    draws = [draw(k) for n in range(3) for k in jax.random.split(jax.random.fold_in(key, n), 4)]
    wanted = -0.5 * jnp.mean(jnp.stack(draws).reshape(3, 4, 2), 1).sum(0)
    np.testing.assert_allclose(state.params["w"], wanted, rtol=1e-5)
    assert state.step == 3 and history["loss"].shape == (3,)


def test_an_optimiser_that_wants_the_loss_gets_it():
    tx = optax.chain(SGD, optax.contrib.reduce_on_plateau(patience=1, factor=0.5, cooldown=0))
    step = jax.jit(train.make_step(lambda p: jnp.sum(p["w"]) * 0 + 1, tx))
    state = start(tx)
    for _ in range(4):
        state, _ = step(state)
    assert float(optax.tree.get(state.opt_state, "scale")) < 1


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: train.make_step(inner, SGD, accumulate=0), "accumulate: got 0, wanted an integer"),
        (lambda: train.make_loop(inner, SGD, draw, 1, accumulate=2.0), "accumulate: got 2.0"),
        (
            lambda: train.make_step(inner, SGD, accumulate=3)(start(SGD), jnp.ones((2, 2))),
            r"args: got a leaf \[0\] of shape \(2, 2\), wanted a leading axis of accumulate = 3;",
        ),
    ],
)
def test_micro_batches_that_do_not_fit_are_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


@pytest.mark.grid
def test_the_memory_is_that_of_one_micro_batch(key):
    net = lj.readout(lj.LSTM(16), 1)

    def temporary(accumulate, shape):
        step = train.make_step(
            lambda p, xs: jnp.mean(lj.unroll(net, p, xs, implementation="fused")[1]),
            SGD,
            accumulate=accumulate,
        )
        state = train.create(net.init(key, 4), SGD)
        compiled = jax.jit(step).lower(state, jnp.zeros(shape)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(8, (8, 50, 8, 4)) < 0.25 * temporary(None, (50, 64, 4))


# ------------------------------------------------------------------------- averaged parameters


@pytest.mark.parametrize("decay", [0.9, 0.0])
def test_the_average_is_that_of_all_parameters_so_far(key, decay):
    tx = optax.chain(optim.clipped_sgd(0.3), optim.average_params(decay))
    run, state, seen = train.make_loop(inner, tx, draw, 1), start(tx), []
    np.testing.assert_array_equal(optim.averaged(state)["w"], state.params["w"])
    for _ in range(5):
        state, _ = run(state, key)
        seen.append(np.asarray(state.params["w"]))
    wanted = np.average(seen, axis=0, weights=decay ** np.arange(4.0, -1, -1))
    np.testing.assert_allclose(optim.averaged(state)["w"], wanted, rtol=1e-5)


def test_a_slow_average_has_all_its_digits():
    tx = optim.average_params(0.99999)
    params = jnp.array([3.0, 5.0], jnp.bfloat16)
    _, state = tx.update(jnp.zeros_like(params), tx.init(jnp.zeros_like(params)), params)
    assert state.average.dtype == jnp.float32
    np.testing.assert_allclose(state.average, [3.0, 5.0], rtol=2e-7)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: optim.average_params(1.0), r"decay: got 1.0, wanted a number in \[0, 1\)"),
        (lambda: optim.averaged(start(SGD)), "state: got 0 AverageState inside, wanted one; put"),
        (
            lambda: optim.average_params(0.9).update(0.0, optim.average_params(0.9).init(0.0)),
            "params: got None, wanted the parameters",
        ),
    ],
)
def test_averages_that_cannot_be_are_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


# ------------------------------------------------------------------------- the best, and the end

TX = optax.chain(optim.clipped_sgd(0.1, momentum=0.9), optim.average_params(0.8))


@pytest.fixture(scope="module")
def loop():
    """One compiled program for all tests; it uses up the state that it is given."""
    return train.make_loop(inner, TX, draw, 2, donate=True)


def told(*values):
    """An `evaluate` that gives these values, one after the other."""
    values = iter(values)
    return lambda params: {"error": next(values)}


def fit(loop, steps, **given):
    return train.fit(loop, start(TX), jax.random.key(3), steps, chunk=2, **given)


def test_the_best_parameters_are_kept_and_patience_ends_training(loop):
    best, lines = train.Best("eval_error", patience=2), []
    values = told(3.0, 2.0, 2.0, float("nan"), 1.0)
    state, history = fit(loop, 20, evaluate=values, best=best, metrics=lines.append)
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    assert state.step == 8 and len(history["loss"]) == 8
    assert (best.value, best.step) == (2.0, 4)
    assert_same(best.params, fit(loop, 4)[0].params)
    assert_same(state, fit(loop, 8)[0])


def test_higher_may_be_better_and_by_how_much(loop):
    best = train.Best("eval_error", higher=True, min_delta=0.5)
    fit(loop, 8, evaluate=told(1.0, 1.4, 1.6, 0.0), best=best)
    assert (best.value, best.step) == (1.6, 6)


def test_what_evaluate_gives_has_a_name(loop):
    with pytest.raises(ValueError, match="evaluate: got a function that gives 1.0, wanted a dict"):
        fit(loop, 4, evaluate=lambda params: 1.0, metrics=print)


def test_evaluation_every_n_updates_and_of_the_average(loop):
    lines, seen, best = [], [], train.Best("eval_error")

    def evaluate(params):
        seen.append(params)
        return {"error": float(len(seen))}

    state, _ = fit(
        loop,
        14,
        evaluate=evaluate,
        evaluate_every=5,
        view=optim.averaged,
        best=best,
        metrics=lines.append,
    )
    assert [n["step"] for n in lines if "eval_error" in n] == [6, 10, 14]
    assert len(lines) == 7
    assert_same(seen[-1], optim.averaged(state))
    assert_same(best.params, optim.averaged(fit(loop, 6)[0]))


def test_callbacks_are_plain_functions_and_true_stops(loop):
    seen = []

    def callback(state, record):
        seen.append((int(state.step), record["loss"]))
        return np.True_ if len(seen) == 2 else "no"

    state, history = fit(loop, 20, callbacks=[callback, lambda state, record: None])
    assert [step for step, _ in seen] == [2, 4] and state.step == 4
    np.testing.assert_allclose(seen[1][1], history["loss"][2:].mean(), rtol=1e-6)


def test_what_is_best_survives_a_kill(loop, tmp_path):
    pytest.importorskip("orbax.checkpoint")
    values = [5.0, 4.0, 3.0, 6.0, 7.0, 8.0, 9.0, 1.0]

    def resumed(folder, kill=None, **given):
        best = train.Best("eval_error", patience=4)

        def killed(state, record):
            if record["step"] == kill:
                raise InterruptedError

        with train.Checkpoints(folder, every=4, keep=1) as checkpoints:
            out = train.fit(
                loop,
                start(TX),
                jax.random.key(3),
                30,
                chunk=2,
                evaluate=lambda state: {"error": values[int(state.step) // 2 - 1]},
                view=lambda state: state,
                best=best,
                callbacks=[killed],
                checkpoints=checkpoints,
                **given,
            )
        return out, best.kept

    whole = resumed(tmp_path / "whole")
    assert whole[0][0].step == 14 and whole[1].step == 6
    for kill in (2, 10, 12):
        with pytest.raises(InterruptedError):
            resumed(tmp_path / "cut", kill)
    assert_same(resumed(tmp_path / "cut"), whole)
    lines = []
    assert_same(resumed(tmp_path / "cut", metrics=lines.append), whole)  # It stays stopped.
    assert lines == []
    with pytest.raises(ValueError, match="with the lowest eval_error as the best, wanted those"):
        with train.Checkpoints(tmp_path / "cut") as checkpoints:
            fit(loop, 30, best=train.Best("loss"), view=lambda s: s, checkpoints=checkpoints)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (dict(evaluate_every=2), "evaluate_every: got 2, wanted a function to evaluate with"),
        (dict(evaluate=told(), best=0), "best: got 0, wanted a Best"),
        (dict(best=train.Best("eval_x")), "best: got a Best of 'eval_x', wanted a function to"),
        (dict(best=train.Best("los")), r"best: got no 'los' among \[.*'loss', .*\], wanted it;"),
        (dict(best=train.Best("step"), view=3), "view: got 3, wanted a function"),
        (
            dict(best=train.Best("eval_error"), evaluate=told(np.ones(2))),
            r"best: got 'eval_error', \[1.0, 1.0\], wanted a number",
        ),
        (dict(callbacks=print), "callbacks: got .*, wanted a sequence of functions; pass"),
        (dict(callbacks=[lambda x: x]), "callbacks: got a function that does not take 2"),
    ],
)
def test_what_fit_cannot_report_to_is_refused(loop, given, match):
    with pytest.raises(ValueError, match=match):
        fit(loop, 2, **given)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ((3,), "metric: got 3, wanted the name of an entry"),
        (("loss", dict(patience=0)), "patience: got 0"),
        (("loss", dict(higher="yes")), "higher: got 'yes'"),
        (("loss", dict(min_delta=-1)), "min_delta: got -1"),
    ],
)
def test_a_best_checks_its_arguments(given, match):
    with pytest.raises(ValueError, match=match):
        train.Best(*given[:1], **(given[1:] or [{}])[0])


# ------------------------------------------------------------------------- what is not finite

NAN = [jnp.nan, 0.0]
ADAM = optax.adam(0.5)


def after(tx, batches, w=(1.0, 1.0), step=None):
    """The state after these gradients, and the infos."""
    step, state = step or jax.jit(train.make_step(inner, tx)), start(tx, w)
    infos = []
    for batch in batches:
        state, info = step(state, jnp.asarray(batch))
        infos.append(info)
    return state, infos


GOOD = [[1.0, 0.5], [0.25, -1.0], [0.5, 0.5]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_skipped_update_is_as_if_it_never_was(bad):
    tx = optim.guarded(ADAM)
    state, infos = after(tx, [GOOD[0], [bad, 0.0], [0.0, bad], *GOOD[1:]])
    wanted, _ = after(ADAM, GOOD)
    assert_same(state.params, wanted.params)
    assert_same(state.opt_state.inner, wanted.opt_state)
    assert [int(info["not_finite"]) for info in infos] == [0, 1, 2, 2, 2]
    (failure,) = optim.failures(state)
    assert failure.pop("loss") == pytest.approx(bad, nan_ok=True)
    assert failure == {"count": 2, "step": 1, "leaves": ["['w']"]}
    assert optim.failures(wanted) == []


def test_backing_off_goes_to_the_parameters_before_at_a_lower_rate():
    tx = optim.guarded(SGD, "back_off", factor=0.25, recover=2)
    one, bad = [1.0, 0.0], NAN
    where, rates = [], []
    for n in range(1, 9):
        state, infos = after(tx, [one, one, bad, one, bad, bad, one, one][:n], (8.0, 0.0))
        where.append(float(state.params["w"][0]))
        rates.append(float(infos[-1]["rate_scale"]))
    assert rates == [1, 1, 0.25, 0.25, 0.0625, 0.015625, 0.015625, 0.0625]
    assert where[:3] == [7.5, 7.0, 7.5]
    assert where[3:6] == [7.375, 7.5, 7.5] and where[7] == 7.5 - 2 * 0.5 * 0.015625
    assert after(tx, [one] * 3)[1][-1]["rate_scale"] == 1  # It never grows beyond what it was.
    state, _ = after(optim.guarded(ADAM, "back_off"), [*GOOD, bad])
    assert_same(state.opt_state.inner, after(ADAM, GOOD[:2])[0].opt_state)


def test_a_stopped_optimiser_keeps_the_parameters_where_it_happened():
    tx = optim.guarded(
        optim.clipped_sgd(0.5), "stop", probe=lambda params: {"twice": params["w"] * 2}
    )
    state, infos = after(tx, [GOOD[0], NAN, *GOOD, [0.0, jnp.inf]])
    wanted, _ = after(optim.clipped_sgd(0.5), GOOD[:1])
    assert_same(state.params, wanted.params)
    (failure,) = optim.failures(state)
    np.testing.assert_array_equal(failure["snapshot"]["twice"], 2 * wanted.params["w"])
    assert (failure["step"], failure["count"]) == (1, 1)
    assert np.isnan(infos[1]["norm_before"]) and infos[1]["norm_after"] == 0
    assert state.step == 6


def test_parameters_that_would_overflow_count_too():
    tx = optim.guarded(optax.sgd(1e30))
    state, infos = after(tx, [[1e20, 0.0]])
    assert infos[0]["not_finite"] == 1 and state.params["w"][0] == 1
    state = start(tx)
    _, opt_state = tx.update(state.params, state.opt_state, state.params, value=jnp.inf)
    assert opt_state.not_finite == 1 and optim.failures(opt_state)[0]["leaves"] == []


def test_a_guard_rides_in_a_scan_over_members_in_any_dtype():
    tx = optim.guarded(optim.clipped_sgd(0.5, momentum=0.5), "back_off", probe=jnp.sum)
    step = train.make_step(lambda w, x: jnp.sum(w * x), tx)

    def run(xs):
        return jax.lax.scan(step, train.create(jnp.ones(2, jnp.bfloat16), tx), xs)

    xs = jnp.ones((2, 5, 2), jnp.bfloat16).at[1, 3, 0].set(jnp.nan)
    states, _ = jax.jit(jax.vmap(run))(xs)
    assert states.params.dtype == jnp.bfloat16
    (failure,) = optim.failures(states)
    assert (failure["member"], failure["step"], failure["leaves"]) == ([1], 3, [""])
    alone, _ = run(xs[1])
    np.testing.assert_allclose(failure["snapshot"], optim.failures(alone)[0]["snapshot"])


@pytest.mark.parametrize("policy", ["skip", "stop"])
def test_the_record_of_fit_tells_what_was_not_finite(policy, tmp_path):
    pytest.importorskip("orbax.checkpoint")
    probed = []

    def probe(params):
        jax.debug.callback(lambda: probed.append(1))
        return params["w"] * 2

    def loss(params, n):
        return inner(params, jnp.where((n == 3) | (n == 4), jnp.nan, 1.0) * jnp.ones(2))

    tx = optim.guarded(optim.clipped_sgd(0.5), policy, probe=probe)
    step = train.make_step(loss, tx)

    @functools.partial(jax.jit, static_argnums=2)
    def run(state, key, steps):
        return jax.lax.scan(lambda s, _: step(s, s.step), state, None, steps)

    lines = []
    for folder, kill in (("whole", None), ("cut", 4), ("cut", None)):
        lines.clear()

        def end(state, record, kill=kill):
            if record["step"] == kill:
                raise InterruptedError

        with (
            train.Checkpoints(tmp_path / folder, every=2) as checkpoints,
            train.JsonLines(tmp_path / f"{folder}.jsonl") as log,
            contextlib.suppress(InterruptedError),
        ):
            given = {"metrics": lambda r, w=log.write: (w(r), lines.append(r)), "callbacks": [end]}
            state, history = train.fit(
                run, start(tx), jax.random.key(0), 8, chunk=2, checkpoints=checkpoints, **given
            )
    jax.effects_barrier()
    assert len(probed) == 3  # Once in each of the three calls.
    (failure,) = lines[0]["failures"]
    assert (failure["step"], failure["leaves"]) == (3, ["['w']"])
    assert np.isnan(failure["loss"]) and "failures" not in lines[-1] or policy == "stop"
    assert len(history["loss"]) == (4 if policy == "stop" else 8)
    told = [json.loads(line) for line in (tmp_path / "whole.jsonl").read_text().splitlines()]
    assert [line["step"] for line in told if "failures" in line] == (
        [4] if policy == "stop" else [4, 6]
    )
    np.testing.assert_allclose(told[1]["failures"][0]["snapshot"], failure["snapshot"])
    whole, cut = (train.Checkpoints(tmp_path / name).restore()[1] for name in ("whole", "cut"))
    assert_same(whole.state, cut.state)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: optim.guarded(SGD, "ignore"), "policy: got 'ignore', wanted one of 'skip'"),
        (lambda: optim.guarded(3), "tx: got 3, wanted an optax.GradientTransformation"),
        (lambda: optim.guarded(SGD, probe=1), "probe: got 1"),
        (lambda: optim.guarded(SGD, factor=1), r"factor: got 1, wanted a number in \(0, 1\)"),
        (lambda: optim.guarded(SGD, recover=0), "recover: got 0"),
        (lambda: optim.guarded(SGD).update(1.0, optim.guarded(SGD).init(1.0)), "params: got None"),
    ],
)
def test_a_guard_checks_its_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()


# ------------------------------------------------------------------------- float16

TINY = 1e-6
"""A factor of a loss whose gradient is zero in float16."""


def half(params, batch):
    """A loss of the batch, computed in float16 from parameters in float32."""
    return TINY * jnp.vdot(params["w"].astype("float16"), batch.astype("float16"))


def test_the_scale_saves_what_float16_would_lose():
    step = jax.jit(train.make_step(half, optax.sgd(1e8)))
    lost, _ = step(start(optax.sgd(1e8)), jnp.full(2, 1e-3))
    assert not lost.params["w"].any()
    tx = optim.dynamic_loss_scale(optax.sgd(1e8))
    state, info = jax.jit(train.make_step(half, tx))(start(tx), jnp.full(2, 1e-3))
    np.testing.assert_allclose(state.params["w"], -0.1, rtol=2e-2)
    assert info["loss"].dtype == jnp.float16 and info["loss_scale"] == 2**15
    assert state.params["w"].dtype == jnp.float32


def test_the_scale_falls_at_an_overflow_and_rises_after_a_while():
    tx = optim.dynamic_loss_scale(optim.clipped_sgd(1.0, momentum=0.5), initial=4.0, period=3)
    huge = [1e38, 0.0]  # Times 4 beyond float32.
    state, infos = after(tx, [GOOD[0], huge, *GOOD], (0.0, 0.0))
    wanted, seen = after(optim.clipped_sgd(1.0, momentum=0.5), [GOOD[0], *GOOD], (0.0, 0.0))
    jax.tree.map(np.testing.assert_allclose, state.params, wanted.params)
    assert [float(info["loss_scale"]) for info in infos] == [4, 2, 2, 2, 4]
    assert [int(info["overflows"]) for info in infos] == [0, 1, 1, 1, 1]
    assert np.isnan(infos[1]["norm_before"]) and infos[1]["skipped"] == 0
    np.testing.assert_allclose(infos[4]["norm_before"], seen[3]["norm_before"])


def test_at_a_scale_of_one_the_optimiser_hears_of_it():
    tx = optim.dynamic_loss_scale(optim.guarded(SGD), initial=2.0)
    state, infos = after(tx, [NAN, NAN, NAN])
    assert [float(info["loss_scale"]) for info in infos] == [1, 1, 1]
    assert [int(info["not_finite"]) for info in infos] == [0, 1, 2]
    assert_same(state.params, start(SGD, (1.0, 1.0)).params)


@pytest.mark.grid
def test_a_network_in_float16_learns_what_one_in_float32_does(key):
    task = lj.data.Adding(4)
    batch = task.sample(key, 4)

    def gradient(dtype, tx, accumulate):
        net = lj.readout(lj.GRU(4, dtype=dtype), task.output_size)

        def loss(params, batch):
            return TINY * task.loss(lj.unroll(net, params, batch.xs)[1], batch).astype("float32")

        state = train.create(net.init(key, task.input_size), tx)
        batches = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), batch) if accumulate else batch
        step = train.make_step(loss, tx, accumulate=accumulate)
        after, _ = jax.jit(step)(state, batches)
        return jax.tree.map(lambda a, b: (a - b) / TINY, after.params, state.params)

    wanted = gradient("float32", optax.sgd(1.0), None)
    tx = optim.dynamic_loss_scale(optax.sgd(1.0), initial=2.0**20)
    for accumulate in (None, 2):
        got = gradient("float16", tx, accumulate)
        # Parameters near 1 keep updates of 1e-6 to one part in ten.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=0.15), got, wanted)
    assert max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(wanted)) > 0.5


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: optim.dynamic_loss_scale(SGD, initial=0.5), r"initial: got 0.5, wanted a number"),
        (lambda: optim.dynamic_loss_scale(SGD, period=0), "period: got 0"),
        (lambda: optim.dynamic_loss_scale(1), "tx: got 1, wanted an optax.GradientTransformation"),
        (
            lambda: optim.dynamic_loss_scale(SGD).init({"w": jnp.ones(2, "float16")}),
            r"params: got dtype float16 at \['w'\], wanted float32 or wider; keep parameters",
        ),
    ],
)
def test_a_loss_scale_checks_its_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()


# ------------------------------------------------------------------------- batches that are fed

BATCHES = [np.float32([n, 1.0]) for n in range(5)]
STEP = train.make_step(inner, TX)


class Loader:
    """An iterator over numbers with a state, as grain's; it counts what it gives."""

    def __init__(self, binary=False):
        self.n, self.given, self.binary = 0, 0, binary

    def __iter__(self):
        return self

    def __next__(self):
        self.n, self.given = self.n + 1, self.given + 1
        return np.float32([self.n, 1.0])

    def get_state(self):
        return bytes([self.n]) if self.binary else {"next": self.n, "worker": None}

    def set_state(self, state):
        self.n = state[0] if self.binary else state["next"]


def test_a_feed_is_its_steps_one_by_one(key):
    feed = train.Feed(STEP, BATCHES)
    state, history = train.fit(feed, start(TX), key, 7, chunk=3)
    wanted, infos = after(TX, [*BATCHES, *BATCHES[:2]], (0.0, 0.0))
    assert_same(state, wanted)
    np.testing.assert_array_equal(history["loss"], [info["loss"] for info in infos])
    assert feed.taken == 7  # The list began again.


def test_a_feed_hands_out_keys(key):
    def loss(params, batch, key):
        return inner(params, batch) * jax.random.uniform(key)

    feed = train.Feed(train.make_step(loss, SGD), [np.float32([1.0, 0.0])], keyed=True)
    state, _ = train.fit(feed, start(SGD), key, 3, chunk=2)
    wanted = sum(jax.random.uniform(jax.random.fold_in(key, n)) for n in range(3))
    np.testing.assert_allclose(state.params["w"], [-0.5 * wanted, 0.0], rtol=1e-6)


MANY = {
    "list": lambda: BATCHES,
    "generator": lambda: (np.float32([n % 5, 1.0]) for n in range(1, 100)),
    "loader": Loader,
    "bytes": lambda: Loader(binary=True),
}


@pytest.mark.parametrize("kind", MANY)
def test_a_feed_goes_on_where_it_was_killed(kind, tmp_path):
    pytest.importorskip("orbax.checkpoint")

    def fit(batches, steps=12, kill=None):
        def end(state, record):
            if record["step"] == kill:
                raise InterruptedError

        feed = train.Feed(STEP, batches)
        with train.Checkpoints(tmp_path, every=4, keep=1) as given:
            more = {"callbacks": [end], "checkpoints": given, "chunk": 2}
            return train.fit(feed, start(TX), jax.random.key(0), steps, **more)

    with pytest.raises(InterruptedError):
        fit(MANY[kind](), kill=10)
    batches = MANY[kind]()
    got = fit(batches)
    whole = train.fit(train.Feed(STEP, MANY[kind]()), start(TX), jax.random.key(0), 12, chunk=2)
    assert_same(got, whole)
    assert getattr(batches, "given", 4) == 4  # A loader gives none again.


@pytest.mark.parametrize("k2", [2, 3])
def test_streams_go_through_fit_with_their_carry_and_begin_anew_at_a_reset(k2, tmp_path, key):
    pytest.importorskip("orbax.checkpoint")
    cell, tx = lj.GRU(3), optim.clipped_sgd(0.1)
    ids = np.random.default_rng(0).standard_normal((24, 2, 2)).astype("float32")
    resets = np.zeros((24, 2), bool)
    resets[[7, 13], [0, 1]] = True
    targets = np.ones((24, 2, 3), np.float32)
    pieces = [((ids[n : n + 4], resets[n : n + 4]), targets[n : n + 4]) for n in range(0, 24, 4)]

    def apply(params, carry, inputs, mask):
        xs, resets = inputs
        return lj.unroll(cell, params, xs, carry, resets=resets, mask=mask)

    def loss(ys, targets):
        return jnp.mean(jnp.square(ys - targets))

    params = cell.init(key, 2)
    carry, state = cell.initial_carry(params, (2,)), train.create(params, tx)
    run = train.make_tbptt(apply, loss, tx, k1=2, k2=k2)
    wanted, end, history = run(state, carry, (ids, resets), targets)

    def feed():
        return train.Feed(run, pieces, carry=carry)

    with train.Checkpoints(tmp_path, every=4) as given:
        first = feed()
        train.fit(first, state, key, 8, chunk=4, checkpoints=given)
        assert first.taken == 4
    with train.Checkpoints(tmp_path, every=4) as given:
        second = feed()
        got, seen = train.fit(second, state, key, 12, chunk=4, checkpoints=given)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), got, wanted)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), second.carry, end)
    np.testing.assert_allclose(seen["loss"], history["loss"], rtol=1e-5)
    whole = feed()
    assert_same(train.fit(whole, state, key, 12, chunk=4), (got, seen))
    assert_same(whole.carry, second.carry)
    with pytest.raises(ValueError, match="steps: got 3, wanted a multiple of the 2 updates of a"):
        feed()(state, key, 3)
    with pytest.raises(ValueError, match=r"batches: got a batch that is 3, wanted a tuple"):
        train.Feed(run, [3], carry=carry)(state, key, 2)


@pytest.mark.parametrize("k2", [2, 3])
def test_a_stream_of_nan_begins_anew(k2, key):
    """Its carry would be NaN for ever, and every later update be left out."""
    tx = optim.guarded(optax.sgd(0.1))

    def apply(params, carry, xs, mask):
        h, ys = jax.lax.scan(lambda h, x: (jnp.tanh(x + h * params["w"]),) * 2, carry, xs)
        return h, ys

    run = train.make_tbptt(apply, lambda ys, t: jnp.mean(jnp.square(ys - t)), tx, k1=2, k2=k2)
    pieces = np.random.default_rng(0).normal(size=(6, 2, 2, 3)).astype("f")
    pieces[1, 0, 0, 0] = np.nan  # An input.
    feed = train.Feed(run, [tuple(piece) for piece in pieces], carry=np.zeros(3, "f"))
    state, history = train.fit(feed, train.create({"w": jnp.ones(3)}, tx), key, 6, chunk=2)
    later = np.isnan(history["loss"]).tolist()
    assert later == [False, True, False, False, False, False]
    anew = train.Feed(run, [tuple(piece) for piece in pieces[2:]], carry=np.zeros(3, "f"))
    other = train.create({"w": jnp.ones(3)}, tx)
    other, _ = train.Feed(run, [tuple(pieces[0])], carry=np.zeros(3, "f"))(other, key, 1)
    other, _ = train.fit(anew, other, key, 4, chunk=2)
    jax.tree.map(np.testing.assert_array_equal, state.params, other.params)
    jax.tree.map(np.testing.assert_array_equal, feed.carry, anew.carry)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: train.Feed(STEP, 3), "batches: got 3, wanted an iterable of batches"),
        (lambda: train.Feed(1, []), "step: got 1"),
        (lambda: train.Feed(STEP, [], keyed=1), "keyed: got 1"),
        (
            lambda: train.Feed(STEP, [])(start(TX), jax.random.key(0), 1),
            "batches: got an iterable without any, wanted batches",
        ),
        (
            lambda: train.Feed(STEP, iter(BATCHES))(start(TX), jax.random.key(0), 6),
            "batches: got an iterator that ended after 5 batches, wanted one that goes on; pass",
        ),
        (
            lambda: MOVED.set_state(train.Fed(0, "", None)),
            "batches: got an iterator that is to go back and has given 1 batches",
        ),
        (
            lambda: train.Feed(STEP, BATCHES).set_state(train.Fed(1, 'json {"next": 1}', None)),
            "batches: got .*, which has no place .*, wanted the iterable it began with",
        ),
        (lambda: train.Feed(STEP, BAD).get_state(), "an iterator whose get_state gives .*JSON"),
    ],
)
def test_what_cannot_be_fed_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


MOVED, BAD = train.Feed(STEP, iter(BATCHES)), Loader()
MOVED.taken = 1
BAD.get_state = lambda: object()


def test_the_checkpoints_of_a_feed_are_not_those_of_a_loop(loop, tmp_path):
    pytest.importorskip("orbax.checkpoint")
    with train.Checkpoints(tmp_path) as given:
        fit(loop, 2, checkpoints=given)
    with train.Checkpoints(tmp_path) as given:
        with pytest.raises(ValueError, match="checkpoints: got .*, of a run without a state of it"):
            fit(train.Feed(STEP, BATCHES), 4, checkpoints=given)


# ------------------------------------------------------------------------- a table


def test_a_table_is_that_of_a_run_which_nobody_killed(loop, tmp_path):
    pytest.importorskip("orbax.checkpoint")

    def run(name, kill=None):
        def end(state, record):
            if record["step"] == kill:
                raise InterruptedError

        with (
            train.Checkpoints(tmp_path / name, every=4) as given,
            train.CsvLines(tmp_path / f"{name}.csv") as table,
        ):
            more = {"evaluate": lambda params: {"w": params["w"][0]}, "evaluate_every": 4}
            fit(loop, 12, metrics=table.write, callbacks=[end], checkpoints=given, **more)

    run("whole")
    with pytest.raises(InterruptedError):
        run("cut", kill=8)
    assert len((tmp_path / "cut.csv").read_text().splitlines()) == 5
    run("cut")
    whole, cut = ((tmp_path / f"{name}.csv").read_bytes() for name in ("whole", "cut"))
    assert whole == cut
    rows = list(csv.DictReader(whole.decode().splitlines()))
    assert [row["step"] for row in rows] == ["2", "4", "6", "8", "10", "12"]
    assert rows[0]["eval_w"] == "" and float(rows[1]["eval_w"]) and float(rows[0]["norm_before"])


def test_cells_of_a_table(tmp_path):
    path = tmp_path / "table.csv"
    with train.CsvLines(path) as table:
        table.write({"step": jnp.array([1, 1]), "name": 'a,"b"', "aux": {"x": np.float32(0.5)}})
        table.write({"step": 2, "none": None, "each": np.array([1.0, np.inf]), "flag": True})
        table.write({"step": 3, "loss": -np.inf, "aux": train.Fed(1, "here", np.nan)})
    assert path.read_text() == (
        "step,name,aux/x,none,each,flag,loss,aux/taken,aux/position,aux/carry\n"
        '"[1, 1]","a,""b""",0.5,,,,,,,\n'
        '2,,,,"[1.0, ""Infinity""]",True,,,,\n'
        "3,,,,,,-inf,1,here,nan\n"
    )


def test_a_table_that_was_cut_goes_on_and_what_is_none_stays(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("step,loss\n1,0.5\n2,0.")
    with train.CsvLines(path) as table:
        assert path.read_text() == "step,loss\n1,0.5\n"
        table.write({"step": 4, "loss": 1})
        before = path.read_text()
        for record, match in [
            ({"loss": 1}, 'got .*, wanted an entry "step"'),
            ({"step": 5, "loss": 1j}, r"record\['loss'\]: got 1j"),
        ]:
            with pytest.raises(ValueError, match=match):
                table.write(record)
        assert path.read_text() == before == "step,loss\n1,0.5\n4,1\n"
    with pytest.raises(ValueError, match="record: got a closed file"):
        table.write({"step": 6})
    for content in ("my notes\n", "step,loss\nx,1\n", "no end"):
        path.write_text(content)
        with pytest.raises(ValueError, match='path: got .*, wanted a table with a column "step"'):
            train.CsvLines(path).__enter__()
        assert path.read_text() == content
    with pytest.raises(ValueError, match="path: got .*folder that does not exist"):
        train.CsvLines(tmp_path / "none" / "table.csv").__enter__()


# ------------------------------------------------------------------------- what progress shows


def test_progress_gets_the_entries_that_are_to_be_shown(loop):
    told = []
    fit(
        loop,
        4,
        evaluate=lambda params: {"one": 1.0},
        evaluate_every=4,
        metrics=lambda record: None,
        progress=lambda n, **given: told.append(given),
        fields=("clip_rate", "eval_one"),
    )
    assert [sorted(given) for given in told] == [
        ["clip_rate", "loss"],
        ["clip_rate", "eval_one", "loss"],
    ]
    for given, match in [
        ("clip_rate", r"fields: got 'clip_rate', wanted a tuple of names"),
        (("clip",), r"fields: got 'clip', wanted one of \['clip_rate'"),
    ]:
        with pytest.raises(ValueError, match=match):
            fit(loop, 2, progress=lambda n, **more: None, fields=given)
