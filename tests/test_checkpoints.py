"""Checkpoints of runs: types come back, a killed run goes on to the same bits, damage is named."""

import collections
import dataclasses
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import lstm_jax as lj
from lstm_jax import train
from lstm_jax.train import _seal, checkpoints

pytest.importorskip("orbax.checkpoint")

TX = optax.chain(lj.clipped_sgd(0.1, momentum=0.9), optax.add_noise(0.01, 0.5, 0))


def loss(params, batch):
    return jnp.mean(jnp.square(batch @ params["w"]))


@pytest.fixture(scope="module")
def run():
    """One compiled program for all tests."""
    return train.make_loop(loss, TX, lambda key: jax.random.normal(key, (2, 3)), 4, donate=True)


def fit(run, steps, given=None, state=None, key=1, **more):
    state = train.create({"w": jnp.eye(3)}, TX) if state is None else state
    return train.fit(run, state, jax.random.key(key), steps, chunk=4, checkpoints=given, **more)


def resume(run, folder, steps, **more):
    with train.Checkpoints(folder, every=8, keep=2) as given:
        return fit(run, steps, given, **more)


def assert_same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for our, their in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert isinstance(our, jax.Array) == isinstance(their, jax.Array)
        assert np.shape(our) == np.shape(their)
        if not hasattr(their, "dtype"):
            assert type(our) is type(their) and repr(our) == repr(their)
            continue
        assert our.dtype == their.dtype
        if jnp.issubdtype(their.dtype, jax.dtypes.prng_key):
            our, their = jax.random.key_data(our), jax.random.key_data(their)
        assert np.asarray(our).tobytes() == np.asarray(their).tobytes()


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


class Stopped(Exception):
    """What ends a run in these tests."""


def stop_after(chunks):
    def progress(n, loss):
        nonlocal chunks
        chunks -= 1
        if not chunks:
            raise Stopped

    return progress


# ---- what comes back -----------------------------------------------------------------------------
def test_any_tree_comes_back_with_its_types(tmp_path):
    cell = lj.LSTM(2)
    params = cell.init(jax.random.key(0), 3)
    carry = cell.initial_carry(params, (4,))
    tree = {
        "state": train.create(params, optax.adamw(1e-3)),
        "carry": (carry, train.Stream(carry, carry, jnp.ones((2, 4, 3)), jnp.ones((2, 4), bool))),
        "key": jax.random.key(3),
        "place": [7, "epoch", 0.1, float("nan"), True, None, 2**70],
        "nothing": [(), {}, jnp.zeros((0, 3)), np.zeros((2, 0), np.int64)],
        "a/b": jnp.ones(1),
        "a": {"b": np.arange(3), "": jnp.ones(2), ".": jnp.ones(3), "..": jnp.ones(4)},
        "\0é": jnp.complex64(1j),
        "dtypes": [
            jnp.arange(4, dtype=jnp.int32).astype(dtype)
            for dtype in ("bfloat16", "float16", "float8_e4m3fn", "int4", "uint8", "bool")
        ],
    }
    with train.Checkpoints(tmp_path) as given:
        given.save(0, {"only": 3})
        given.save(1, tree)
        given.save(5, {})
    assert given.steps == [0, 1, 5] and given.restore() == (5, {})
    assert given.restore(step=0) == (0, {"only": 3})
    step, found = given.restore(step=1)
    assert step == 1
    assert_same(found, tree)
    assert_same(given.restore(tree, step=1)[1], tree)
    assert_same(given.restore({**tree, "state": ..., "a": {**tree["a"], "b": ...}}, 1)[1], tree)
    assert_same(given.restore(..., 1)[1], tree)


def test_what_only_like_can_restore(tmp_path):
    Local = collections.namedtuple("Local", "x")
    with train.Checkpoints(tmp_path) as given:
        given.save(1, Local(jnp.ones(2)))
    with pytest.raises(ValueError, match=r"folder: got '.*/1' with a .*Local.*pass like="):
        given.restore()
    assert_same(given.restore(Local(jnp.zeros(2)))[1], Local(jnp.ones(2)))
    for like, message in [
        (Local(jnp.zeros(3)), r"like\.x: got float32\[3\], wanted .*float32\[2\]"),
        ({"x": ...}, r"like\['x'\]: got ..., wanted a part that was saved"),
        (..., "like: got ... for a .*Local, wanted a NamedTuple of an imported module"),
    ]:
        with pytest.raises(ValueError, match=message):
            given.restore(like)
    assert given.restore(Local(...))[1] == Local(pytest.approx([1, 1]))


def test_shards_go_where_those_of_like_are(tmp_path):
    mesh = jax.make_mesh((8,), ("data",))
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (["data"], []))
    values = jnp.arange(16.0)
    tree = {"split": jax.device_put(values, split), "one": values, "key": jax.random.key(1)}
    with train.Checkpoints(tmp_path) as given:
        given.save(1, tree)
    _, found = given.restore(tree)
    assert found["split"].sharding == split and len(found["one"].sharding.device_set) == 1
    assert_same(found, tree)
    like = {**tree, "split": jax.device_put(values, whole), "one": tree["split"]}
    like["key"] = jax.device_put(tree["key"], whole)
    _, found = given.restore(like)
    assert [found[name].sharding for name in tree] == [whole, split, whole]
    assert_same(found, tree)
    assert len(given.restore()[1]["split"].sharding.device_set) == 1
    with pytest.raises(
        ValueError, match=r"like\['one'\]: got float32\[8\], wanted .*float32\[16\]"
    ):
        given.restore({**tree, "one": jax.device_put(jnp.ones(8), split)})
    with train.Checkpoints(tmp_path / "odd") as given:
        given.save(1, jnp.ones(15))
    with pytest.raises(ValueError, match=r"like: got float32\[16\], wanted .*float32\[15\]"):
        given.restore(tree["split"])


def test_a_mesh_of_one_device_is_one(tmp_path):
    """Else its explicit axes would be lost, and with them what a gradient is summed over."""
    over = jax.make_mesh((1,), ("data",))
    like = jax.device_put(np.arange(3.0, dtype=np.float32), NamedSharding(over, PartitionSpec()))
    with train.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": like})
    assert checkpoints.restore({"x": like})[1]["x"].sharding == like.sharding


def test_long_descriptions_that_differ_at_the_end_differ(tmp_path):
    with train.Checkpoints(tmp_path, description={"text": "a" * 99}) as given:
        given.save(1, {})
    with pytest.raises(ValueError, match="with another text, wanted text = a str"):
        train.Checkpoints(tmp_path, description={"text": "a" * 98 + "b"}).restore()


def test_a_description_of_nan_is_that_of_the_same_run(tmp_path):
    for _ in range(2):
        with train.Checkpoints(tmp_path, description={"rate": float("nan")}) as given:
            given.save(1 + (given.restore()[0] if given.steps else 0), {})


def test_what_is_saved_can_be_read_at_once(tmp_path):
    with train.Checkpoints(tmp_path) as given:
        for step in (1, 2):
            given.save(step, {"a": np.ones(3) * step})
            assert given.restore()[0] == step


def test_what_is_saved_is_what_was_given_then(tmp_path):
    """Though the arrays are overwritten while they are written."""
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    x, y = jnp.zeros(300_000), np.zeros(300_000)
    with train.Checkpoints(tmp_path, keep=9) as given:
        for n in range(3):
            given.save(n, [x, y])
            x = add(add(x))
            y += 2
    for n in range(3):
        assert all(np.all(np.asarray(found) == 2 * n) for found in given.restore(step=n)[1])


# ---- a run that was ended ------------------------------------------------------------------------
def test_a_run_goes_on_to_the_same_bits(tmp_path, run):
    whole = fit(run, 30)
    with pytest.raises(Stopped):
        resume(run, tmp_path, 30, progress=stop_after(3))
    assert names(tmp_path) == ["0", "8"]
    lines, told = [], []
    ended = resume(run, tmp_path, 30, metrics=lines.append, progress=lambda n, loss: told.append(n))
    assert_same(ended, whole)
    assert [line["step"] for line in lines] == [12, 16, 20, 24, 28, 30]
    assert told == [8, 4, 4, 4, 4, 4, 2] and names(tmp_path) == ["24", "30"]
    assert_same(resume(run, tmp_path, 30), whole)
    assert_same(resume(run, tmp_path, 34), fit(run, 34))
    kept = train.Checkpoints(tmp_path).restore()[1]
    assert isinstance(kept, train.Fitted) and int(kept.state.step) == 34


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Params:
    """A node that no description can name."""

    w: jax.Array


@pytest.mark.grid
def test_parameters_of_any_node_and_many_seeds_go_on(tmp_path):
    one = train.make_loop(
        lambda params, batch: loss({"w": params.w}, batch),
        TX,
        lambda key: jax.random.normal(key, (2, 3)),
        4,
    )
    many = jax.vmap(lambda state, key: one(state, key, 4), out_axes=(0, 1))

    def fit(steps, given):
        with given:
            start = Params(jnp.stack([jnp.eye(3), jnp.ones((3, 3))]))
            state = jax.vmap(lambda params: train.create(params, TX))(start)
            keys = jax.random.split(jax.random.key(0), 2)
            run = lambda state, key, steps: many(state, key)  # noqa: E731
            return train.fit(run, state, keys, steps, chunk=4, checkpoints=given)

    whole = fit(12, train.Checkpoints(tmp_path / "whole"))
    fit(8, train.Checkpoints(tmp_path / "cut"))
    assert_same(fit(12, train.Checkpoints(tmp_path / "cut")), whole)
    assert whole[1]["loss"].shape == (12, 2)


def test_the_checkpoints_of_another_call_are_refused(tmp_path, run):
    resume(run, tmp_path, 12)
    before = names(tmp_path)
    later = fit(run, 4)[0]
    for given, message in [
        ({"steps": 8}, r"checkpoints: got .*of 12 updates, wanted those of at most 8; .* own"),
        ({"steps": 20, "key": 2}, "of another random key"),
        ({"steps": 20, "state": later}, "that begin at update 0, wanted those that begin at 4"),
        (
            {"steps": 20, "state": later._replace(params={"w": jnp.ones((2, 3))})},
            r"float32\[2, 3\]",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            resume(run, tmp_path, **given)
    with train.Checkpoints(tmp_path / "other") as other:
        other.save(3, {"w": 1})
    with pytest.raises(ValueError, match=r"like.history: got ..., wanted a part that was saved"):
        resume(run, tmp_path / "other", 4)
    assert names(tmp_path) == sorted([*before, "other"])


def killed(tmp_path, kills, kind):
    """Run tests/killing.py; compare what it ended with, and return the newest checkpoints."""
    script = pathlib.Path(__file__).parent / "killing.py"
    cache = {"DIR": tmp_path / "cache", "MIN_COMPILE_TIME_SECS": 0, "MIN_ENTRY_SIZE_BYTES": -1}
    given = {"JAX_COMPILATION_CACHE_DIR": cache.pop("DIR")}
    given |= {f"JAX_PERSISTENT_CACHE_{name}": value for name, value in cache.items()}
    env = {**os.environ, **{name: str(value) for name, value in given.items()}}
    env["PYTHONPATH"] = str(script.parent.parent)
    command = [sys.executable, script, tmp_path, str(kills), "0", kind]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout, done.stderr[-3000:])
    for kept in ("npz", "csv"):
        ours, theirs = (tmp_path / f"{name}.{kept}" for name in ("killed", "whole"))
        assert ours.read_bytes() == theirs.read_bytes()
    ours, theirs = (last_lines(tmp_path / f"{name}.jsonl") for name in ("killed", "whole"))
    assert {step: ours[step] for step in theirs} == theirs
    assert any("failures" in line for line in theirs.values())  # Also what was not finite.
    return [line.split()[-1] for line in done.stdout.splitlines()]


def last_lines(path):
    """Of each step the last line, which is the one that counts."""
    return {line["step"]: line for line in map(json.loads, path.read_text().splitlines())}


@pytest.mark.grid
@pytest.mark.parametrize(("kind", "kills"), [("feed", 5), ("streams", 2), ("loop", 2)])
def test_a_run_killed_now_and_then_ends_with_the_same_bits(tmp_path, kind, kills):
    assert len(killed(tmp_path, kills, kind)) == kills


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["feed", "streams", "loop"])
def test_a_run_killed_two_hundred_times_ends_with_the_same_bits(tmp_path, kind):
    newest = killed(tmp_path, 200, kind)
    assert len(newest) == 200 and len(set(newest)) > 20  # It advances in between.


# ---- damage --------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with two checkpoints."""
    folder = tmp_path_factory.mktemp("two")
    with train.Checkpoints(folder) as given:
        for n in (1, 2):
            w = jnp.full(40, float(n))
            best = train.Improved(w, np.float64(0.5), np.asarray(n), np.asarray(0), "lowest loss")
            place = train.Fed(n, f'json {{"n": {n}}}', w)
            tree = {"w": w, "key": jax.random.key(n), "n": n, "best": best, "place": place}
            given.save(n, tree)
    return folder


def flipped(data):
    place = len(data) // 2
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


DAMAGES = {
    "truncated": lambda data, other: data[: len(data) // 2],
    "empty": lambda data, other: b"",
    "zeroed": lambda data, other: bytes(len(data)),
    "flipped": lambda data, other: flipped(data),
    "longer": lambda data, other: data + b"\n",
    "foreign": lambda data, other: other,
    "missing": None,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_file_that_has_changed_is_refused_by_name(two, damage, monkeypatch):
    files = [path for path in sorted((two / "2").rglob("*")) if path.is_file()]
    files = [path for path in files if str(path.relative_to(two / "2")) not in _seal._TIMES]
    assert len(files) > 9
    monkeypatch.setattr(
        checkpoints, "read", None
    )  # No array is read before all is seen to be whole.
    for path in files:
        data, other = path.read_bytes(), (two / "1" / _seal.RECORD).read_bytes()
        path.unlink()
        if DAMAGES[damage] is not None:
            path.write_bytes(DAMAGES[damage](data, other))
        name = str(path.relative_to(two / "2"))
        with pytest.raises(
            ValueError,
            match=f"folder: got '{two}/2' with .*{name}.*skip_damaged=|{name} of checkpoint 1",
        ):
            train.Checkpoints(two).restore()
        with pytest.raises(ValueError, match=name), train.Checkpoints(two):
            pass
        path.write_bytes(data)


def test_the_times_that_orbax_notes_do_not_matter(two, tmp_path):
    folder = shutil.copytree(two, tmp_path / "run")
    for name in _seal._TIMES:
        (folder / "2" / name).write_bytes(b"\0")
    with train.Checkpoints(folder) as given:
        assert given.restore()[1]["n"] == 2
        given.save(3, {})


def test_any_bit_of_the_record_counts(two, tmp_path):
    (tmp_path / "2").mkdir()
    data = (two / "2" / _seal.RECORD).read_bytes()
    for place in [*range(8 * 90), *range(8 * 90, 8 * len(data), 37)]:  # All of the first line.
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        (tmp_path / "2" / _seal.RECORD).write_bytes(changed)
        with pytest.raises(_seal.Refusal):
            _seal.read_record(tmp_path / "2")


def test_a_newer_version_and_another_number_are_refused(two, tmp_path):
    folder = shutil.copytree(two, tmp_path / "run")
    record = folder / "2" / _seal.RECORD
    record.write_bytes(record.read_bytes().replace(b"checkpoint 1 ", b"checkpoint 2 "))
    with pytest.raises(
        ValueError, match=r"run/2' with .*version 2, wanted up to 1; update lstm_jax"
    ):
        train.Checkpoints(folder).restore()
    (folder / "1").rename(folder / "3")
    with pytest.raises(ValueError, match="run/3' with lstm_jax of checkpoint 1, wanted that of 3"):
        train.Checkpoints(folder).restore()


def test_the_one_before_is_used_if_asked(run, tmp_path):
    whole = fit(run, 30)
    resume(run, tmp_path, 20)
    arrays = next((tmp_path / "20" / "default" / "d").iterdir())
    arrays.write_bytes(flipped(arrays.read_bytes()))
    with pytest.raises(ValueError, match=f"20' with default/d/{arrays.name}, which has changed"):
        resume(run, tmp_path, 30)
    assert names(tmp_path) == ["16", "20"]
    with pytest.warns(UserWarning, match="which has changed.*skipped and renamed '20.damaged-"):
        with train.Checkpoints(tmp_path, every=8, keep=2, skip_damaged=True) as given:
            assert given.steps == [16]
            assert_same(fit(run, 30, given), whole)
    assert names(tmp_path)[1:] == ["24", "30"] or names(tmp_path)[0].startswith("20.damaged-")


def test_where_none_is_whole_none_is_renamed(two, tmp_path):
    folder = shutil.copytree(two, tmp_path / "run")
    for n in "12":
        (folder / n / _seal.RECORD).unlink()
    with pytest.raises(ValueError, match="2' with no file lstm_jax"):
        with train.Checkpoints(folder, skip_damaged=True):
            pass
    assert names(folder) == ["1", "2"]


# ---- folders and disks ---------------------------------------------------------------------------
def test_one_run_a_folder(tmp_path):
    with train.Checkpoints(tmp_path, description={"rate": 0.1, "sizes": (3, 4)}) as given:
        given.save(1, {"n": 1})
        with pytest.raises(ValueError, match="folder: got .* to which another run is writing"):
            train.Checkpoints(tmp_path).__enter__()
    assert os.listdir(tmp_path) == ["1"]
    for description, message in [
        ({"rate": 0.2, "sizes": [3, 4]}, "1' with rate = 0.1, wanted rate = 0.2; name another"),
        ({"sizes": [3, 4]}, "with rate = 0.1, wanted no rate"),
        ({"rate": 0.1, "sizes": [3, 4] * 20}, r"with sizes = \[3, 4\], wanted sizes = a list"),
        ({"rate": 0.1, "sizes": [3, 4], "seed": 0}, "with no seed, wanted seed = 0"),
    ]:
        other = train.Checkpoints(tmp_path, description=description, skip_damaged=True)
        for use in (other.__enter__, other.restore):
            with pytest.raises(ValueError, match=message):
                use()
    with train.Checkpoints(tmp_path, description={"rate": 0.1, "sizes": [3, 4]}) as given:
        assert given.restore() == (1, {"n": 1})


@pytest.mark.parametrize("folder", ["/dev/null", "/dev/null/run", "/proc/run"])
def test_a_folder_that_cannot_be_written_is_told_before_training(folder, run):
    with pytest.raises(ValueError, match=f"folder: got '{folder}' .*wanted a folder"):
        resume(run, folder, 4)


def test_a_disk_without_room_is_told_before_training(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with train.Checkpoints(tmp_path, keep=3) as given:
        with pytest.raises(ValueError, match="1000 bytes free, wanted 1600 for 4 more checkpoints"):
            given.save(1, jnp.ones(100))
        assert names(tmp_path) == []
        given.save(1, jnp.ones(10))


def test_a_disk_that_fills_up_leaves_the_checkpoints_before(tmp_path, rng):
    """Files may not grow beyond a limit; the log of what fails is orbax's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    small, large = rng.normal(size=10), rng.normal(size=30_000)
    with train.Checkpoints(tmp_path) as given:
        given.save(1, small)
        given.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            with pytest.raises(ValueError, match=r"folder: got .*too large.*\[1\] stay"):
                given.save(2, large)
                given.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert given.steps == [1]
        given.save(3, small)
    assert names(tmp_path) == ["1", "3"]
    np.testing.assert_array_equal(given.restore()[1], small)


def test_a_record_that_cannot_be_written_is_no_checkpoint(tmp_path, monkeypatch):
    def full(folder, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "seal", full)
    with pytest.raises(ValueError, match=r"No space left on device.*\[\] stay"):
        with train.Checkpoints(tmp_path) as given:
            given.save(1, {})
    assert names(tmp_path) == []


def test_remains_of_a_killed_process_go(tmp_path):
    (tmp_path / "7.orbax-checkpoint-tmp" / "default").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    with train.Checkpoints(tmp_path, keep=1) as given:
        assert given.steps == []
        for n in (7, 8, 9):
            given.save(n, {})
    assert names(tmp_path) == ["9", "notes"]


# ---- wrong calls ---------------------------------------------------------------------------------
def test_wrong_calls(tmp_path, run, monkeypatch):
    for given, message in [
        ({"folder": 3}, "folder: got 3, wanted the name of a folder"),
        ({"every": 0}, "every: got 0"),
        ({"keep": None}, "keep: got None"),
        ({"description": [1]}, r"description: got \[1\], wanted a dict"),
        ({"skip_damaged": 1}, "skip_damaged: got 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            train.Checkpoints(**{"folder": tmp_path, **given})
    closed = train.Checkpoints(tmp_path)
    with pytest.raises(FileNotFoundError, match="folder: got .* without one"):
        closed.restore()
    with pytest.raises(ValueError, match="a closed folder, wanted an open one; save inside `with"):
        closed.save(1, {})
    with pytest.raises(
        ValueError, match=r"checkpoints: got '.*', wanted Checkpoints; pass the one"
    ):
        fit(run, 4, str(tmp_path))
    with closed:
        with pytest.raises(ValueError, match=r"tree\['f'\]: got a builtin"):
            closed.save(1, {"f": len})
        closed.save(1, {})
        for step in (1, 0, -1, 1.5):
            with pytest.raises(ValueError, match="step: got"):
                closed.save(step, {})
    with pytest.raises(FileNotFoundError, match=r"step: got 2, wanted one of \[1\]"):
        closed.restore(step=2)
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ImportError, match=r"pip install 'lstm-jax\[orbax\]'"):
        with train.Checkpoints(tmp_path):
            pass
