"""All that the library knows of JAX's insides; no other file imports them.

The rules of a primitive, what a jaxpr is made of, and where a lowering may call the kernel: none of
it is promised to stay. What changes may cost speed or the kernel, never a number: where the kernel
may run is said by an attribute that is there, or it does not run and `why_not` or a warning says
what is missing.
"""

import inspect
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import jax
from jax import lax
from jax.extend.core import ClosedJaxpr as ClosedJaxpr
from jax.extend.core import Literal as Literal
from jax.extend.core import Primitive as Primitive
from jax.interpreters import ad, batching, mlir, partial_eval

try:
    from jax._src.core import trace_state_clean
except ImportError:
    trace_state_clean = None

try:
    from jax._src.checkify import checkify_jaxpr, error_checks
except ImportError:
    checkify_jaxpr = error_checks = None


# ---- rules of a primitive ------------------------------------------------------------------------
def set_rules(
    primitive: Primitive,
    *,
    jvp: Callable[..., Any] | None = None,
    transpose: Callable[..., Any] | None = None,
    batch: Callable[..., Any] | None = None,
    dead: Callable[[list[bool], Any], tuple[list[bool], Any]] | None = None,
) -> None:
    """Those that are given.

    Args:
        jvp, transpose, batch: as JAX calls them.
        dead: of which results are used, and the equation: which operands are used, and the equation
            without the other results, or None.
    """
    tables: list[tuple[Any, Any]] = [
        (ad.primitive_jvps, jvp),
        (ad.primitive_transposes, transpose),
        (batching.primitive_batchers, batch),
    ]
    if dead is not None:  # From JAX 0.12 on, which operands are live stands before the equation.
        rule = dead
        tables.append((_dead_rules(), lambda used, *rest: rule(used, rest[-1])))
    for table, each in tables:
        if each is not None:
            table[primitive] = each


def _dead_rules() -> dict[Primitive, Any]:
    """Without such a table, what nobody uses is computed."""
    return getattr(partial_eval, "dce_rules", {})


def set_linear(primitive: Primitive, transpose: Callable[..., Any]) -> None:
    """Of a primitive that is linear in all operands, and elementwise."""
    ad.deflinear2(primitive, transpose)
    batching.defvectorized(primitive)


def set_lowering(
    primitive: Primitive, function: Callable[..., Any], platform: str | None = None
) -> None:
    """On one platform ("cuda", "rocm"), or all that have no rule, what XLA makes of `function`."""
    mlir.register_lowering(primitive, _lowered(primitive, function), platform=platform)


def set_cpu_lowering(primitive: Primitive, choose: Callable[..., Callable[..., Any]]) -> None:
    """On CPUs, what XLA makes of the function that `choose` answers.

    Args:
        choose: of why no kernel may run there (None: it may) and the primitive's parameters.
    """

    def rule(ctx: Any, *operands: Any, **parameters: Any) -> Any:
        function = choose(why_not_here(ctx), **parameters)
        return _lowered(primitive, function)(ctx, *operands, **parameters)

    mlir.register_lowering(primitive, rule, platform="cpu")


def checked_as(primitive: Primitive, function: Callable[..., Any]) -> None:
    """Under `checkify` it is what `function` computes, with the checks of that.

    function: of the operands and parameters of `primitive`; it gives its flat results.
    """
    if error_checks is None or checkify_jaxpr is None:
        return  # Checks see the results alone.
    discharge: Any = checkify_jaxpr

    count = len(inspect.signature(discharge).parameters) - 4  # From JAX 0.12 on, a context first.

    def rule(*arguments: Any, **parameters: Any) -> tuple[Any, Any]:
        context, (error, enabled, *operands) = arguments[:count], arguments[count:]
        jaxpr = jax.make_jaxpr(lambda *operands: function(*operands, **parameters))(*operands)
        error, results = discharge(*context, jaxpr, enabled, error, *operands)
        return error, results if primitive.multiple_results else results[0]

    error_checks[primitive] = rule


def _lowered(primitive: Primitive, function: Callable[..., Any]) -> Callable[..., Any]:
    return mlir.lower_fun(function, multiple_results=primitive.multiple_results)


def may_trace() -> bool:
    """Whether a trace may be going on: a value may be one that is traced."""
    return trace_state_clean is None or not trace_state_clean()


# ---- tangents and cotangents ---------------------------------------------------------------------
def is_zero(tangent: Any) -> bool:
    """Whether it is a symbolic zero."""
    return type(tangent) is ad.Zero


def zero(kind: Any) -> Any:
    """A symbolic zero of that type."""
    return ad.Zero(kind)


def dense(tangent: Any) -> Any:
    """`tangent`, written out where it is a symbolic zero."""
    return ad.instantiate_zeros(tangent) if is_zero(tangent) else tangent


def is_asked(operand: Any) -> bool:
    """Whether a transpose is asked for its cotangent: then it has a type and no value."""
    return ad.is_undefined_primal(operand)


def is_jit_disabled() -> bool:
    """Whether there are no compiled programs: within `jax.disable_jit`."""
    config: Any = jax.config
    return bool(config.jax_disable_jit)


# ---- where the kernel may run --------------------------------------------------------------------
NEEDED = (
    (mlir, "SPMDAxisContext"),
    (mlir, "ShardingContext"),
    (mlir, "LoweringParameters"),
    (partial_eval, "dce_rules"),
)
FIELDS = (
    ("SPMDAxisContext", "manual_axes"),
    ("SPMDAxisContext", "mesh"),
    ("ShardingContext", "num_devices"),
    ("LoweringParameters", "for_export"),
)


def why_not() -> str | None:
    """One line that names what the kernel needs and this JAX has not; None: it has all of it."""
    for module, name in NEEDED:
        if not hasattr(module, name):
            return _lacks(f"{module.__name__}.{name}")
    for name, field in FIELDS:
        if not hasattr(getattr(mlir, name), field):
            return _lacks(f"{name}.{field}")
    return None


def _lacks(what: str) -> str:
    return f"JAX {jax.__version__} has no {what}, by which it is known where the kernel may run"


def why_not_here(ctx: Any) -> str | None:
    """One line that says why a lowering may not call the kernel; None: it may.

    ctx: what a lowering rule gets. XLA cannot split a kernel over devices, nor may an export name
    one. What the context does not say counts as a no, with a warning.
    """
    try:
        module = ctx.module_context
        if module.lowering_parameters.for_export:
            return "an export may not name a kernel"
        return (
            None
            if _is_alone(module.axis_context)
            else "devices share its arrays, outside shard_map"
        )
    except (AttributeError, TypeError) as error:
        why = f"JAX {jax.__version__} does not say where the kernel may run ({error})"
        warnings.warn(f'native: {why}; "fused" serves', RuntimeWarning, stacklevel=2)
        return why


def _is_alone(axes: Any) -> bool:
    """Whether each device runs the computation by itself."""
    if isinstance(axes, mlir.SPMDAxisContext):
        return axes.manual_axes == frozenset(axes.mesh.axis_names)
    if isinstance(axes, mlir.ShardingContext):
        return axes.num_devices == 1
    raise TypeError(f"its axes are a {type(axes).__name__}")


# ---- jaxprs --------------------------------------------------------------------------------------
CALLS = (
    "pjit", "jit", "closed_call", "core_call", "eval_jaxpr", "remat", "checkpoint", "remat2",
    "custom_jvp_call", "custom_vjp_call",
)  # fmt: skip
"""Primitives that are their inner jaxpr, once."""


def name_of(eqn: Any) -> str:
    """The primitive's name, or that of a function of JAX's own which is read as one primitive."""
    return "exp_neg_sq" if _is_exp_neg_sq(eqn) else eqn.primitive.name


def inner_jaxpr(eqn: Any) -> Any:
    """The jaxpr of a call, of whatever kind; a loop has one too, and is none."""
    if name_of(eqn) not in CALLS:
        return None
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = eqn.params.get(name)
        if inner is not None:
            return inner if hasattr(inner, "consts") else ClosedJaxpr(inner, ())
    return None


def needed(jaxpr: Any) -> list[Any]:
    """The equations that a result depends on."""
    wanted = {v for v in jaxpr.outvars if not isinstance(v, Literal)}
    kept = []
    for eqn in reversed(jaxpr.eqns):
        if wanted & set(eqn.outvars):
            kept.append(eqn)
            wanted |= {v for v in eqn.invars if not isinstance(v, Literal)}
    return kept[::-1]


def _is_exp_neg_sq(eqn: Any) -> bool:
    """Whether it is exp(-x^2) as JAX 0.12 has it in erf's derivative: a function that takes the
    bits of x apart, told by its whole text."""
    if eqn.primitive.name != "custom_jvp_call" or len(eqn.invars) != 1:
        return False
    inner = eqn.params["call_jaxpr"]
    if not any(each.primitive.name == "bitcast_convert_type" for each in inner.eqns):
        return False
    return str(inner) in _calls_of_erf(eqn.invars[0].aval)


@lru_cache(maxsize=64)
def _calls_of_erf(kind: Any) -> Sequence[str]:
    derivative = jax.make_jaxpr(lambda x: jax.jvp(lax.erf, (x,), (x,)))(kind)
    return [str(eqn.params.get("call_jaxpr")) for eqn in derivative.eqns]
