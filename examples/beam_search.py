"""Beam search: find likely sequences of a network whose last symbol is its next input.

The carries of all beams are one batch. When a beam goes on from another one it takes its carry, a
`leaf[chosen]` for every leaf of any net's carry.
"""

import argparse
import itertools

import jax
import jax.numpy as jnp

import lstm_jax as lj

END = 0


def search(net, params, carry, first, steps, beams):
    """Find sequences of high probability from one carry (leaves [H]) and one first symbol.

    Returns:
        (symbols [beams, steps], ln p [beams]), the likeliest first; after END comes END alone.
    """

    def step(state, t):
        carry, last, scores, symbols = state
        carry, logits = net.step(params, carry, last)
        log_p, size = jax.nn.log_softmax(logits), logits.shape[-1]
        ended = (last == END)[:, None] & (t > 0)
        log_p = jnp.where(ended, jnp.where(jnp.arange(size) == END, 0.0, -jnp.inf)[None], log_p)
        scores, best = jax.lax.top_k((scores[:, None] + log_p).reshape(-1), beams)
        chosen, last = best // size, best % size
        carry = jax.tree.map(lambda leaf: leaf[chosen], carry)
        return (carry, last, scores, symbols[chosen].at[:, t].set(last)), None

    carry = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (beams, *leaf.shape)), carry)
    scores = jnp.full(beams, -jnp.inf).at[0].set(0.0)  # All beams begin as one.
    start = carry, jnp.full(beams, first), scores, jnp.zeros((beams, steps), int)
    (_, _, scores, symbols), _ = jax.lax.scan(step, start, jnp.arange(steps))
    return symbols, scores


def log_probability(net, params, carry, first, symbols):
    """ln p of symbols [T], up to and with the first END."""
    inputs = jnp.concatenate([jnp.full_like(symbols[:1], first), symbols[:-1]])
    _, logits = lj.unroll(net, params, inputs, carry)
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), symbols[:, None], axis=-1)[:, 0]
    ends = (symbols == END).astype(int)
    return jnp.sum(jnp.where(jnp.cumsum(ends) - ends == 0, log_p, 0.0))


def every(size, steps):
    """All sequences, with END alone after END."""
    found = itertools.product(range(size), repeat=steps)
    return jnp.array([s for s in found if END not in s or not any(s[s.index(END) :])])


def greedy(net, params, carry, first, steps):
    """Take the likeliest symbol at each step."""
    feed = lambda y, key: jnp.argmax(y, axis=-1)  # noqa: E731
    stop = lambda symbol: symbol == END  # noqa: E731
    return lj.decode(net, params, carry, first, steps, feed=feed, stop=stop)[1].fed


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Print and return ln p of what each search finds, of a network of strong random weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="short sequences, to see that it runs")
    steps, size = (3 if parser.parse_args(arguments).smoke else 6), 4

    net = lj.embedding(lj.readout(lj.LSTM(16), size), size, 8)
    params = jax.tree.map(lambda leaf: 3 * leaf, net.init(jax.random.key(0)))
    start = params, net.initial_carry(params), jnp.asarray(1)

    score = jax.jit(jax.vmap(lambda symbols: log_probability(net, *start, symbols)))
    found = {"greedy": float(score(greedy(net, *start, steps)[None])[0])}
    for beams in (2, 4, 16):
        symbols, scores = jax.jit(lambda beams=beams: search(net, *start, steps, beams))()
        found[f"{beams} beams"] = float(scores[0])
    found["every sequence"] = float(score(every(size, steps)).max())
    for name, log_p in found.items():
        print(f"{name:>14}: ln p = {log_p:.3f}")
    return found


if __name__ == "__main__":
    main()
