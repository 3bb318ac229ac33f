"""Train an LSTM with clipped SGD to add two numbers from up to 50 steps ago."""

import argparse

import jax

import lstm_jax as lj


def main(arguments: list[str] | None = None) -> float:
    """Train and print the loss against the baseline; returns the last loss."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    smoke = parser.parse_args(arguments).smoke
    length, steps = (10, 20) if smoke else (50, 2000)

    task = lj.data.Adding(length)
    cell = lj.LSTM(32)
    key_cell, key_out, key_run = jax.random.split(jax.random.key(0), 3)
    params = {
        "cell": cell.init(key_cell, task.input_size),
        "out": lj.initializers.glorot_uniform()(key_out, (32, 1)),
    }

    def loss(params, batch):
        _, ys = lj.unroll(cell, params["cell"], batch.xs)
        return task.loss(ys @ params["out"], batch)

    tx = lj.clipped_sgd(0.3, max_norm=0.1, momentum=0.9)
    run = lj.train.make_loop(loss, tx, lambda key: task.sample(key, 32), steps)
    _, history = run(lj.train.create(params, tx), key_run)
    last = float(history["loss"][-steps // 10 :].mean())
    print(f"mean squared error {last:.4f}, without memory {task.baseline:.4f}")
    return last


if __name__ == "__main__":
    main()
