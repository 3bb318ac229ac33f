"""Everything that uses JAX's internals; no other file imports them.

JAX promises stability for none of it: the rules of a primitive, the contents of a jaxpr, the
context of a lowering. A change in JAX may cost speed or the kernel, never correct numbers: if an
attribute that tells where the kernel may run is missing, the kernel does not run, and `why_not` or
a warning names the attribute.
"""

import inspect
import re
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
from jax import lax
from jax.extend.core import ClosedJaxpr as ClosedJaxpr
from jax.extend.core import JaxprEqn
from jax.extend.core import Literal as Literal
from jax.extend.core import Primitive as Primitive
from jax.extend.core import jaxpr_as_fun as jaxpr_as_fun
from jax.interpreters import ad, batching, mlir, partial_eval

try:
    from jax._src.core import trace_state_clean
except ImportError:
    trace_state_clean = None

try:
    from jax._src.config import _check_vma
except ImportError:
    _check_vma = None

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
    """Register the rules that are given for a primitive.

    Args:
        jvp, transpose, batch: rules in the form that JAX calls.
        dead: the rule of dead-code elimination, (used results, equation) -> (used operands, the
            equation without the unused results or None).
    """
    tables: list[tuple[Any, Any]] = [
        (ad.primitive_jvps, jvp),
        (ad.primitive_transposes, transpose),
        (batching.primitive_batchers, batch),
    ]
    if dead is not None:  # From JAX 0.12 on the live operands come before the equation.
        rule = dead
        tables.append((_dead_rules(), lambda used, *rest: rule(used, rest[-1])))
    for table, each in tables:
        if each is not None:
            table[primitive] = each


def _dead_rules() -> dict[Primitive, Any]:
    """JAX's table of rules of dead-code elimination; without one, unused results are computed."""
    return getattr(partial_eval, "dce_rules", {})


def set_linear(primitive: Primitive, transpose: Callable[..., Any]) -> None:
    """Register the rules of a primitive that is elementwise and linear in every operand."""
    ad.deflinear2(primitive, transpose)
    batching.defvectorized(primitive)


def set_lowering(primitive: Primitive, function: Callable[..., Any]) -> None:
    """Lower a primitive to `function` on every platform."""
    mlir.register_lowering(primitive, _lowered(primitive, function))


def set_chosen_lowering(
    primitive: Primitive, platform: str | None, choose: Callable[..., Callable[..., Any]]
) -> None:
    """Lower a primitive on one platform to the function that `choose` returns.

    Args:
        platform: "cpu", "cuda", "rocm" or "tpu"; None: all that have no rule of their own.
        choose: called with a function that returns why no kernel may run there (None: it may), with
            a flag that tells if the program is to be exported, and with the primitive's parameters
            as keywords.
    """

    def rule(ctx: Any, *operands: Any, **parameters: Any) -> Any:
        function = choose(lambda: why_not_here(ctx), is_exported(ctx), **parameters)
        return _lowered(primitive, function)(ctx, *operands, **parameters)

    mlir.register_lowering(primitive, rule, platform=platform)


def checked_as(primitive: Primitive, function: Callable[..., Any]) -> None:
    """Register a rule of `checkify`: check `function` in place of the primitive.

    Args:
        primitive: the primitive.
        function: (*operands, **parameters) of the primitive -> its flat results.
    """
    if error_checks is None or checkify_jaxpr is None:
        return  # Without the rule, `checkify` checks only the results.
    discharge: Any = checkify_jaxpr

    count = len(inspect.signature(discharge).parameters) - 4  # JAX 0.12 passes a context first.

    def rule(*arguments: Any, **parameters: Any) -> tuple[Any, Any]:
        context, (error, enabled, *operands) = arguments[:count], arguments[count:]
        jaxpr = jax.make_jaxpr(lambda *operands: function(*operands, **parameters))(*operands)
        error, results = discharge(*context, jaxpr, enabled, error, *operands)
        return error, results if primitive.multiple_results else results[0]

    error_checks[primitive] = rule


def _lowered(primitive: Primitive, function: Callable[..., Any]) -> Callable[..., Any]:
    return mlir.lower_fun(function, multiple_results=primitive.multiple_results)


def may_trace() -> bool:
    """True if a trace may be going on, so that values may be tracers."""
    return trace_state_clean is None or not trace_state_clean()


def one_device() -> AbstractContextManager[Any]:
    """Context in which types do not say what varies over devices, which `shard_map` checks."""
    return nullcontext() if _check_vma is None else _check_vma(False)


# ---- tangents and cotangents ---------------------------------------------------------------------
def is_zero(tangent: Any) -> bool:
    """True for a symbolic zero."""
    return type(tangent) is ad.Zero


def zero(kind: Any) -> Any:
    """A symbolic zero of the type `kind`."""
    return ad.Zero(kind)


def dense(tangent: Any) -> Any:
    """Convert a symbolic zero to an array of zeros; return any other tangent as it is."""
    return ad.instantiate_zeros(tangent) if is_zero(tangent) else tangent


def is_asked(operand: Any) -> bool:
    """True if a transpose rule must compute the cotangent of `operand`, which then has no value."""
    return ad.is_undefined_primal(operand)


def is_jit_disabled() -> bool:
    """True if jit is disabled, as within `jax.disable_jit`."""
    config: Any = jax.config
    return bool(config.jax_disable_jit)


# ---- where the kernel may run --------------------------------------------------------------------
NEEDED = (
    (mlir, "SPMDAxisContext"),
    (mlir, "ShardingContext"),
    (mlir, "LoweringParameters"),
    (partial_eval, "dce_rules"),
    (ClosedJaxpr, "replace"),
    (JaxprEqn, "replace"),
)
FIELDS = (
    ("SPMDAxisContext", "manual_axes"),
    ("SPMDAxisContext", "mesh"),
    ("ShardingContext", "num_devices"),
    ("LoweringParameters", "for_export"),
)


def why_not() -> str | None:
    """Name in one line what the kernel needs and this JAX lacks; None: nothing."""
    for module, name in NEEDED:
        if not hasattr(module, name):
            return _lacks(f"{module.__name__}.{name}")
    for name, field in FIELDS:
        if not hasattr(getattr(mlir, name), field):
            return _lacks(f"{name}.{field}")
    return None


@lru_cache
def accepts_interface(version: str) -> bool:
    """Check that a library's version of XLA's FFI, as "1.3", is this XLA's or an older minor."""
    header = Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h").read_text()
    theirs = dict(re.findall(r"#define XLA_FFI_API_(MAJOR|MINOR) (\d+)", header))
    major, minor = map(int, version.split("."))
    return major == int(theirs.get("MAJOR", -1)) and minor <= int(theirs.get("MINOR", -1))


def _lacks(what: str) -> str:
    return f"JAX {jax.__version__} has no {what}, which the kernel needs"


def is_exported(ctx: Any) -> bool:
    """True if the program being lowered is to be exported, or if JAX does not say so."""
    parameters = getattr(ctx.module_context, "lowering_parameters", None)
    return getattr(parameters, "for_export", True)


def why_not_here(ctx: Any) -> str | None:
    """Say in one line why a lowering may not call the kernel; None: it may.

    XLA cannot split a kernel over devices, and an export may not contain one. If `ctx`, the context
    of the lowering rule, lacks an attribute, the answer is no, with a warning.
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
    """True if each device runs the computation alone: one device, or every mesh axis manual."""
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
"""Call-like primitives: they run their inner jaxpr once."""


def name_of(eqn: Any) -> str:
    """Name of the primitive, or of what counts as a primitive of its own."""
    name = eqn.primitive.name
    if name == "reshape" and eqn.params.get("dimensions") is not None:
        return "reshape with dimensions"  # The axes are permuted first.
    return "exp_neg_sq" if name == "custom_jvp_call" and _is_exp_neg_sq(eqn) else name


def inner_jaxpr(eqn: Any) -> Any:
    """Inner jaxpr of a call-like equation; None for any other, loops included."""
    if eqn.primitive.name not in CALLS or _is_exp_neg_sq(eqn):
        return None
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = eqn.params.get(name)
        if inner is not None:
            return inner if hasattr(inner, "consts") else ClosedJaxpr(inner, ())
    return None


def with_equations(closed: Any, equations: Sequence[Any]) -> Any:
    """Copy a closed jaxpr with other equations, of the same variables."""
    return _changed(closed, eqns=list(equations))


def with_result(closed: Any, result: Any) -> Any:
    """Copy a closed jaxpr of one result with another one, which is a variable of it."""
    return _changed(closed, outvars=[result])


def _changed(closed: Any, **parts: Any) -> Any:
    if closed.jaxpr is closed:  # From JAX 0.12 on the two are one class.
        return closed.replace(**parts)
    return closed.replace(jaxpr=closed.jaxpr.replace(**parts))


def needed(jaxpr: Any) -> list[Any]:
    """The equations that the results depend on, in order."""
    wanted, kept = set(map(id, jaxpr.outvars)), []  # By identity, as literals have no hash.
    for eqn in reversed(jaxpr.eqns):
        if not wanted.isdisjoint(map(id, eqn.outvars)):
            kept.append(eqn)
            wanted.update(map(id, eqn.invars))
    return kept[::-1]


def _is_exp_neg_sq(eqn: Any) -> bool:
    """True for exp(-x^2) as the derivative of erf has it from JAX 0.12 on.

    There it is a function that splits x into bits; it is recognised by its whole text."""
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
