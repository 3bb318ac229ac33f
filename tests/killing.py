"""Runs that are killed again and again at random instants, each time in a new process.

    python tests/killing.py FOLDER KILLS SEED [loop, feed or streams]

All train with a guarded optimiser that meets losses of NaN, momentum, noise and a moving average of
the parameters, evaluate that average, keep the best of it, and write a table and lines of metrics.
"loop" draws two micro-batches for each update and gives its state away; "feed" takes them from a
loader with a state, and a random key; "streams" takes pieces of long streams, whose carry goes on.

Processes are forked from one that has imported everything and computed nothing, since imports take
longer than the run. Prints the checkpoints that are there after each kill, then writes what the run
ends with, and what one that nobody killed ends with, to FOLDER/killed.npz and FOLDER/whole.npz,
their metrics to FOLDER/killed.csv, killed.jsonl, whole.csv and whole.jsonl.
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

TX = optax.chain(
    optim.guarded(optax.chain(optim.clipped_sgd(0.1, momentum=0.9), optax.add_noise(0.01, 0.5, 0))),
    optim.average_params(0.9),
)
PARAMS = {"w": np.eye(3, dtype="f"), "b": np.ones(3, "f")}  # Small: each process compiles it.
FOREVER = 10**6


# ---- runs ----------------------------------------------------------------------------------------
def loss(params, batch, key=None):
    ys = jnp.tanh(batch @ params["w"]) - params["b"][None]
    scale = 1.0 if key is None else jax.random.uniform(key, (), minval=0.5)
    return scale * jnp.mean(jnp.square(ys))


def sample(key):
    noise, bad = jax.random.split(key)
    return jnp.where(jax.random.uniform(bad) < 0.03, jnp.nan, jax.random.normal(noise, (2, 3)))


class Loader:
    """Micro-batches without end, by their number, which is its state; now and then one of NaN."""

    def __init__(self):
        self.n = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.n += 1
        batch = np.random.default_rng(self.n).normal(size=(2, 2, 3)).astype("f")
        return batch * np.float32("nan") if self.n % 17 == 5 else batch

    def get_state(self):
        return {"n": self.n}

    def set_state(self, state):
        self.n = state["n"]


def apply(params, carry, inputs, mask):
    def step(h, x):
        h = jnp.tanh(x @ params["w"] + h)
        return h, h

    return jax.lax.scan(step, carry, inputs)


def made(kind):
    """A run of this kind, before its first update."""
    if kind == "loop":
        return train.make_loop(loss, TX, sample, 5, accumulate=2, donate=True)
    if kind == "feed":
        step = train.make_step(loss, TX, accumulate=2)
        halves = lambda state, batch, key: step(state, batch, jax.random.split(key))  # noqa: E731
        return train.Feed(halves, Loader(), keyed=True)
    pieces = np.random.default_rng(0).normal(size=(7, 2, 4, 2, 3)).astype("f")
    pieces[3, 1, 2] = np.nan  # A target.
    pieces[5, 0, 2] = np.nan  # An input: the carry is NaN up to the end of the chunk.
    tbptt = train.make_tbptt(apply, lambda ys, t: jnp.mean(jnp.square(ys - t)), TX, k1=4)
    return train.Feed(tbptt, [tuple(piece) for piece in pieces], carry=np.zeros((2, 3), "f"))


def fit(kind, logs, steps, progress=None, checkpoints=None):
    """What is left of a run: the state, the history, the best, the carry and place of a feed."""
    run, best = made(kind), train.Best("eval_size")
    with train.CsvLines(f"{logs}.csv") as table, train.JsonLines(f"{logs}.jsonl") as lines:
        state, history = train.fit(
            run,
            train.create(PARAMS, TX),
            jax.random.key(1),
            steps,
            chunk=5,
            evaluate=lambda params: {"size": jnp.sum(jnp.square(params["w"]))},
            evaluate_every=10,
            view=optim.averaged,
            best=best,
            metrics=lambda record: (table.write(record), lines.write(record)),
            progress=progress,
            checkpoints=checkpoints,
        )
    place = run.get_state() if isinstance(run, train.Feed) else None
    return {"state": state, "history": history, "best": best.kept, "place": place}


def resume(kind, folder, steps, progress=None):
    given = os.path.join(folder, "run")
    with train.Checkpoints(given, every=10, keep=2) as checkpoints:
        return fit(kind, os.path.join(folder, "killed"), steps, progress, checkpoints)


# ---- kills ---------------------------------------------------------------------------------------
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


def kill_once(kind, folder, instants):
    process, heard = child(lambda tell: resume(kind, folder, FOREVER, tell))
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


def main(folder, kills, seed, kind="feed"):
    run = os.path.join(folder, "run")
    instants = random.Random(seed)
    for _ in range(kills):
        code = kill_once(kind, folder, instants)
        print(code, *train.Checkpoints(run).steps, flush=True)
        if code != -signal.SIGKILL:
            sys.exit("it did not run until it was killed")
    steps = max(train.Checkpoints(run).steps, default=0) + 7
    keep(os.path.join(folder, "killed.npz"), lambda: resume(kind, folder, steps))
    whole = os.path.join(folder, "whole")
    keep(f"{whole}.npz", lambda: fit(kind, whole, steps))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
