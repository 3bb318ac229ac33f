"""What runs where: cell x implementation x mode, found by tracing every one of them.

python tests/support.py            prints the table
python tests/support.py --write    puts it into the README
"""

import argparse
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import registry

import lstm_jax as lj

README = pathlib.Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- support: begin -->", "<!-- support: end -->"
T, B, D, H = 3, 2, 2, 4


def modes(run: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """Every mode of a scalar function of (params, xs), by name."""
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
    """The modes that do not trace."""
    cell = case.make(H)
    space = getattr(cell, "input_shape", ())

    def run(params, xs):
        flags = {"mask": jnp.ones((T, B), bool), "resets": jnp.zeros((T, B), bool)}
        carry, ys = lj.unroll(cell, params, xs, **flags, implementation=implementation)
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
    """One line of Markdown."""
    cells = [case.name.replace("_", " ")]
    for name in registry.IMPLEMENTATIONS:
        cells.append(entry(case, name) if name in case.implementations else "")
    return f"| {' | '.join(cells)} |"


def entry(case: registry.Case, implementation: str) -> str:
    """ "all", or all but what is missing; bold where it is the default on this platform."""
    lacking = missing(case, implementation)
    text = "all" if not lacking else "not " + ", ".join(lacking)
    return f"**{text}**" if implementation == case.default else text


def table() -> str:
    """The whole table."""
    return "\n".join([*head(), *map(row, registry.EVERY.values())])


def head() -> list[str]:
    """What stands above the rows."""
    columns = ["cell or net", *registry.IMPLEMENTATIONS]
    names = ", ".join(modes(lambda params, xs: 0.0))
    intro = (
        f"Modes: {names}. Bold: what `implementation=None` picks on a CPU whose kernel is built."
    )
    return [intro, "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]


def shown() -> str:
    """The table that the README holds."""
    return README.read_text().split(BEGIN)[1].split(END)[0].strip()


def main(arguments: list[str] | None = None) -> None:
    """Print it, or write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--write", action="store_true", help="put it into the README")
    if not parser.parse_args(arguments).write:
        return print(table())
    before, rest = README.read_text().split(BEGIN)
    README.write_text(f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    sys.exit(main())
