"""`python -m bench.orders`: times of every order of vmap and grad, beside a rival.

    forward   vmap                       members: own parameters, shared inputs
    vmap-grad vmap of grad               inputs:  shared parameters, own inputs
    grad-vmap grad of vmap               both:    own parameters, own inputs
    second    vmap of the gradient through one step of gradient descent, as MAML takes it

Contenders take turns, and the median of the turns counts. The last column is the temporary memory
that XLA plans with the default implementation, and with "fused".
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import lstm_jax as lj

AXES = {"members": (0, None), "inputs": (None, 0), "both": (0, 0)}
CASES = [  # cell, N, T, B, D, H
    ("LSTM", 8, 100, 4, 32, 128),
    ("LSTM", 128, 100, 1, 16, 32),
    ("GRU", 64, 100, 1, 16, 32),
    ("GRU", 16, 50, 8, 16, 64),
]
RIVAL = "equinox"


def main() -> None:
    """Measure every case and print the table."""
    made = argparse.ArgumentParser(prog="python -m bench.orders", description=__doc__)
    made.add_argument("--turns", type=int, default=7)
    made.add_argument("--case", help="cell,N,T,B,D,H")
    made.add_argument("--order", action="append", help="such as members/grad-vmap")
    given = made.parse_args()
    cases: Any = CASES
    if given.case:
        name, *sizes = given.case.split(",")
        cases = [(name, *map(int, sizes))]
    for case in cases:
        print("cell, N, T, B, D, H =", *case)
        for order, function in orders(case).items():
            if not given.order or order in given.order:
                print(row(order, function, case, given.turns), flush=True)


def orders(case: Any) -> dict[str, Callable[..., Any]]:
    """Orders by name: function(run) -> a function of parameters and inputs."""
    made = {}
    for name, axes in AXES.items():
        made[f"{name}/forward"] = lambda run, a=axes: jax.vmap(run, a)
        made[f"{name}/vmap-grad"] = lambda run, a=axes: jax.vmap(jax.grad(loss(run), (0, 1)), a)
        made[f"{name}/grad-vmap"] = lambda run, a=axes: jax.grad(loss(jax.vmap(run, a)), (0, 1))
    made["inputs/second"] = lambda run: jax.vmap(second(run), (None, 0))
    return made


def loss(run: Callable[..., Any]) -> Callable[..., Any]:
    """Make the loss mean(ys^2) of parameters and inputs."""
    return lambda params, xs: jnp.mean(run(params, xs) ** 2)


def second(run: Callable[..., Any]) -> Callable[..., Any]:
    """Make the gradient of the loss after a step of gradient descent."""

    def after(params: Any, xs: Any) -> Any:
        grads = jax.grad(loss(run))(params, xs)
        return loss(run)(jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), xs)

    return jax.grad(after)


def row(order: str, function: Callable[..., Any], case: Any, turns: int) -> str:
    """Format one row: milliseconds by contender, and megabytes."""
    names: dict[str, Any] = {"default": None, "fused": "fused", "scan": "scan", RIVAL: RIVAL}
    programs = {name: program(function, case, order, which) for name, which in names.items()}
    times = {name: [] for name in names}
    for _ in range(turns):
        for name, (compiled, arguments) in programs.items():
            began = time.perf_counter()
            jax.block_until_ready(compiled(*arguments))
            times[name].append(time.perf_counter() - began)
    found = [f"{name} {1e3 * statistics.median(t):8.2f}" for name, t in times.items()]
    sizes = [
        f"{programs[n][0].memory_analysis().temp_size_in_bytes / 2**20:.0f}"
        for n in ("default", "fused")
    ]
    return f"  {order:18} " + "  ".join(found) + f"  ms   {' / '.join(sizes)} MiB"


def program(function: Callable[..., Any], case: Any, order: str, which: Any) -> Any:
    """Compile one order: (compiled, its arguments), stacked where the order vmaps."""
    kind, count, steps, batch, inputs, size = case
    cell = getattr(lj, kind)(size)
    params = cell.init(jax.random.key(0), inputs)
    xs = jax.random.normal(jax.random.key(1), (steps, batch, inputs))
    of_params, of_xs = AXES[order.split("/")[0]]
    if of_params == 0:
        params = jax.tree.map(
            lambda p: jnp.stack([p * (1 + k / count) for k in range(count)]), params
        )
    if of_xs == 0:
        xs = jnp.stack([xs * (1 + k / count) for k in range(count)])

    def ours(params: Any, xs: Any) -> Any:
        return lj.unroll(cell, params, xs, implementation=which)[1]

    run = function(rival(kind) if which == RIVAL else ours)
    compiled = jax.jit(run).lower(params, xs).compile()
    jax.block_until_ready(compiled(params, xs))
    return compiled, (params, xs)


def rival(kind: str) -> Callable[..., Any]:
    """Make equinox's cell in a scan, as a function of our parameters and inputs."""
    import equinox as eqx

    def one(params: Any, xs: Any) -> Any:
        size = params["w_hh"].shape[0]
        made = eqx.nn.LSTMCell if kind == "LSTM" else eqx.nn.GRUCell
        cell = eqx.filter_eval_shape(
            lambda: made(xs.shape[-1], size, key=jax.random.key(0)),
        )
        names = [n for n in ("weight_ih", "weight_hh", "bias", "bias_n") if hasattr(cell, n)]
        of = {"weight_ih": params["w_ih"].T, "weight_hh": params["w_hh"].T, "bias": params["b"]}
        of["bias_n"] = params.get("b_hn")
        cell = eqx.tree_at(lambda c: [getattr(c, n) for n in names], cell, [of[n] for n in names])
        zeros = jnp.zeros(size, xs.dtype)

        def step(carry: Any, x: Any) -> Any:
            carry = cell(x, carry)
            return carry, carry[0] if kind == "LSTM" else carry

        return jax.lax.scan(step, (zeros, zeros) if kind == "LSTM" else zeros, xs)[1]

    return jax.vmap(one, (None, 1), 1)


if __name__ == "__main__":
    main()
