"""Lowering rules: the engine that a primitive names runs it, or else XLA.

XLA runs a call that the engine cannot, and the program records it; if nothing but that engine was
asked for, it is an error.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..._jax import Primitive, is_jit_disabled, set_chosen_lowering
from ..._typing import Array
from ..engines import Engine, engine_of, fused
from ..equations import TIMED
from ..jaxprs import Untranslatable
from ..loops import Loop
from ..spec import without_outermost
from .batching import fields
from .binding import (
    FUNCTIONS,
    Static,
    evaluate,
    linearized_p,
    operands_of,
    out_structure,
    run_p,
    transposed_p,
    types_of,
)
from .named import check_asked, run_by

PLATFORMS = (*fused.ENGINE.platforms, None)
"""Platforms with a rule of their own; None: the rule for all others."""


def _chosen(
    primitive: Primitive,
    platform: str | None,
    why_not_here: Callable[[], str | None],
    exported: bool,
    *,
    static: Static,
) -> Callable[..., Any]:
    """Choose the function to which the primitive is lowered.

    why_not_here: returns the reason why no kernel may run in this program, or None.
    """
    loop = fused.loop_on(platform, exported)
    if static.engine == "fused":
        return partial(_by_xla, primitive, loop, static.asked.why)
    engine = engine_of(static.engine)
    why_not = f"it runs on {' or '.join(engine.platforms)}, and the platform is {platform}"
    if platform in engine.platforms:
        why_not = why_not_here()
    if why_not:
        return partial(_by_xla, primitive, loop, why_not)
    return partial(_by_engine, primitive, loop, engine)


def _by_xla(
    primitive: Primitive, loop: Loop, why: str | None, *leaves: Array, static: Static
) -> list[Array]:
    """Compute the flat results by XLA. why: reason why nothing faster does."""
    with run_by("fused", primitive, static, leaves, why):
        return evaluate(primitive, *leaves, static=static, loop=loop)


def _by_engine(
    primitive: Primitive, loop: Loop, engine: Engine, *leaves: Array, static: Static
) -> list[Array]:
    """Compute the flat results by the engine if it can, else by XLA."""
    try:
        with run_by(static.engine, primitive, static, leaves, None):
            return _calls(primitive, engine, *leaves, static=static)
    except Untranslatable as error:
        return _by_xla(primitive, loop, str(error), *leaves, static=static)


def _calls(primitive: Primitive, engine: Engine, *leaves: Array, static: Static) -> list[Array]:
    """Call the engine once, or once for each member if members have weights of their own.

    Raises:
        Untranslatable: the engine cannot run the call.
    """
    operands, recurrence = operands_of(primitive, static, leaves), static.recurrence
    if recurrence.members and recurrence.members[-1].weights:
        return _one_by_one(primitive, engine, leaves, static)
    # A vmapped axis along which the parameters are shared is just another batch axis.
    while recurrence.members:
        outermost = recurrence.members[-1]
        if outermost.weights or (outermost.extras and operands[0].extras):
            raise Untranslatable("parameters differ from sequence to sequence")
        recurrence = without_outermost(recurrence)
    functions = {
        run_p: engine.run,
        linearized_p: engine.linearized,
        transposed_p: engine.transposed,
    }
    outs = jax.tree.leaves(functions[primitive](recurrence, static.reverse, *operands))
    results = types_of(primitive, *map(jax.typeof, leaves), static=static)
    return [x.reshape(r.shape).astype(r.dtype) for x, r in zip(outs, results, strict=True)]


def _one_by_one(
    primitive: Primitive, engine: Engine, leaves: Sequence[Array], static: Static
) -> list[Array]:
    """Call the engine for each member: all in one call where the engine can, else in a loop."""
    member = static._replace(recurrence=without_outermost(static.recurrence))
    axes = [None if f == "projection" else int(f in TIMED) for f in fields(static.tree)]
    own = {k: jnp.moveaxis(leaves[k], axis, 0) for k, axis in enumerate(axes) if axis is not None}

    def call(own: dict[int, Array]) -> list[Array]:
        each = [own.get(k, leaf) for k, leaf in enumerate(leaves)]
        return _calls(primitive, engine, *each, static=member)

    results = fields(out_structure(primitive, static, leaves))
    deeper = any(members.weights for members in member.recurrence.members)
    outs = jax.vmap(call)(own) if engine.vmapped and not deeper else lax.map(call, own)
    return [jnp.moveaxis(x, 0, int(f in TIMED)) for x, f in zip(outs, results, strict=True)]


def _without_jit(primitive: Primitive, *leaves: Array, static: Static) -> list[Array]:
    """Evaluate the primitive outside jit: under `jax.disable_jit`, or when JAX looks for a NaN."""
    if is_jit_disabled():
        check_asked(primitive, static, leaves, "jax.disable_jit leaves no program to be part of")
    return evaluate(primitive, *leaves, static=static)


for _primitive in FUNCTIONS:
    _primitive.def_impl(partial(_without_jit, _primitive))
    for _platform in PLATFORMS:
        set_chosen_lowering(_primitive, _platform, partial(_chosen, _primitive, _platform))
