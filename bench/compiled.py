"""Contenders of JAX's world: a pure function of weights and xs, lowered and compiled per mode."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .contender import Answer, Cannot, Program
from .problem import Problem


class Model(NamedTuple):
    """What the user of a library would write.

    forward: (weights, xs) -> ys, in the library's layout.
    weights: our params -> the library's weights; affine.
    params: the library's weights -> our params; affine, and names may be missing or more.
    batch_major: xs and ys are [B, T, ...], not [T, B, ...].
    zero_padded: ys are zero at padding as they come.
    """

    forward: Callable[[Any, Any], Any]
    weights: Callable[[Any], Any]
    params: Callable[[Any], Any]
    batch_major: bool = True
    zero_padded: bool = False


def program(model: Model, problem: Problem, mode: str) -> Program:
    """`forward` compiled for a mode, on the problem's weights and data."""
    arguments = _arguments(model, problem, mode)
    return _compile(_function(_masked(model, problem), mode), arguments, _reader(model, mode))


def _function(forward: Callable[..., Any], mode: str) -> Callable[..., Any]:
    def loss(weights: Any, xs: Any) -> Any:
        return jnp.mean(forward(weights, xs) ** 2)

    def jvp(weights: Any, xs: Any, d_weights: Any, d_xs: Any) -> Any:
        return jax.jvp(forward, (weights, xs), (d_weights, d_xs))

    return {"fwd": forward, "train": jax.value_and_grad(loss, (0, 1)), "jvp": jvp}[mode]


def _masked(model: Model, problem: Problem) -> Callable[..., Any]:
    """`forward` with ys zero at padding: a user's loss sees to that where the library does not."""
    if problem.lengths is None or model.zero_padded:
        return model.forward
    mask = problem.mask.T if model.batch_major else problem.mask

    def forward(weights: Any, xs: Any) -> Any:
        ys = model.forward(weights, xs)
        return jnp.where(mask[:, :, None], ys, jnp.zeros_like(ys))

    return forward


def _arguments(model: Model, problem: Problem, mode: str) -> tuple[Any, ...]:
    """(weights, xs), and for "jvp" the tangents of both, on the device."""
    try:
        weights = model.weights(problem.params)
    except ValueError as error:  # The library has no such network; the message says which,
        raise Cannot(str(error).split(";")[0]) from None  # and then what to do about it.
    arguments = (weights, problem.on_device("xs", model.batch_major))
    if mode == "jvp":
        tangents = _linear(model.weights, problem.d_params)
        d_weights = jax.tree.map(lambda a, b: a.astype(b.dtype), tangents, weights)
        arguments += (d_weights, problem.on_device("d_xs", model.batch_major))
    return jax.block_until_ready(jax.device_put(arguments))


def _linear(convert: Callable[[Any], Any], tree: Any) -> Any:
    """`convert` without its constant, in float64: haiku adds one to a forget gate."""
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)
    with jax.enable_x64(True):
        seen, constant = map(convert, (exact, jax.tree.map(np.zeros_like, exact)))
        return jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), seen, constant)


def _swap(model: Model, array: Any) -> Any:
    """[T, B, ...], out of the library's layout."""
    return np.swapaxes(np.asarray(array), 0, 1) if model.batch_major else np.asarray(array)


def _compile(function: Any, arguments: Any, answer: Callable[[Any], Answer]) -> Program:
    jax.clear_caches()  # Or one contender would lower what another has traced.
    start = time.perf_counter()
    lowered = jax.jit(function).lower(*arguments)
    middle = time.perf_counter()
    compiled = lowered.compile()
    end = time.perf_counter()
    return Program(
        call=lambda: compiled(*arguments),
        wait=jax.block_until_ready,
        answer=answer,
        lower_s=middle - start,
        compile_s=end - middle,
        memory=_memory(compiled),
    )


def _memory(compiled: Any) -> dict[str, int]:
    """What XLA's buffer assignment says, by its own names; nothing where it says nothing."""
    analysis = compiled.memory_analysis()
    names = [name for name in dir(analysis) if name.endswith("_in_bytes")]
    return {name: int(getattr(analysis, name)) for name in names}


def _reader(model: Model, mode: str) -> Callable[[Any], Answer]:
    """What the compiled function returns, as an `Answer`."""

    def read(out: Any) -> Answer:
        if mode == "fwd":
            return {"ys": _swap(model, out)}
        if mode == "jvp":
            return {"ys": _swap(model, out[0]), "d_ys": _swap(model, out[1])}
        loss, (grads, d_xs) = out
        params = _linear(model.params, grads)
        return {"loss": np.asarray(loss), "grads": params, "xs": _swap(model, d_xs)}

    return read
