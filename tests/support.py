"""Tables of what runs where, found by tracing: cell x implementation x mode, and the default.

python tests/support.py            prints the tables
python tests/support.py --write    puts them into docs/support.md and docs/implementations.md
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax
import jax.export
import jax.numpy as jnp
import registry
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import lstm_jax as lj

DOCS = pathlib.Path(__file__).parents[1] / "docs"
PAGES = {"support": DOCS / "support.md", "who": DOCS / "implementations.md"}
"""The page of each table."""
T, B, D, H = 3, 2, 2, 4


def modes(run: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """The modes of a scalar function of (params, xs), by name."""
    return {
        "grad": jax.grad(run),
        "jvp": lambda params, xs: jax.jvp(run, (params, xs), (params, xs)),
        "jacfwd": jax.jacfwd(run, argnums=1),
        "jacrev": jax.jacrev(run, argnums=1),
        "hessian": jax.hessian(run, argnums=1),
        "vmap": lambda params, xs: jax.vmap(run)(*jax.tree.map(lambda a: a[None], (params, xs))),
        "checkpoint": jax.grad(jax.checkpoint(run)),
    }


def missing(case: registry.Case, implementation: str) -> list[str]:
    """The modes that cannot be traced."""
    cell = case.make(H)
    space = getattr(cell, "input_shape", ())

    def run(params, xs):
        flags = {"mask": jnp.ones((T, B), bool), "resets": jnp.zeros((T, B), bool)}
        asked = registry.asked(implementation)
        carry, ys = lj.unroll(cell, params, xs, **flags, implementation=asked)
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves((carry, ys)))

    params = jax.eval_shape(lambda key: cell.init(key, D), jax.random.key(0))
    xs = jax.ShapeDtypeStruct((T, B, *space, D), jnp.float32)
    return [name for name, mode in modes(run).items() if not _traces(mode, params, xs)]


def _traces(mode: Callable[..., Any], *arguments: Any) -> bool:
    try:
        jax.eval_shape(mode, *arguments)
    except NotImplementedError:
        return False
    return True


def row(case: registry.Case) -> str:
    """Format the row of a case in Markdown."""
    found = [found_entry(case, name) for name in registry.IMPLEMENTATIONS]
    return f"| {' | '.join([case.name.replace('_', ' '), *found])} |"


def found_entry(case: registry.Case, name: str) -> str:
    """Trace the entry of a case and an implementation; empty if that cannot run the cell."""
    if name == "pallas_tpu":
        with registry.interpreting():
            return entry(case, name) if case.interpreted else ""
    if name == "cuda":
        with registry.emulating():
            return entry(case, name) if case.printed else ""
    return entry(case, name) if name in case.implementations else ""


def shown_entries(case: registry.Case) -> dict[str, str]:
    """The entries of a case in the page, by implementation."""
    rows = [line[1:-1].split("|") for line in shown().splitlines()]
    name = case.name.replace("_", " ")
    (found,) = [entries for first, *entries in rows if first.strip() == name and entries]
    return dict(zip(registry.IMPLEMENTATIONS, map(str.strip, found), strict=True))


def entry(case: registry.Case, implementation: str) -> str:
    """Format the supported modes of a pair; bold if it is the default on this platform."""
    lacking = missing(case, implementation)
    text = "all" if not lacking else "not " + ", ".join(lacking)
    return f"**{text}**" if implementation == case.default else text


def table() -> str:
    """Format the table of cells and implementations in Markdown."""
    return "\n".join([*head(), *map(row, registry.EVERY.values())])


def head() -> list[str]:
    """Introduction and heading of the table."""
    columns = ["cell or net", *registry.IMPLEMENTATIONS]
    names = ", ".join(modes(lambda params, xs: 0.0))
    intro = (
        f"Modes: {names}. Bold: what `implementation=None` picks on a CPU whose kernel is built."
    )
    return [intro, "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]


# ---- who runs each mode --------------------------------------------------------------------------
CELLS = {"LSTM": lj.LSTM(H), "GRU": lj.GRU(H)}
DEVICES = 8


def loss(cell: Any, **options: Any) -> Callable[..., Any]:
    """A scalar function of (params, xs)."""
    return lambda params, xs: jnp.sum(jnp.sin(lj.unroll(cell, params, xs, **options)[1]))


def of_members(cell: Any, axes: Any) -> Callable[..., Any]:
    """A scalar function: the sum of the members' losses under `vmap`."""
    each = jax.vmap(loss(cell), in_axes=axes)
    return lambda params, xs: jnp.sum(each(params, xs))


def types(cell: Any, members: int = 0, steps: int = T) -> tuple[Any, Any]:
    """Shapes and dtypes of (params, xs [T, B, D]); params have a first axis of `members`."""
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), D))
    axes = (members,) if members else ()
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*axes, *x.shape), x.dtype), params)
    return params, jax.ShapeDtypeStruct((steps, DEVICES, D), "float32")


def exported(cell: Any) -> lj.Inspection:
    """Inspect the call of an exported gradient."""
    export = jax.export.export(jax.jit(jax.grad(loss(cell))))(*types(cell))
    return lj.inspect(export.call, *types(cell))


def on_devices(cell: Any, mapped: bool) -> lj.Inspection:
    """Inspect a gradient whose sequences are split over devices, by `shard_map` or by XLA."""
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))
    specs, run = (P(), P(None, "data")), jax.grad(loss(cell))
    params, xs = types(cell)
    xs = jax.ShapeDtypeStruct(xs.shape, xs.dtype, sharding=NamedSharding(mesh, specs[1]))
    run = jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=P()) if mapped else run
    return lj.inspect(run, params, xs)


def dropped(cell: Any) -> lj.Inspection:
    """Inspect a gradient in training, with a dropout mask on h for each sequence."""
    masked = lj.recurrent_dropout(cell, rate=0.5)
    return lj.inspect(jax.grad(loss(masked, key=jax.random.key(0))), *types(masked))


def in_order(cell: Any, first: Any, second: Any) -> Callable[..., Any]:
    """A loss under `vmap` inside `vmap`."""
    return jax.vmap(jax.vmap(loss(cell), in_axes=second), in_axes=first)


INPUTS, PARAMS, BOTH = (None, 1), (0, None), (0, 1)

WHO: dict[str, Callable[[Any], lj.Inspection]] = {
    "forward": lambda c: lj.inspect(loss(c), *types(c)),
    "grad": lambda c: lj.inspect(jax.grad(loss(c)), *types(c)),
    "jvp": lambda c: lj.inspect(lambda *a: jax.jvp(loss(c), a, a), *types(c)),
    "grad with checkpoint": lambda c: lj.inspect(jax.grad(jax.checkpoint(loss(c))), *types(c)),
    "vmap over inputs": lambda c: lj.inspect(jax.vmap(loss(c), INPUTS), *types(c)),
    "vmap over parameters": lambda c: lj.inspect(jax.vmap(loss(c), PARAMS), *types(c, 3)),
    "vmap over pairs of both": lambda c: lj.inspect(jax.vmap(loss(c), BOTH), *types(c, DEVICES)),
    "vmap over parameters, of vmap over inputs": lambda c: lj.inspect(
        in_order(c, PARAMS, INPUTS), *types(c, 3)
    ),
    "vmap over inputs, of vmap over parameters": lambda c: lj.inspect(
        in_order(c, INPUTS, PARAMS), *types(c, 3)
    ),
    "grad of vmap over inputs": lambda c: lj.inspect(jax.grad(of_members(c, INPUTS)), *types(c)),
    "vmap over inputs, of grad": lambda c: lj.inspect(
        jax.vmap(jax.grad(loss(c)), INPUTS), *types(c)
    ),
    "grad of vmap over parameters": lambda c: lj.inspect(
        jax.grad(of_members(c, PARAMS)), *types(c, 3)
    ),
    "vmap over parameters, of grad": lambda c: lj.inspect(
        jax.vmap(jax.grad(loss(c)), PARAMS), *types(c, 3)
    ),
    "grad of grad": lambda c: lj.inspect(
        jax.grad(lambda p, xs: jnp.sum(jnp.sin(jax.grad(loss(c), argnums=1)(p, xs)))), *types(c)
    ),
    "grad, exported": exported,
    "grad, split over devices": lambda c: on_devices(c, mapped=False),
    "grad, split by `shard_map`": lambda c: on_devices(c, mapped=True),
    "grad in training with `recurrent_dropout`": dropped,
    "grad of no steps": lambda c: lj.inspect(jax.grad(loss(c)), *types(c, steps=0)),
}
"""Functions from a cell to an inspection, by the name of the mode."""


def who_table() -> str:
    """Format the table of modes in Markdown."""
    return "\n".join([*who_head(), *map(who_row, WHO)])


def who_head() -> list[str]:
    """Heading of the table of modes."""
    columns = [*CELLS, "why not by the kernel"]
    return [f"| | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]


def who_row(mode: str) -> str:
    """Format the row of a mode in Markdown."""
    found = [WHO[mode](cell) for cell in CELLS.values()]
    whys = {each.why: None for records in found for each in records if each.why}
    return f"| {' | '.join([mode, *map(who, found), '; '.join(whys)])} |"


def who(records: lj.Inspection) -> str:
    """Format who runs the recurrences: "kernel", "XLA", or the calls of each."""
    calls: dict[str, dict[str, None]] = {}
    for each in records:
        by = "kernel" if each.implementation == "native" else "XLA"
        calls.setdefault(by, {})[each.call] = None
    if len(calls) == 1:
        return next(iter(calls))
    return "; ".join(f"{by} {', '.join(names)}" for by, names in calls.items())


# ---- the page ------------------------------------------------------------------------------------
def marks(name: str) -> tuple[str, str]:
    """The lines that a table stands between."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def shown(name: str = "support") -> str:
    """The table that its page holds."""
    begin, end = marks(name)
    return PAGES[name].read_text().split(begin)[1].split(end)[0].strip()


def main(arguments: list[str] | None = None) -> None:
    """Print them, or write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--write", action="store_true", help="put them into their pages")
    write = parser.parse_args(arguments).write
    for (name, page), text in zip(PAGES.items(), (table(), who_table()), strict=True):
        if not write:
            print(text, end="\n\n")
            continue
        begin, end = marks(name)
        before, rest = page.read_text().split(begin)
        page.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")


if __name__ == "__main__":
    sys.exit(main())
