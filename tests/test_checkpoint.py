"""Parameters survive a file bit for bit, and a wrong file is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax import checkpoint


def tree(dtype):
    values = jax.random.normal(jax.random.key(3), (3, 4)).astype(dtype)
    return {"cell": {"w": values, "b": jnp.arange(4, dtype=jnp.int32)}, "scale": values[0, 0]}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_round_trip_is_exact(tmp_path, dtype):
    path = tmp_path / "model.npz"
    checkpoint.save(path, tree(dtype), {"cell": "lstm", "note": "é"})
    params, description = checkpoint.load(path)
    assert description == {"cell": "lstm", "note": "é"}
    assert jax.tree.structure(params) == jax.tree.structure(tree(dtype))
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(tree(dtype)), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "model.npz"
    checkpoint.save(path, tree("float32"), {"n": 1})
    with pytest.raises(TypeError):
        checkpoint.save(path, tree("float32"), {"n": object()})
    with pytest.raises(ValueError, match=r"description: got \[1\], wanted a dict"):
        checkpoint.save(path, tree("float32"), [1])
    assert checkpoint.load(path)[1] == {"n": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["model.npz"]


def test_errors_name_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path: got .*none\.npz.*lstm-jax train"):
        checkpoint.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("not a zip file")
    with pytest.raises(ValueError, match=r"path: got .*text\.npz"):
        checkpoint.load(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", a=np.ones(3))
    with pytest.raises(ValueError, match=r"path: got .*other\.npz"):
        checkpoint.load(tmp_path / "other.npz")
    with pytest.raises(ValueError, match=r"path: got .*missing.*name another"):
        checkpoint.save(tmp_path / "missing" / "model.npz", tree("float32"), {})


def test_pickled_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "evil.npz", __description__=np.array({"a": 1}, dtype=object))
    with pytest.raises(ValueError, match="evil"):
        checkpoint.load(tmp_path / "evil.npz")
