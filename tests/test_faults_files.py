"""Files: written whole whoever else writes, read back as they were, and bounded when damaged."""

import collections
import io
import json
import os
import stat
import threading
import typing
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lstm_jax as lj
from lstm_jax import _files, checkpoint, train


class Pair(typing.NamedTuple):
    """A NamedTuple that is none of the library's."""

    left: object
    right: object


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for our, their in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert type(our) is type(their)
        if not hasattr(their, "dtype"):
            assert our == their
            continue
        assert our.dtype == their.dtype
        if jnp.issubdtype(their.dtype, jax.dtypes.prng_key):
            our, their = jax.random.key_data(our), jax.random.key_data(their)
        np.testing.assert_array_equal(np.asarray(our), np.asarray(their))


def round_trip(tmp_path, tree, like=None):
    checkpoint.save(tmp_path / "tree.npz", tree)
    return checkpoint.load(tmp_path / "tree.npz", like)[0]


# ---- locked --------------------------------------------------------------------------------------
def test_a_lock_is_one_holders_at_a_time(tmp_path):
    with _files.locked(tmp_path, "S9", argument="--out"):
        with _files.locked(tmp_path, "S19"):
            pass
        with pytest.raises(ValueError, match="--out: got .* another process is at work on S9"):
            with _files.locked(tmp_path, "S9", argument="--out"):
                pass
    with _files.locked(tmp_path, "S9"):
        pass
    assert names(tmp_path) == []


def test_a_lock_is_waited_for_by_many(tmp_path):
    """Each finds what the one before it left, though every holder removes the file."""
    count = tmp_path / "count"
    count.write_text("0")

    def add():
        for _ in range(20):
            with _files.locked(tmp_path, "count", wait=True):
                count.write_text(str(int(count.read_text()) + 1))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count.read_text() == "80" and names(tmp_path) == ["count"]


def test_a_lock_of_a_process_that_was_killed_is_free(tmp_path):
    (tmp_path / ".S9.lock").touch()
    with _files.locked(tmp_path, "S9"):
        pass
    assert names(tmp_path) == []


# ---- written whole -------------------------------------------------------------------------------
def test_fault_17_many_writers_to_one_path(tmp_path):
    path = tmp_path / "file"
    contents = [bytes([n]) * 100_000 for n in range(8)]
    threads = [threading.Thread(target=_files.write_whole, args=(path, c)) for c in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents and names(tmp_path) == ["file"]


def test_fault_17_a_link_stays_a_link_and_its_mode(tmp_path):
    (tmp_path / "there").mkdir()
    real, link = tmp_path / "there" / "model.npz", tmp_path / "link.npz"
    real.write_bytes(b"old")
    real.chmod(0o600)
    link.symlink_to(real)
    _files.write_whole(link, b"new")
    assert link.is_symlink() and real.read_bytes() == b"new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    dangling = tmp_path / "dangling.npz"
    dangling.symlink_to(tmp_path / "there" / "fresh.npz")
    _files.write_whole(dangling, b"new")
    assert (tmp_path / "there" / "fresh.npz").read_bytes() == b"new"
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "there" / "fresh.npz").stat().st_mode) == 0o666 & ~umask


def test_fault_17_only_files_are_written(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("pipe", "", "/dev/null", "/dev/full", "none/model.npz", "loop"):
        before = names(tmp_path)
        with pytest.raises(ValueError, match="path: got .*, wanted a file that can be written"):
            _files.write_whole(tmp_path / name, b"new")
        assert names(tmp_path) == before
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)


def test_fault_17_long_names(tmp_path):
    _files.write_whole(tmp_path / ("a" * 255), b"new")
    with pytest.raises(ValueError, match="path: got .*File name too long"):
        _files.write_whole(tmp_path / ("a" * 256), b"new")
    assert names(tmp_path) == ["a" * 255]


def test_fault_20_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.npz"
    checkpoint.save(path, {"w": jnp.ones(3)})
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValueError, match=r"model\.npz' \(No space left on device\)"):
        checkpoint.save(path, {"w": jnp.zeros(3)})
    assert path.read_bytes() == before and names(tmp_path) == ["model.npz"]


# ---- any tree ------------------------------------------------------------------------------------
def test_fault_11_a_training_state_comes_back(tmp_path):
    params = lj.LSTM(2).init(jax.random.key(0), 3)
    for tx in (lj.clipped_sgd(0.1, 1.0), optax.adamw(1e-3)):
        state = train.create(params, tx)
        assert_same(round_trip(tmp_path, state), state)
        assert_same(round_trip(tmp_path, state, jax.eval_shape(lambda s=state: s)), state)


def test_fault_12d_a_carry_beside_params_and_empty_parts(tmp_path):
    cell = lj.LSTM(2)
    params = cell.init(jax.random.key(0), 3)
    carry = (cell.initial_carry(params, (4,)), lj.GRU(2).initial_carry(params, (4,)))
    tree = {"params": params, "carry": carry, "rest": {}, "none": None, "nothing": (), "l": []}
    assert_same(round_trip(tmp_path, tree), tree)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "bfloat16", "float16", "int4"])
def test_fault_12d_every_dtype(tmp_path, dtype):
    array = jnp.arange(-4, 4, dtype=jnp.int32).reshape(2, 4).astype(dtype)
    tree = {"array": array, "scalar": array[0, 0], "empty": array[:0]}
    assert_same(round_trip(tmp_path, tree), tree)


def test_fault_12d_64_bits_are_not_rounded_unseen(tmp_path, x64):
    tree = {"w": jnp.asarray(1 / 3, jnp.float64), "n": np.asarray(2**40)}
    assert_same(round_trip(tmp_path, tree), tree)
    with jax.enable_x64(False), pytest.raises(ValueError, match="float64.*jax_enable_x64"):
        checkpoint.load(tmp_path / "tree.npz")


def test_fault_17_any_tree_comes_back(tmp_path):
    tree = {
        "a/b": jnp.ones(1),
        "a": {"b": jnp.zeros(2), "list": [jnp.ones(3), (jnp.ones(4),)]},
        "file": jnp.full(2, 3.0),
        "__description__": jnp.full(2, 4.0),
        "pair": Pair(jnp.ones(2), Pair(1, None)),
        "numbers": [1, 2.5, True, "text", float("inf"), 2**70],
        "numpy": np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
        "key": jax.random.key(3),
        "\0é": jnp.ones(1),
        "_?": jnp.ones(2),
    }
    assert_same(round_trip(tmp_path, tree), tree)
    assert_same(round_trip(tmp_path, jnp.ones(3)), jnp.ones(3))
    counted = {0: jnp.ones(1), 1: jnp.ones(2)}
    assert_same(round_trip(tmp_path, counted), counted)
    with np.load(tmp_path / "tree.npz") as file:
        assert set(file) == {"__description__", "0", "1"}


def test_fault_17_what_only_like_can_restore(tmp_path):
    ordered = collections.OrderedDict(b=jnp.ones(1), a=jnp.ones(2))
    assert_same(round_trip(tmp_path, ordered), dict(ordered))
    assert_same(round_trip(tmp_path, ordered, ordered), ordered)
    Local = collections.namedtuple("Local", "x")
    node = {"n": Local(jnp.ones(1))}
    with pytest.raises(ValueError, match=r"path: got .*Local.*pass like="):
        round_trip(tmp_path, node)
    assert_same(round_trip(tmp_path, node, node), node)
    for like, message in [
        ({"n": Local(jnp.ones(2))}, r"like\['n'\]\.x: got float32\[2\].*float32\[1\]"),
        ({"n": Local(jnp.ones(1, jnp.bfloat16))}, "bfloat16"),
        ({"m": Local(jnp.ones(1))}, r"like\['m'\]\.x: got a leaf"),
    ]:
        with pytest.raises(ValueError, match=message):
            checkpoint.load(tmp_path / "tree.npz", like)


def test_fault_17_what_cannot_be_saved_is_named(tmp_path):
    for tree, message in [
        ({"f": len}, r"params\['f'\]: got a builtin_function_or_method"),
        ({"o": np.array([{}], object)}, r"params\['o'\]: got .*object"),
        ({(1, 2): jnp.ones(1)}, r"params: got the key \(1, 2\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            checkpoint.save(tmp_path / "tree.npz", tree)
    assert names(tmp_path) == []


def test_a_file_of_the_first_version_is_read(tmp_path):
    header = {"format": "lstm-jax parameters 1", "description": {"cell": "lstm"}}
    header["dtypes"] = {"cell/w": "float32", "cell/b": "bfloat16", "n": "int32"}
    bits = np.asarray(jnp.ones(2, jnp.bfloat16)).view(np.uint16)
    arrays = {"cell/w": np.ones((2, 2), "f"), "cell/b": bits, "n": np.asarray(3, "i4")}
    np.savez(tmp_path / "old.npz", __description__=np.asarray(json.dumps(header)), **arrays)
    params, description = checkpoint.load(tmp_path / "old.npz")
    wanted = {"cell": {"w": jnp.ones((2, 2)), "b": jnp.ones(2, jnp.bfloat16)}, "n": jnp.int32(3)}
    assert_same(params, wanted)
    assert description == {"cell": "lstm"}


# ---- damaged -------------------------------------------------------------------------------------
def archive(compression=zipfile.ZIP_STORED, **entries):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in entries.items():
            file.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def npy(value):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(value))
    return buffer.getvalue()


def described(**changes):
    header = {"format": "lstm-jax parameters 2", "description": {}, "tree": 0}
    header["leaves"] = [{"path": "", "kind": "jax", "dtype": "float32", "entry": "w"}]
    return npy(json.dumps(header | changes))


def claim(shape):
    return npy(np.zeros(4, "f")).replace(b"(4,), }" + b" " * 20, f"{shape}, }}".encode().ljust(27))


WEIGHTS = npy(np.ones(4, "f"))
WHOLE = archive(__description__=described(), w=WEIGHTS)
DAMAGED = {
    "0 bytes": b"",
    "no description": archive(w=WEIGHTS),
    "only a description": archive(__description__=described()),
    "description of numbers": archive(__description__=npy(3.0), w=WEIGHTS),
    "dtypes a list": archive(
        __description__=npy('{"format": "lstm-jax parameters 1", "dtypes": []}'), w=WEIGHTS
    ),
    "leaves a number": archive(__description__=described(leaves=3), w=WEIGHTS),
    "no such leaf": archive(__description__=described(tree=["list", [0, 7]]), w=WEIGHTS),
    "object dtype": archive(
        __description__=described(
            leaves=[{"path": "", "kind": "numpy", "dtype": "O", "entry": "w"}]
        ),
        w=WEIGHTS,
    ),
    "description a list": archive(__description__=described(description=[1]), w=WEIGHTS),
    "deep JSON": archive(__description__=npy("[" * 100_000), w=WEIGHTS),
    "a claim of 4 TiB": archive(__description__=described(), w=claim("(1099511627776,)")),
    "a negative claim": archive(__description__=described(), w=claim("(-2, -2)")),
    "1 GB in 1 MB": archive(zipfile.ZIP_DEFLATED, __description__=described(), w=b"\0" * 10**7),
    "truncated": WHOLE[:-30],
    "half": WHOLE[: len(WHOLE) // 2],
    "pickle": archive(__description__=described(), w=b"\x93NUMPY\x01\x00\x06\x00{'}   "),
    "foreign zip": archive(readme=b"hello"),
    "newer": archive(__description__=described(format="lstm-jax parameters 3"), w=WEIGHTS),
    "another format": archive(__description__=described(format="flax 2"), w=WEIGHTS),
    "unknown type": archive(
        __description__=described(tree=["named", [0], "os", "stat_result", ["a"]]), w=WEIGHTS
    ),
    "a type of code": archive(
        __description__=described(tree=["named", [0], "subprocess", "Popen", []]), w=WEIGHTS
    ),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_fault_18_a_damaged_file_is_named(tmp_path, damage):
    (tmp_path / "bad.npz").write_bytes(DAMAGED[damage])
    with pytest.raises(ValueError, match=r"^path: got '.*bad\.npz'.*, wanted .*; ") as raised:
        checkpoint.load(tmp_path / "bad.npz")
    assert "pickle" not in str(raised.value) and len(str(raised.value).splitlines()) == 1


def test_fault_18_a_newer_version_says_so(tmp_path):
    (tmp_path / "new.npz").write_bytes(DAMAGED["newer"])
    with pytest.raises(ValueError, match=r"format 3, wanted up to 2; update lstm_jax"):
        checkpoint.load(tmp_path / "new.npz")


def test_fault_18_objects_are_refused_without_advice(tmp_path):
    np.savez(tmp_path / "evil.npz", __description__=np.array({"a": 1}, dtype=object))
    with pytest.raises(ValueError, match=r"evil\.npz") as raised:
        checkpoint.load(tmp_path / "evil.npz")
    assert "allow_pickle" not in str(raised.value)


def test_fault_18_every_flipped_byte_is_seen_or_harmless(tmp_path):
    path = tmp_path / "bad.npz"
    path.write_bytes(WHOLE)
    np.testing.assert_array_equal(checkpoint.load(path)[0], np.ones(4))
    for place in range(0, len(WHOLE), 3):
        path.write_bytes(WHOLE[:place] + bytes([WHOLE[place] ^ 0xFF]) + WHOLE[place + 1 :])
        try:
            np.testing.assert_array_equal(checkpoint.load(path)[0], np.ones(4))
        except ValueError as error:
            assert "bad.npz" in str(error)
