"""Record calls of the kernel with their results, for `replay.cc` to repeat.

    python tests/native/record.py FILE

Layout of a call: the function's name; then its arguments, results and attributes, each preceded by
their number. An array is its XLA type number, rank, shape and bytes; a name is its length and
letters; an attribute is a name and an array, of rank 0 for a scalar.
"""

import io
import pathlib
import sys
from typing import Any, BinaryIO

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import numpy as np
import registry
import updates

import lstm_jax as lj

TYPES = {
    "bool": 1,
    "int32": 4,
    "int64": 5,
    "uint8": 6,
    "float32": 11,
    "float64": 12,
    "bfloat16": 16,
}
"""Type numbers of XLA_FFI_DataType."""

T, D, MEMBERS = 5, 3, 5
CASES = (
    ("lstm", 7, 19),
    ("lstm", 1, 130),
    ("lstm_peephole", 7, 16),
    ("gru", 7, 33),
    ("gru", 3, 160),
    ("layer_norm_gru", 7, 5),
    ("rnn_callable", 7, 1),
    ("leaky", 7, 17),
    ("slstm", 7, 4),
    ("zoneout", 7, 9),
    ("user_update", 7, 8),
)
"""Cell, B, H: whole vectors and all remainders; more and fewer sequences than threads."""

DRAWN = 40
"""Number of random updates."""


def flags(batch: int) -> tuple[dict[str, Any], ...]:
    """Options of `unroll`: none, and all that the kernel supports."""
    lengths = np.arange(batch, dtype=np.int32) % (T + 1)
    resets = np.arange(T * batch).reshape(T, batch) % 4 == 1
    return {}, {"seq_lengths": T - lengths, "resets": resets, "reverse": True}


def _write_name(file: BinaryIO, name: str) -> None:
    file.write(np.int64(len(name)).tobytes() + name.encode())


def _write_array(file: BinaryIO, array: Any) -> None:
    array = np.asarray(array)
    header = [TYPES[str(array.dtype)], array.ndim, *array.shape]
    file.write(np.asarray(header, np.int64).tobytes() + array.tobytes())


def _call_bytes(target: str, attributes: dict[str, Any], args: Any, results: Any) -> bytes:
    file = io.BytesIO()
    _write_name(file, target)
    for arrays in (args, results):
        file.write(np.int64(len(arrays)).tobytes())
        for array in arrays:
            _write_array(file, array)
    file.write(np.int64(len(attributes)).tobytes())
    for name in sorted(attributes):  # In XLA's order.
        _write_name(file, name)
        _write_array(file, attributes[name])
    return file.getvalue()


def tap(file: BinaryIO) -> None:
    """Write every further call of a function of the kernel to `file`."""
    ffi_call = jax.ffi.ffi_call

    def recorded(target: str, result_types: Any, **options: Any) -> Any:
        function = ffi_call(target, result_types, **options)

        def call(*args: Any, **attributes: Any) -> Any:
            results, tree = jax.tree.flatten(function(*args, **attributes))

            def write(args: Any, results: Any) -> Any:
                file.write(_call_bytes(target, attributes, args, results))
                return [np.asarray(r) for r in results]

            types = [jax.ShapeDtypeStruct(r.shape, r.dtype) for r in results]
            method = options.get("vmap_method", "expand_dims")
            done = jax.pure_callback(write, types, args, results, vmap_method=method)
            return tree.unflatten(done)

        return call

    jax.ffi.ffi_call = recorded


def run(name: str, batch: int, size: int, dtype: str, options: dict[str, Any]) -> None:
    """Run a cell of the registry."""
    case = registry.CASES[name]
    cell = case.make(size, carry_dtype=dtype if dtype == "bfloat16" else None)
    members = name in ("lstm", "gru", "layer_norm_gru")
    run_cell(cell, batch, dtype, options, jax.random.key(0) if case.noisy else None, members)


def run_drawn(seed: int) -> None:
    """Run a random update, if the kernel supports it."""
    cell, dtype = updates.Drawn(2 + seed % 17, seed=seed), ("float32", "float64")[seed % 2]
    with jax.numpy_rank_promotion("allow"):
        if lj.which(cell).implementation == "native":
            run_cell(cell, 1 + seed % 5, dtype, flags(1 + seed % 5)[seed % 3 == 0])


def run_cell(
    cell: Any,
    batch: int,
    dtype: str,
    options: dict[str, Any],
    key: Any = None,
    members_too: bool = False,
) -> None:
    """Run a cell in forward and in reverse mode, and in reverse mode for an ensemble."""
    rng = np.random.default_rng(cell.hidden_size)
    params = registry.random_params(cell, D, rng)
    carry = registry.random_carry(cell, params, (batch,), rng)
    args = registry.cast((params, rng.standard_normal((T, batch, D)), carry), dtype)

    def unroll(args: Any) -> Any:
        return lj.unroll(cell, *args, key=key, implementation="native", **options)

    forward = jax.jit(lambda args: jax.jvp(unroll, (args,), (args,)))
    backward = jax.jit(lambda args: jax.vjp(unroll, args)[1](unroll(args)))
    jax.block_until_ready((jax.jit(unroll)(args), forward(args), backward(args)))
    for count in (2, MEMBERS) if members_too else ():  # Fewer than threads have, and more.
        members = jax.tree.map(lambda *each: np.stack(each), *[params] * count)
        both = jax.vmap(lambda params: _both_ways(unroll, (params, *args[1:])))
        jax.block_until_ready(jax.jit(both)(registry.cast(members, dtype)))


def _both_ways(function: Any, args: Any) -> Any:
    """A pullback and a tangent."""
    values, pullback = jax.vjp(function, args)
    return pullback(values), jax.jvp(function, (args,), (args,))[1]


def main(path: str) -> None:
    """Write the recorded calls to `path`."""
    jax.config.update("jax_enable_x64", True)
    with open(path, "wb") as file:
        tap(file)
        for name, batch, size in CASES:
            for dtype in ("float32", "float64", "bfloat16"):
                for options in flags(batch):
                    run(name, batch, size, dtype, options)
        for seed in range(DRAWN):
            run_drawn(seed)
        print(f"recorded {file.tell()} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
