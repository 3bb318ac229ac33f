"""A run that is killed again and again at random instants, each time in a new process.

    python tests/killing.py FOLDER KILLS SEED

Processes are forked from one that has imported everything and computed nothing, since imports take
longer than the run. Prints the checkpoints that are there after each kill, then writes what the run
ends with, and what one that nobody killed ends with, to FOLDER/killed.npz and FOLDER/whole.npz.
"""

import os
import random
import signal
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint  # noqa: F401

from lstm_jax import checkpoint, optim, train

TX = optax.chain(optim.clipped_sgd(0.1, momentum=0.9), optax.add_noise(0.01, 0.5, 0))
PARAMS = {"w": np.eye(3, dtype="f"), "b": np.ones(3, "f")}  # Small: each process compiles it.
FOREVER = 10**6


def loss(params, batch):
    return jnp.mean(jnp.square(jnp.tanh(batch @ params["w"]) - params["b"][None]))


def fit(steps, progress=None, checkpoints=None):
    run = train.make_loop(loss, TX, lambda key: jax.random.normal(key, (2, 3)), 5, donate=True)
    state = train.create(PARAMS, TX)
    given = {"chunk": 5, "progress": progress, "checkpoints": checkpoints}
    return train.fit(run, state, jax.random.key(1), steps, **given)


def resume(folder, steps, progress=None):
    with train.Checkpoints(folder, every=10, keep=2) as checkpoints:
        return fit(steps, progress, checkpoints)


def child(work):
    """Start a process for `work`, which gets a function that tells the parent: (id, a pipe)."""
    heard, told = os.pipe()
    process = os.fork()
    if process:
        os.close(told)
        return process, heard
    code = 1
    try:
        work(lambda *args, **kwargs: os.write(told, b"."))
        code = 0
    finally:
        os._exit(code)


def end(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def kill_once(folder, instants):
    process, heard = child(lambda tell: resume(folder, FOREVER, tell))
    if instants.random() < 0.75:  # While it trains and writes; else while it starts, or reads.
        for _ in range(instants.randint(1, 12)):
            os.read(heard, 1)
        time.sleep(instants.uniform(0, 0.1))
    else:
        time.sleep(instants.uniform(0, 1.0))
    os.kill(process, signal.SIGKILL)
    os.close(heard)
    return end(process)


def keep(path, work):
    assert end(child(lambda tell: checkpoint.save(path, work()))[0]) == 0


def main(folder, kills, seed):
    run = os.path.join(folder, "run")
    instants = random.Random(seed)
    for _ in range(kills):
        code = kill_once(run, instants)
        print(code, *train.Checkpoints(run).steps, flush=True)
        if code != -signal.SIGKILL:
            sys.exit("it did not run until it was killed")
    steps = max(train.Checkpoints(run).steps, default=0) + 7
    keep(os.path.join(folder, "killed.npz"), lambda: resume(run, steps))
    keep(os.path.join(folder, "whole.npz"), lambda: fit(steps))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
