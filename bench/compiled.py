"""Contenders based on JAX: a pure function of weights and xs, compiled for each mode."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .contender import Answer, Cannot, Program
from .problem import Problem


class Model(NamedTuple):
    """A model as a user of the library would write it.

    Attributes:
        forward: (weights, xs) -> ys, in the library's layout.
        weights: our params -> the library's weights, an affine function.
        params: the library's weights -> our params, affine; names may be missing or additional.
        batch_major: xs and ys are [B, T, ...], not [T, B, ...].
        zero_padded: the library itself sets ys to zero at padding.
    """

    forward: Callable[[Any, Any], Any]
    weights: Callable[[Any], Any]
    params: Callable[[Any], Any]
    batch_major: bool = True
    zero_padded: bool = False


def program(model: Model, problem: Problem, mode: str) -> Program:
    """Compile a model for a mode, with the problem's weights and data."""
    arguments = _arguments(model, problem, mode)
    return _compile(_function(_masked(model, problem), mode), arguments, _reader(model, mode))


def traceable(model: Model, problem: Problem, mode: str) -> tuple[Callable[..., Any], Any]:
    """The function of a mode "fwd" or "train", and its arguments; nothing is put on a device."""
    xs = np.swapaxes(problem.xs, 0, 1) if model.batch_major else problem.xs
    return _function(_masked(model, problem), mode), (_weights(model, problem), xs)


def _function(forward: Callable[..., Any], mode: str) -> Callable[..., Any]:
    def loss(weights: Any, xs: Any) -> Any:
        return jnp.mean(forward(weights, xs) ** 2)

    def jvp(weights: Any, xs: Any, d_weights: Any, d_xs: Any) -> Any:
        return jax.jvp(forward, (weights, xs), (d_weights, d_xs))

    return {"fwd": forward, "train": jax.value_and_grad(loss, (0, 1)), "jvp": jvp}[mode]


def _masked(model: Model, problem: Problem) -> Callable[..., Any]:
    """Set ys to zero at padding, as a user's loss must, unless the library does."""
    if problem.lengths is None or model.zero_padded:
        return model.forward
    mask = problem.mask.T if model.batch_major else problem.mask

    def forward(weights: Any, xs: Any) -> Any:
        ys = model.forward(weights, xs)
        return jnp.where(mask[:, :, None], ys, jnp.zeros_like(ys))

    return forward


def _arguments(model: Model, problem: Problem, mode: str) -> tuple[Any, ...]:
    """Arguments on the device: (weights, xs), and for "jvp" the tangents of both."""
    weights = _weights(model, problem)
    arguments = (weights, problem.on_device("xs", model.batch_major))
    if mode == "jvp":
        tangents = _linear(model.weights, problem.d_params)
        d_weights = jax.tree.map(lambda a, b: a.astype(b.dtype), tangents, weights)
        arguments += (d_weights, problem.on_device("d_xs", model.batch_major))
    return jax.block_until_ready(jax.device_put(arguments))


def _weights(model: Model, problem: Problem) -> Any:
    try:
        return model.weights(problem.params)
    except ValueError as error:  # The library has no such network.
        raise Cannot(str(error).split(";")[0]) from None  # Without the remedy after the ";".


def _linear(convert: Callable[[Any], Any], tree: Any) -> Any:
    """Apply `convert` without its constant (haiku adds one to a forget gate), in float64."""
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)
    with jax.enable_x64(True):
        seen, constant = map(convert, (exact, jax.tree.map(np.zeros_like, exact)))
        return jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), seen, constant)


def _swap(model: Model, array: Any) -> Any:
    """Convert an array from the library's layout to [T, B, ...]."""
    return np.swapaxes(np.asarray(array), 0, 1) if model.batch_major else np.asarray(array)


def _compile(function: Any, arguments: Any, answer: Callable[[Any], Answer]) -> Program:
    jax.clear_caches()  # So that no contender reuses what another has traced.
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
        memory=memory(compiled),
    )


def memory(compiled: Any) -> dict[str, int]:
    """Sizes in bytes from XLA's buffer assignment, by its names; {} if there are none."""
    analysis = compiled.memory_analysis()
    names = [name for name in dir(analysis) if name.endswith("_in_bytes")]
    return {name: int(getattr(analysis, name)) for name in names}


def _reader(model: Model, mode: str) -> Callable[[Any], Answer]:
    """Make the function that converts the compiled function's result to an `Answer`."""

    def read(out: Any) -> Answer:
        if mode == "fwd":
            return {"ys": _swap(model, out)}
        if mode == "jvp":
            return {"ys": _swap(model, out[0]), "d_ys": _swap(model, out[1])}
        loss, (grads, d_xs) = out
        params = _linear(model.params, grads)
        return {"loss": np.asarray(loss), "grads": params, "xs": _swap(model, d_xs)}

    return read
