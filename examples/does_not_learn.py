"""From "my recurrent network does not learn" to cause and cure, in six steps.

For a model of your own put its net, its task and a cell that may cure it in the place of the three
lines at the start of `main`, and its loss and optimiser in the place of those of `trained`.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lstm_jax as lj
from lstm_jax import diagnostics, train


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Print six findings; return {"before", "after": the two losses, "horizon": steps}."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few updates, to see that it runs")
    smoke = parser.parse_args(arguments).smoke

    task = lj.data.Adding(20 if smoke else 60)
    net = lj.readout(lj.RNN(32), 1)
    cured = lj.readout(lj.LSTM(32, b_init=lj.initializers.chrono(task.length)), 1)

    steps = 40 if smoke else 2000
    before, params, history = trained(net, task, steps)
    print(f"1 Loss {before:.3f} after {steps} updates; without memory it is {task.baseline:.3f}.")
    print("2 " + explosion(history))
    xs = task.sample(jax.random.key(2), 32).xs
    slope = slope_of(net, params, xs)
    horizon = float(np.log(1000) / -slope) if slope < 0 else float("inf")
    print(
        f"3 Vanishing? The gradient changes by {slope:+.2f} nats a step back: {horizon:.0f} steps"
        f" leave a thousandth of it. The task looks back up to {task.length - 1}."
    )
    print("4 " + cause(net, params, xs))
    first = cured.init(jax.random.key(0), task.input_size)
    print(f"5 Another cell and start: {slope_of(cured, first, xs):+.2f} nats. {kept(cured, xs)}")
    after, _, _ = trained(cured, task, steps)
    print(f"6 Loss {after:.3f} after as many updates.")
    return {"before": before, "after": after, "horizon": horizon}


def explosion(history: Any) -> str:
    """Say how large gradients became, and what clipping did about it."""
    norms = np.asarray(history["norm_before"])
    clipped, skipped = float(history["clip_rate"][-1]), int(history["skipped"][-1])
    return (
        f"Explosion? Gradient norms are {np.median(norms):.2g} in the middle and {norms.max():.2g}"
        f" at most; clipping shortens {clipped:.0%} of the updates and skips {skipped}."
    )


def trained(net: Any, task: Any, steps: int) -> tuple[float, Any, Any]:
    """Train with clipped SGD: (mean loss of the last tenth, parameters, history)."""

    def loss(params, batch):
        _, ys = lj.unroll(net, params, batch.xs)
        return task.loss(ys, batch)

    tx = lj.clipped_sgd(0.3, max_norm=0.1, momentum=0.9)
    run = train.make_loop(loss, tx, lambda key: task.sample(key, 32), steps)
    start = train.create(net.init(jax.random.key(0), task.input_size), tx)
    state, history = run(start, jax.random.key(1))
    return float(history["loss"][-steps // 10 :].mean()), state.params, history


def last_output(ys):
    """A loss of the last step alone, so that a lag is a lag."""
    return jnp.sum(ys[-1])


def slope_of(net: Any, params: Any, xs: Any) -> float:
    """Slope of ln |dL/ds_t| over the leaf of the carry that keeps most, in nats a step."""
    norms = diagnostics.gradient_norms_by_lag(net, params, xs, last_output)
    slopes = [jnp.mean(leaf) for leaf in jax.tree.leaves(diagnostics.slope_per_step(norms))]
    return float(np.nanmax(np.asarray(slopes)))


def cause(net: Any, params: Any, xs: Any) -> str:
    """Say what a step back multiplies the gradient by: weights and slopes of the activation."""
    hs = lj.unroll(net.inner, params["inner"], xs)[1]
    radius = float(diagnostics.spectral_radius(params["inner"]["w_hh"]))
    slope = float(jnp.mean(1 - hs**2))
    return (
        f"Why: a step back multiplies by w_hh (spectral radius {radius:.2f}) and by 1 - h^2"
        f" (mean {slope:.2f}): {np.log(radius * slope):+.2f} nats."
    )


def kept(net: Any, xs: Any) -> str:
    """Say through which path the gradient comes back, and how long the gates keep."""
    params = net.init(jax.random.key(0), xs.shape[-1])
    paths = diagnostics.gradient_norms_by_path(net, params, xs, last_output)
    share = float(jnp.mean(jnp.exp(paths["carry"].c[0] - paths["all"].c[0])))
    times = diagnostics.gate_statistics(net, params, xs)["f"].forgetting_time
    return (
        f"Along c alone comes {share:.0%} of it, and half of the units keep a third of it for"
        f" more than {float(np.median(times)):.0f} steps."
    )


if __name__ == "__main__":
    main()
