"""`decode`: run a cell or net on its own outputs, with teacher forcing, sampling and an end."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
from jax import lax

from ._arguments import explained
from ._cells.closures import closes_over_traced
from ._cells.contract import Recurrent, check_inputs, sizes_of
from ._checks import (
    as_array,
    check_callable,
    check_flags,
    check_floating,
    check_integers,
    check_key,
    check_positive_int,
    check_shape,
    concrete,
    fail,
    is_floating,
    shown,
)
from ._net import Net, check_net
from ._numerics import batch_zero, choose, expand_to, shared, split_as, varying_as, zero_unless
from ._static import compiled_for
from ._typing import Array, Carry, Key, Params

Feed = Callable[[Array, Any], Array]
Stop = Callable[[Array], Array]


class Decoded(NamedTuple):
    """What `decode` computed at every step; ys and fed are zero where a step is not valid.

    Attributes:
        ys: the outputs [T, *batch, N].
        fed: [T, *batch, D], what followed each output: fed[t] is the input of step t + 1. Where the
            inputs are symbols, these are the symbols that were drawn, or forced.
        valid: [T, *batch] bool, True up to and with the step after which a sequence stopped.
    """

    ys: Array
    fed: Array
    valid: Array


jax.export.register_namedtuple_serialization(Decoded, serialized_name="lstm_jax.Decoded")


@explained
def decode(
    net: Recurrent | Net,
    params: Params,
    carry: Carry | None,
    first: Array,
    steps: int,
    *,
    feed: Feed | None = None,
    stop: Stop | None = None,
    targets: Array | None = None,
    forcing: Any = None,
    key: Key | None = None,
) -> tuple[Carry, Decoded]:
    """Run a cell or net whose input is made of its last output, by one `lax.scan`.

        carry, y_t = net.step(params, carry, x_t),   x_0 = first
        x_{t+1} = targets[t] with probability forcing[t], else feed(y_t, key_t)

    With `forcing` between 0 and 1 this is scheduled sampling: each sequence draws at each step. For
    symbols, use a net over an `embedding` with a readout:

        net = embedding(readout(GRU(64), 30), 30, 16)
        draw = lambda y, key: jax.random.categorical(key, y)
        carry, out = decode(net, params, carry, first, 20, feed=draw, key=key)    # out.fed [20, B]

    Everything is differentiable but a drawn symbol itself, and goes through `jax.jit` and
    `jax.vmap`. Outside of `jax.jit`, a function made anew compiles anew. Where every step is
    forced, `unroll` over the targets, shifted by one, gives the same ys faster.

    Args:
        net: a cell or net of one direction; it runs in evaluation, without dropout.
        params: as from `net.init`.
        carry: the carry before the first step, such as an encoder's; None: `net.initial_carry`.
        first: [*batch, D], the input of the first step; integers [*batch] for an `embedding`.
        steps: T, a Python integer.
        feed: feed(y, key), from y_t [*batch, N] and a key of this step (None without `key`) to the
            next input, of the shape of `first`. None: the output itself.
        stop: stop(x), from the next input [*batch, D] to bool [*batch], True where the sequence
            ends; the steps after that are not valid, as in `unroll`. None: all steps are valid.
        targets: [T, *batch, D], what should follow each step, for teacher forcing.
        forcing: probability of the target, a number (which may be traced), [T] or [T, *batch]; bool
            says where to take it. None: 1.0, always.
        key: seeds feed, and the choice of where to force, if that is drawn.

    Returns:
        (carry, Decoded(ys, fed, valid)): the carry after each sequence's last valid step.

    Raises:
        ValueError: a wrong shape or dtype; a net with bidirectional layers; forcing without
            targets, outside [0, 1], or to be drawn without a key.

    Source: Williams & Zipser (1989), "A learning algorithm for continually running fully recurrent
    neural networks", for teacher forcing; Bengio et al. (2015), arXiv 1506.03099, for scheduled
    sampling.
    """
    check_net("net", net, "decode(net, params, carry, first, steps)")
    check_positive_int("steps", steps, least=0)
    if feed is not None:
        check_callable("feed", feed, "a function of (output, key)", takes=2)
    if stop is not None:
        check_callable("stop", stop, "a function of the next input", takes=1)
    check_key("key", key, optional=True)
    letters = "[*batch, D]" if net.input_ndim else "[*batch]"
    first = check_inputs("first", first, letters, net.input_ndim)
    targets = _checked_targets(targets, first, steps)
    _, batch = sizes_of(net, first.shape)
    forcing, drawn = _checked_forcing(forcing, targets, key, (steps, *batch))
    options = _Options(feed, stop, int(steps), drawn)
    fixed = compiled_for(net)
    run = _decode if closes_over_traced((fixed, feed, stop)) else _jitted
    return run(fixed, options, params, carry, first, targets, forcing, key)


class _Options(NamedTuple):
    """Static options of a compiled `decode`; `drawn`: where to force is drawn from the key."""

    feed: Feed | None
    stop: Stop | None
    steps: int
    drawn: bool


def _decode(
    net: Any,
    options: _Options,
    params: Params,
    carry: Carry | None,
    first: Array,
    targets: Array | None,
    forcing: Array | None,
    key: Key | None,
) -> tuple[Carry, Decoded]:
    """Run `decode` on checked arguments."""
    first = jnp.asarray(first)
    zero = batch_zero(first[None], net.input_ndim)
    forced = None
    if forcing is not None:
        key, forced = _forced(options, key, jnp.asarray(forcing), zero)
    start = _start(net, params, carry, first, zero), first, zero == 0
    start = varying_as(start, (params, start, targets, forced, key))
    weights = shared(params)

    def body(state: Any, given: Any) -> tuple[Any, Decoded]:
        carry, x, valid = state
        key, target, forced = given
        # As in `unroll`, what a step that is not valid computes reaches no gradient.
        mask = None if options.stop is None else valid
        x = zero_unless(mask, x)
        new, y = net.step(weights(), carry, x)
        y = zero_unless(mask, y)
        fed = _fed(options.feed, y, key, x)
        if forced is not None:
            fed = choose(forced, target, fed)
        fed = zero_unless(mask, fed)
        after = valid
        if options.stop is not None:
            after = valid & ~check_flags("stop", options.stop(fed), valid.shape, "[*batch]")
        return (choose(mask, new, carry), fed, after), Decoded(y, fed, valid)

    keys = None if key is None else jax.random.split(key, options.steps)
    (carry, *_), decoded = lax.scan(body, start, (keys, targets, forced), options.steps)
    return carry, decoded


_jitted = jax.jit(_decode, static_argnums=(0, 1))


def _start(net: Any, params: Params, carry: Carry | None, first: Array, zero: Array) -> Carry:
    """Convert the carry to the dtypes that a step gives, and shard it as the inputs are."""
    carry = net.initial_carry(params, zero.shape) if carry is None else carry
    after, _ = jax.eval_shape(net.step, params, carry, first)

    def typed(leaf: Array, like: Any) -> Array:
        return jnp.asarray(leaf, like.dtype) + expand_to(zero, leaf).astype(like.dtype)

    return jax.tree.map(typed, carry, after)


def _forced(options: _Options, key: Any, forcing: Array, zero: Array) -> tuple[Any, Array]:
    """(key for feed, [T, *batch] bool: where the target is the next input)."""
    everywhere = jnp.broadcast_to(zero[None], (options.steps, *zero.shape))
    forcing = expand_to(forcing, everywhere)
    if not options.drawn:
        return key, forcing.astype(bool) | (everywhere != 0)
    key, own = jax.random.split(key)
    draws = jax.random.uniform(own, everywhere.shape, jnp.float32)
    # The sum gives the draws the sharding of the batch.
    return key, draws + everywhere.astype(draws.dtype) < forcing.astype(draws.dtype)


def _fed(feed: Feed | None, y: Array, key: Any, x: Array) -> Array:
    """What follows the output y; raise unless it is an input like x."""
    fed = as_array("feed", y if feed is None else _called(feed, y, key))
    if fed.shape != x.shape or is_floating(fed.dtype) != is_floating(x.dtype):
        seen = f"dtype {fed.dtype} and shape {fed.shape}"
        wanted = f"the next input, of dtype {x.dtype} and shape {x.shape}"
        remedy = "pass feed=, a function from (output, key) to the next input"
        raise fail("feed", seen, wanted, remedy)
    return split_as(jnp.asarray(fed, x.dtype), x)


def _called(feed: Feed, y: Array, key: Any) -> Any:
    """feed(y, key); raise if it fails for want of a key."""
    try:
        return feed(y, key)
    except TypeError as error:
        if key is not None:
            raise
        seen = f"TypeError of a function that got key=None: {error}"
        wanted = "a function that draws nothing, as decode has no key"
        raise fail("feed", seen, wanted, "pass key=jax.random.key(0) to decode") from error


def _checked_targets(targets: Any, first: Array, steps: int) -> Any:
    if targets is None:
        return None
    targets = as_array("targets", targets)
    remedy = "targets[t] stands for the input of step t + 1"
    check_shape("targets", targets, (steps, *first.shape), "[T, *batch, D]", remedy)
    (check_floating if is_floating(first.dtype) else check_integers)("targets", targets)
    return targets


def _checked_forcing(
    forcing: Any, targets: Any, key: Any, axes: tuple[int, ...]
) -> tuple[Any, bool]:
    """(forcing as an array, True if where to force is drawn); None without targets."""
    if targets is None:
        if forcing is not None:
            raise fail("forcing", shown(forcing), "none without targets", "pass targets too")
        return None, False
    forcing = as_array("forcing", 1.0 if forcing is None else forcing)
    if jnp.iscomplexobj(forcing):
        seen = f"dtype {forcing.dtype}"
        raise fail("forcing", seen, "real probabilities, or bool", "pass its real part")
    wanted = f"a number, [T] or [T, *batch] = {axes}"
    if forcing.shape != axes[: forcing.ndim]:
        raise fail("forcing", f"shape {forcing.shape}", wanted, "pass one probability a step")
    values = concrete(forcing)
    if values is not None and not bool(((values >= 0) & (values <= 1)).all()):
        seen = f"values from {values.min()} to {values.max()}"
        raise fail("forcing", seen, "probabilities in [0, 1]", "clip them")
    if values is not None and bool(((values == 0) | (values == 1)).all()):
        return values.astype(bool), False
    if forcing.dtype == bool:
        return forcing, False
    if key is None:
        remedy = "pass key=, or bool in forcing"
        raise fail("key", "None", "a key, from which it is drawn where to force", remedy)
    return forcing, True
