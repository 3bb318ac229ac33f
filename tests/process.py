"""One process of several that train together on CPUs, for `test_processes.py`.

    python process.py COORDINATOR COUNT ID FOLDER UPDATES

It trains to UPDATES updates in all, going on from the checkpoints in FOLDER, and process 0 writes
the parameters and the losses to FOLDER/COUNT.npz. Every process has one device.
"""

import os
import sys

import jax
import numpy as np

import lstm_jax as lj
from lstm_jax import sharding

T, B, D, H = 5, 8, 3, 8


def main(coordinator, count, number, folder, updates):
    if count > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(coordinator, count, number, initialization_timeout=60)
    assert jax.process_count() == count
    shape, names = (count // 2 or 1, min(count, 2)), ("data", "model")
    mesh = jax.make_mesh(shape, names, devices=jax.devices()[:count])
    net = lj.readout(sharding.by_units(lj.LSTM(H), mesh, batch="data"), 1)
    tx = lj.clipped_sgd(0.3, max_norm=0.5, momentum=0.9)

    def loss(params, xs):
        return ((lj.unroll(net, params, xs)[1] - xs[..., :1]) ** 2).mean()

    def begin(key):
        return lj.train.create(net.init(key, D), tx)

    key = jax.random.key(0)
    shardings = sharding.state(mesh, net, jax.eval_shape(begin, key))
    state = jax.jit(begin, out_shardings=shardings)(key)
    feed = lj.train.Feed(lj.train.make_step(loss, tx), Batches(mesh))
    os.makedirs(folder, exist_ok=True)
    with lj.train.Checkpoints(os.path.join(folder, "run"), every=2) as checkpoints:
        state, history = lj.train.fit(feed, state, key, updates, chunk=2, checkpoints=checkpoints)
    whole = jax.jit(
        lambda tree: tree, out_shardings=sharding.state(mesh, lj.LSTM(H), shardings.params)
    )
    params = jax.device_get(whole(state.params))
    if number == 0:
        found = jax.tree_util.tree_leaves_with_path(params)
        leaves = {jax.tree_util.keystr(path): leaf for path, leaf in found}
        np.savez(os.path.join(folder, f"{count}.npz"), loss=history["loss"], **leaves)


class Batches:
    """Ten batches, of which every process makes its own part."""

    def __init__(self, mesh):
        self.mesh = mesh

    def __iter__(self):
        for seed in range(10):
            xs = np.random.default_rng(seed).standard_normal((T, B, D)).astype(np.float32)
            placed = sharding.batch(self.mesh, xs)
            yield jax.make_array_from_callback(xs.shape, placed, lambda at, xs=xs: xs[at])


if __name__ == "__main__":
    coordinator, count, number, folder, updates = sys.argv[1:]
    main(coordinator, int(count), int(number), folder, int(updates))
