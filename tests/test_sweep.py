"""Sweeps: every run is the run of `make_loop`, ends where it should, and survives being killed."""

import functools
import math
import os
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lstm_jax as lj
from lstm_jax import checkpoint, train
from lstm_jax.train import _group
from lstm_jax.train._configs import by_static

D, SEEDS, STEPS, CHUNK = 3, (4, 0), 10, 4
RATES = ({"rate": 0.1}, {"rate": 0.3})


# ---- a small problem: a linear model, which is learned, or diverges, in a few updates ------------
def loss(params, batch, config):
    del config
    xs, targets = batch
    return jnp.mean((xs @ params["w"] - targets) ** 2)


def tx(config):
    return optax.sgd(config["rate"])


def init(key, config):
    del config
    return {"w": jax.random.normal(key, (D,))}


def sample(key):
    xs = jax.random.normal(key, (8, D))
    return xs, xs @ jnp.arange(1.0, D + 1)


def small(info):
    return info["loss"] < 0.5


def norm(params, key, config):
    """A probe: a number of the parameters, of the key and of the configuration."""
    return {
        "norm": lj.optim.global_norm(params),
        "drawn": jax.random.uniform(key, (2,)),
        "rate": jnp.asarray(config["rate"]),
    }


def run(configs=RATES, seeds=SEEDS, steps=STEPS, **options):
    given = {"loss": loss, "tx": tx, "init": init, "sample": sample, "chunk": CHUNK, **options}
    return train.sweep(configs=configs, seeds=seeds, steps=steps, **given)


def of_run(tree, c, s):
    return jax.tree.map(lambda leaf: np.asarray(leaf)[c, s], tree)


@functools.cache
def drawn(seed):
    """What a seed gives: the initial parameters, and 60 batches."""
    key_init, key_batches, _ = jax.random.split(jax.random.key(seed), 3)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key_batches, jnp.arange(60))
    return np.asarray(init(key_init, {})["w"]), jax.device_get(jax.vmap(sample)(keys))


def by_hand(config, seed, steps):
    """The losses of one run and its parameters before each update, by a loop."""
    w, batches = drawn(seed)
    losses, before = [], [w]
    for xs, targets in zip(*batches, strict=True):
        left = xs @ w - targets
        losses.append(np.mean(left**2))
        w = w - config["rate"] * 2 / len(xs) * xs.T @ left
        before.append(w)
    return np.array(losses[:steps]), np.array(before[: steps + 1])


def assert_same(a, b):
    """The same bits."""
    jax.tree.map(np.testing.assert_array_equal, _plain(a), _plain(b))


def assert_near(a, b):
    """The same but for rounding, as XLA may compile `vmap` in another order of sums."""
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), a, b)


def _plain(tree):
    """Random keys as the numbers that they are."""

    def plain(leaf):
        is_key = jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    return jax.tree.map(plain, tree)


# ---- equality with single runs -------------------------------------------------------------------
def test_a_run_is_that_of_make_loop():
    """With all that a study would trace: learning rate, clip, penalty, scale of the start."""
    task = lj.data.Adding(4)
    net = lj.readout(lj.RNN(3, w_hh_init=lj.initializers.identity()), task.output_size)

    def loss(params, batch, config):
        value = task.loss(lj.unroll(net, params, batch.xs)[1], batch)
        return value + config["l2"] * lj.regularizers.l2(params["inner"]["w_hh"])

    def tx(config):
        return lj.clipped_sgd(config["rate"], config["max_norm"], momentum=0.9)

    def init(key, config):
        return jax.tree.map(lambda w: config["scale"] * w, net.init(key, task.input_size))

    functions = {"loss": loss, "tx": tx, "init": init, "sample": lambda key: task.sample(key, 4)}
    values = [(0.5, 0.1, 0.0, 1.0), (0.2, math.inf, 0.01, 2.0)]
    configs = [dict(zip(("rate", "max_norm", "l2", "scale"), v, strict=True)) for v in values]
    runs = run(configs, steps=5, chunk=5, **functions)
    assert runs.history["loss"].shape == (2, 2, 5) and runs.seeds == list(SEEDS)
    assert set(runs.history) == {"loss", *lj.optim.report(runs.state.opt_state)}
    for c, config in enumerate(configs):
        key_init, key_batches, _ = jax.random.split(jax.random.key(SEEDS[c]), 3)
        state = train.create(init(key_init, config), tx(config))
        loop = train.make_loop(
            lambda params, batch, config=config: loss(params, batch, config),
            tx(config),
            functions["sample"],
            steps=5,
        )
        found = of_run(runs.state, c, c), of_run(runs.history, c, c)
        assert_near(found, loop(state, key_batches))
    assert runs.history["clipped"][0].any() and not runs.history["clipped"][1].any()


def test_every_run_is_that_of_a_loop_by_hand():
    """Alone as beside others."""
    runs, single = run(), run(RATES[1:], SEEDS[1:])
    for c, config in enumerate(RATES):
        for s, seed in enumerate(SEEDS):
            losses, before = by_hand(config, seed, STEPS)
            assert_near(runs.history["loss"][c, s], losses)
            assert_near(runs.params["w"][c, s], before[-1])
    assert_near((single.history["loss"][0, 0], single.params["w"][0, 0]), (losses, before[-1]))


def test_configurations_share_what_is_drawn():
    """The same start and the same batches in all of them, others from other seeds."""
    runs = run([{"rate": 0.0}, {"rate": 0.0}, {"rate": 0.1}])
    assert_same(*(jax.tree.map(lambda x, c=c: x[c], runs.history) for c in (0, 1)))
    assert_same(*(runs.history["loss"][c, :, 0] for c in (0, 2)))
    assert runs.history["loss"][0, 0, 0] != runs.history["loss"][0, 1, 0]
    assert len(np.unique(runs.history["loss"][0])) == 2 * STEPS  # No batch comes twice.


def test_chunks_do_not_matter():
    whole, parts = run(chunk=100), run(chunk=CHUNK)
    assert_near((parts.state, parts.history), (whole.state, whole.history))


def test_numbers_are_like_those_of_python():
    """A number does not widen the parameters, and 64 bits are used where they are switched on."""

    def narrow(key, config):
        return {"w": config["scale"] * jax.random.normal(key, (D,), jnp.bfloat16)}

    def loss(params, batch, config):
        del batch
        return config["rate"] * jnp.sum(params["w"] ** 2)

    runs = run([{"rate": 0.5, "scale": 0.1}], init=narrow, loss=loss)
    assert runs.params["w"].dtype == runs.history["loss"].dtype == jnp.bfloat16
    with jax.enable_x64(True):
        runs = run([{"rate": 0.1}], probe=norm, steps=1)
        assert runs.probes["rate"][0, 0, 0] == 0.1  # In float32 it is not.


# ---- the end of a run ----------------------------------------------------------------------------
def test_a_run_that_stops_is_frozen():
    """Where the criterion was met: that update is not made."""
    configs = [*RATES, {"rate": 0.0}]
    runs = run(configs, stop=small, steps=30)
    assert np.isinf(runs.steps_to_stop[2]).all() and np.isfinite(runs.steps_to_stop[:2]).all()
    assert len(set(runs.steps_to_stop[:2].flat)) > 1
    for c, config in enumerate(configs):
        for s, seed in enumerate(SEEDS):
            made = int(runs.state.step[c, s])
            assert made == min(runs.steps_to_stop[c, s], 30)
            assert_near(runs.params["w"][c, s], by_hand(config, seed, made)[1][-1])
            losses = runs.history["loss"][c, s]
            assert (losses[:made] >= 0.5).all()
            assert (losses[made:] == losses[min(made, 29)]).all() and (losses[made:] < 0.5).all()


def test_a_sweep_ends_with_its_last_run():
    told = []
    runs = run(stop=small, steps=1000, progress=told.append)
    last = int(runs.steps_to_stop.max())
    assert runs.history["loss"].shape == (2, 2, last + 1) and last < 900
    assert sum(told) == 2 * 1000
    assert runs.probed_at[-1] == last + 1


def test_a_run_may_stop_before_its_first_update():
    runs = run(stop=lambda info: info["loss"] < 1e9)
    assert not runs.steps_to_stop.any() and not runs.state.step.any()
    assert runs.history["loss"].shape == (2, 2, 1)


def test_a_run_that_diverges_keeps_its_last_finite_parameters():
    """And the others are the same bits as beside runs that do not diverge."""
    runs, others = (run([{"rate": 0.1}, {"rate": r}], steps=60) for r in (3e3, 0.2))
    assert np.isinf(runs.steps_to_divergence[0]).all() and np.isinf(runs.steps_to_stop).all()
    assert np.isfinite(runs.steps_to_divergence[1]).all()
    assert_same(runs.state.step[1], runs.steps_to_divergence[1].astype(np.int32))
    assert np.isfinite(runs.params["w"]).all() and abs(runs.params["w"][1]).max() > 1e9
    assert_same(of_run(runs.params, 0, 1), of_run(others.params, 0, 1))
    assert_same(runs.history["loss"][0], others.history["loss"][0])


@pytest.mark.sampled
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_loss_that_is_not_finite_is_divergence(bad):
    """Also where a criterion takes it: Inf is above any bound."""

    def broken(params, batch, config):
        return jnp.where(config["fails"] > 0, bad, loss(params, batch, config))

    configs = [{"rate": 0.1, "fails": f} for f in (0.0, 1.0)]
    runs = run(configs, loss=broken, stop=lambda info: info["loss"] > 1e6)
    assert np.isinf(runs.steps_to_stop).all()
    assert_same(runs.steps_to_divergence, np.array([[np.inf] * 2, [0.0] * 2]))


def test_a_gradient_that_is_nan_is_divergence_unless_it_is_skipped():
    """The loss is finite; plain SGD would make the parameters NaN, and `clipped_sgd` skips."""

    def cliff(params, batch, config):
        edge = jnp.sqrt(0.0 * params["w"][0] ** 2)  # Its derivative is Inf * 0.
        return loss(params, batch, config) + edge

    runs = run(loss=cliff)
    assert not runs.steps_to_divergence.any() and not runs.state.step.any()
    assert_same(runs.params["w"][0], np.stack([drawn(seed)[0] for seed in SEEDS]))
    runs = run(loss=cliff, tx=lambda config: lj.clipped_sgd(config["rate"]))
    assert np.isinf(runs.steps_to_divergence).all()
    assert (runs.history["skipped"][..., -1] == STEPS).all()


@pytest.mark.sampled
@pytest.mark.parametrize("limit", [math.inf, None])
def test_no_clip(limit):
    """By a traced number and by a static None: the run of plain SGD."""

    def clipped(config):
        return lj.clipped_sgd(config["rate"], config["max_norm"])

    runs = run([{"rate": 0.1, "max_norm": limit}, {"rate": 0.1, "max_norm": 0.01}], tx=clipped)
    assert_near(runs.params["w"][0], run(RATES[:1]).params["w"][0])
    assert (runs.history["clip_rate"][1] == 1).all() and not runs.history["clip_rate"][0].any()


# ---- probes --------------------------------------------------------------------------------------
def test_a_probe_is_taken_before_the_first_update_and_after_every_chunk():
    configs = [{"rate": 0.0}, {"rate": 0.3}, {"rate": 3e3}]
    runs = run(configs, probe=norm, stop=small, steps=30)
    assert_same(runs.probed_at, np.array([*range(0, 30, CHUNK), 30]))
    assert runs.probes["drawn"].shape == (3, 2, len(runs.probed_at), 2)
    for s, seed in enumerate(SEEDS):
        key_init, _, key_probe = jax.random.split(jax.random.key(seed), 3)
        drawn = np.asarray(jax.random.uniform(key_probe, (2,)))
        assert (runs.probes["drawn"][:, s] == drawn).all()  # Held-out data stay the same.
        start = lj.optim.global_norm(init(key_init, {}))
        np.testing.assert_allclose(runs.probes["norm"][:, s, 0], start, rtol=1e-6)
        for c in range(3):
            norms = runs.probes["norm"][c, s]
            ended = runs.probed_at >= runs.state.step[c, s]
            assert len(set(norms[ended])) == 1
            assert len(set(norms)) == (1 if c == 0 else 1 + (~ended).sum())
    assert_near(runs.probes["rate"][:, 0, 0], np.float32([0.0, 0.3, 3e3]))


def test_aux_is_in_the_history_and_stops_a_run():
    def with_aux(params, batch, config):
        value = loss(params, batch, config)
        return value, {"w": params["w"].astype(jnp.bfloat16), "small": value < 0.5}

    runs = run(loss=with_aux, has_aux=True, stop=lambda info: info["aux"]["small"], steps=30)
    assert_same(runs.steps_to_stop, run(stop=small, steps=30).steps_to_stop)
    assert runs.history["aux"]["w"].shape == (*runs.history["loss"].shape, D)


# ---- programs ------------------------------------------------------------------------------------
def counting(function):
    """A function that counts its traces in `.traced`."""

    def counted(*args):
        counted.traced += 1
        return function(*args)

    counted.traced = 0
    return counted


def test_numbers_compile_nothing():
    """Neither in one call nor in the next one; a larger sweep compiles again."""
    counted = counting(loss)
    run(loss=counted, steps=9)
    assert counted.traced == 1
    run([{"rate": 0.01}, {"rate": math.inf}], loss=counted, seeds=[7, 8], steps=5)
    assert counted.traced == 1
    run([{"rate": 0.01}], loss=counted)
    assert counted.traced == 2


def test_a_state_that_holds_numbers_compiles_once():
    """Though a number is like Python's, and what an update makes of it is not."""

    def tx(config):
        def update(updates, rate, params=None):
            del params
            return jax.tree.map(lambda g: -rate * g, updates), rate * jnp.float32(0.9)

        return optax.GradientTransformation(lambda params: config["rate"], update)

    counted = counting(loss)
    run(loss=counted, tx=tx)
    assert counted.traced == 1


@pytest.mark.sampled
@pytest.mark.parametrize("other", ["word", (1.0, lj.GRU(3))], ids=repr)
def test_static_values_make_programs(other):
    """One for all configurations with equal ones, in whose place the results stand."""
    seen = []

    def named(params, batch, config):
        seen.append(config["kind"])
        return loss(params, batch, config) + (0.0 if config["kind"] is None else 100.0)

    kinds = (other, None, other, None)
    configs = [{"rate": 0.1 * c, "kind": kind} for c, kind in enumerate(kinds)]
    runs = run(configs, loss=named)
    assert sorted(map(repr, seen)) == sorted([repr(other), "None"])
    assert (runs.history["loss"][0::2, :, 0] > 100).all()
    assert (runs.history["loss"][1::2, :, 0] < 100).all()
    assert_near(runs.params["w"], run([{"rate": c["rate"]} for c in configs]).params["w"])
    assert runs.configs == configs


def test_equal_to_python_is_not_equal():
    """1, True and 1.0 are three values, and so are 0.0 and -0.0 in a tuple."""
    values = [1, True, 1.0, 2.0, (0.0,), (-0.0,), None, 1]
    members = [places for _, places in by_static([{"kind": value} for value in values])]
    assert members == [[0, 7], [1], [2, 3], [4], [5], [6]]


def test_programs_that_end_early_repeat_their_last():
    def named(params, batch, config):
        return loss(params, batch, config) * (1.0 if config["kind"] == "slow" else 1e-9)

    configs = [{"rate": 0.1, "kind": kind} for kind in ("slow", "done")]
    runs = run(configs, loss=named, stop=lambda info: info["loss"] < 1e-6, probe=norm)
    assert runs.history["loss"].shape == (2, 2, STEPS) and not runs.steps_to_stop[1].any()
    assert len(np.unique(runs.history["loss"][1])) == len(np.unique(runs.probes["norm"][1])) == 2


def test_every_batch_is_drawn_once_for_a_seed():
    """Whatever the number of configurations."""
    drawn = []

    def watched(key):
        jax.debug.callback(
            lambda data: drawn.append(tuple(np.asarray(data))), jax.random.key_data(key)
        )
        return sample(key)

    run(sample=watched, steps=3, chunk=3)
    jax.effects_barrier()
    assert len(drawn) == len(set(drawn)) == 3 * len(SEEDS)


# ---- the file ------------------------------------------------------------------------------------
def noisy(config):
    """An optimiser whose state holds a random key, a count, and a traced number."""
    sgd = optax.inject_hyperparams(optax.sgd)(config["rate"])
    return optax.chain(_with_key(), sgd)


def _with_key():
    def update(updates, state, params=None):
        del params
        key, own = jax.random.split(state)
        return jax.tree.map(lambda g: g + jax.random.normal(own, g.shape), updates), key

    return optax.GradientTransformation(lambda params: jax.random.key(1), update)


STATIC = [{"rate": rate, "kind": kind} for rate in (0.1, math.inf) for kind in ("a", None)]


def keep(path, **options):
    given = {"probe": norm, "stop": small, "tx": noisy, "path": path, **options}
    return run(STATIC, **given)


def results(runs):
    """The arrays of a sweep."""
    return runs._replace(configs=None, seeds=None)


class Killed(BaseException):
    pass


def test_a_sweep_goes_on_after_every_interruption_to_the_same_bits(tmp_path, monkeypatch):
    """Before, within and after each writing of the file, in both programs."""
    whole, path, replace = keep(None), tmp_path / "sweep.npz", os.replace
    for attempt in range(20):
        monkeypatch.setattr(os, "replace", (_refuse, _then_die(replace), replace)[attempt % 3])
        written = path.read_bytes() if path.exists() else None

        def progress(n, written=written):
            if path.exists() and path.read_bytes() != written:
                raise Killed

        try:
            runs = keep(path, progress=progress)
        except (Killed, ValueError):
            assert os.listdir(tmp_path) in ([], ["sweep.npz"])
        else:
            break
    assert attempt == 9  # Two programs of three chunks, and every third attempt gets nowhere.
    assert_same(results(runs), results(whole))


def _refuse(*args):
    raise OSError(28, "No space left on device")


def _then_die(replace):
    def replace_and_die(*args):
        replace(*args)
        raise Killed

    return replace_and_die


def test_a_finished_sweep_is_read_without_work(tmp_path, monkeypatch):
    path = tmp_path / "sweep.npz"
    runs, written = keep(path), path.read_bytes()
    for name in ("advance", "start", "measure"):
        traced = getattr(_group, name)
        monkeypatch.setattr(_group, name, type(name, (), {"eval_shape": traced.eval_shape}))
    told = []
    again = keep(path, progress=told.append)
    assert_same(results(again), results(runs))
    assert again.configs == runs.configs and sum(told) == len(STATIC) * STEPS
    assert path.read_bytes() == written


OTHERS = {
    "configs": {"configs": [{**c, "rate": 0.2} for c in STATIC]},
    "1 is not 1.0": {"configs": [{**c, "kind": c["kind"] and "b"} for c in STATIC]},
    "seeds": {"seeds": [4, 1]},
    "steps": {"steps": STEPS + 1},
    "chunk": {"chunk": CHUNK + 1},
    "momentum": {"tx": lambda config: optax.sgd(0.1, momentum=0.9)},
    "w": {"init": lambda key, config: {"w": jnp.zeros(D), "b": jnp.zeros(2)}},
    "probes": {"probe": None},
    "history": {"loss": lambda *args: (loss(*args), jnp.zeros(2)), "has_aux": True},
}
NAMES = {"1 is not 1.0": "configs", "probes": "drawn", "history": "aux", "momentum": "opt_state"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep") / "sweep.npz"
    keep(path)
    return path


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_of_another_sweep_is_refused_by_name(name, finished):
    before = finished.read_bytes()
    given = {"configs": STATIC, "probe": norm, "stop": small, "tx": noisy, **OTHERS[name]}
    with pytest.raises(ValueError, match=f"path: got .*{NAMES.get(name, name)}.*name another file"):
        run(path=finished, **given)
    assert finished.read_bytes() == before


def test_a_damaged_file_is_refused(finished, tmp_path):
    whole = finished.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    model = tmp_path / "model.npz"
    checkpoint.save(model, {"w": jnp.zeros(2)})
    for data in (whole[:-7], whole[: len(whole) // 2], b"", bytes(flipped), model.read_bytes()):
        path = tmp_path / "sweep.npz"
        path.write_bytes(data)
        with pytest.raises(ValueError, match="path: got"):
            keep(path)
        assert path.read_bytes() == data


KILLED = """
import sys, time
sys.path.insert(0, {folder!r})
import test_sweep
test_sweep.keep({path!r}, progress=lambda n: (print("chunk", flush=True), time.sleep(0.3)))
"""


@pytest.mark.grid
def test_a_killed_process_loses_a_chunk_at_most(tmp_path):
    path = str(tmp_path / "sweep.npz")
    code = KILLED.format(folder=os.path.dirname(__file__), path=path)
    whole = keep(None)
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    parts, description = checkpoint.load(path)
    assert description["updates"] and len(parts) == len(description["updates"])
    assert_same(results(keep(path)), results(whole))


# ---- wrong calls ---------------------------------------------------------------------------------
WRONG = {
    "no function": ({"loss": None}, "loss: got None, wanted a function of params, a batch and"),
    "an optimiser": ({"tx": optax.sgd(0.1)}, "tx: got .*, wanted a function from a configuration"),
    "a stop that is no function": ({"stop": 0.1}, "stop: got 0.1, wanted a function from an info"),
    "a dict": ({"configs": {"rate": 0.1}}, "configs: got .*, wanted a list of dicts"),
    "none": ({"configs": []}, r"configs: got \[\], wanted a list of dicts"),
    "other names": (
        {"configs": [{"rate": 0.1}, {"rat": 0.1}]},
        r"configs\[1\]: got 'rat', wanted the names of",
    ),
    "a number as a name": (
        {"configs": [{1: 0.1}]},
        r"configs\[0\]: got the name 1, wanted strings",
    ),
    "NaN": ({"configs": [{"rate": math.nan}]}, r"configs\[0\]\['rate'\]: got NaN, wanted a number"),
    "an array": (
        {"configs": [{"rate": np.zeros(3)}]},
        r"configs\[0\]\['rate'\]: got an array of .*, wanted a number, not an array",
    ),
    "a list": (
        {"configs": [{"rate": [0.1]}]},
        r"configs\[0\]\['rate'\]: got \[0.1\], wanted a num",
    ),
    "a number of seeds": ({"seeds": 3}, r"seeds: got 3, wanted different integers.*range\(5\)"),
    "no seed": ({"seeds": []}, "seeds: got .*, wanted different integers"),
    "a seed twice": ({"seeds": [1, 1]}, r"seeds: got \[1, 1\], wanted different integers"),
    "half a seed": ({"seeds": [0.5]}, r"seeds: got 0.5, wanted integers in \[0, 2\*\*32\)"),
    "steps": ({"steps": 0}, "steps: got 0, wanted an integer of at least 1"),
    "chunk": ({"chunk": 0}, "chunk: got 0, wanted an integer of at least 1"),
    "has_aux": ({"has_aux": "no"}, "has_aux: got 'no', wanted True or False"),
    "progress": ({"progress": 3}, "progress: got 3, wanted a function"),
    "a folder": ({"path": "/"}, "path: got '/', a folder, wanted a file"),
    "no folder": ({"path": "/nowhere/x.npz"}, "path: got '/nowhere/x.npz' in a folder that does"),
    "a function by its address": (
        {"configs": [{"rate": 0.1, "f": print and (lambda: 0)}], "path": "x.npz"},
        r"configs\[0\]\['f'\]: got .*, wanted with a path, a value that is known by its text",
    ),
    "a stop of many": ({"stop": lambda info: info["loss"] * 2}, "stop: got float32.*wanted a bool"),
    "a pair without has_aux": (
        {"loss": lambda params, batch, config: (jnp.sum(params["w"]), 1)},
        "loss: got a function that gives a tuple, wanted a scalar; pass has_aux=True",
    ),
    "has_aux without a pair": (
        {"has_aux": True},
        r"loss: got a function that gives .*, wanted \(scalar, aux\)",
    ),
    "a key from a probe": (
        {"probe": lambda params, key, config: key},
        "probe: got an array of .*key",
    ),
    "a word from a probe": ({"probe": lambda params, key, config: "w"}, "probe: got a str"),
    "a key from a loss": (
        {"loss": lambda p, b, c: (jnp.sum(p["w"]), jax.random.key(0)), "has_aux": True},
        "aux: got an array of dtype key",
    ),
    "other shapes": (
        {
            "configs": [{"rate": 0.1, "size": 2}, {"rate": 0.1, "size": 3}],
            "init": lambda key, config: {"w": jnp.zeros(3), "more": jnp.zeros(config["size"])},
        },
        r"configs: got state.*more.* float32\[2\] for \[0\] and float32\[3\] for \[1\]",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_calls(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        run(**given)
    assert os.listdir(tmp_path) == []


def test_a_sweep_is_no_part_of_a_traced_function():
    with pytest.raises(
        ValueError, match=r"configs\[0\]\['rate'\]: got a traced value, wanted a num"
    ):
        jax.grad(lambda rate: run([{"rate": rate}]).params["w"].sum())(0.1)
    with pytest.raises(ValueError, match="sweep: got a call within a function that is traced"):
        jax.jit(lambda: run().params["w"])()


def test_configurations_share_what_is_drawn_whatever_keys_are_the_default():
    """Under `vmap` keys of "rbg" draw numbers of their own, so that no two runs compare."""
    wanted = run(steps=2)
    before = jax.config.jax_default_prng_impl
    jax.config.update("jax_default_prng_impl", "rbg")
    try:
        assert_same(run(steps=2).params, wanted.params)
    finally:
        jax.config.update("jax_default_prng_impl", before)


def test_without_parameters_the_losses_are_there():
    seen = run(init=lambda key, config: {}, loss=lambda p, batch, config: jnp.mean(batch[1]))
    assert seen.history["loss"].shape == (2, 2, STEPS)


def test_the_largest_seed():
    assert_near(
        run(RATES[:1], [2**32 - 1], 1).params["w"][0, 0], by_hand(RATES[0], 2**32 - 1, 1)[1][1]
    )
