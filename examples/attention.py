"""Reverse sequences with an encoder, a decoder and attention in between (Luong et al. 2015).

The decoder's input is its last symbol beside what it last attended to, so its loop is a `lax.scan`
over `step`, and not `unroll`.
"""

import argparse

import jax
import jax.numpy as jnp
import optax

import lstm_jax as lj

SYMBOLS, START, HIDDEN, EMBEDDED = 11, 0, 32, 16
encoder = lj.embedding(lj.bidirectional(lj.GRU(HIDDEN)), SYMBOLS, EMBEDDED)
decoder = lj.GRU(HIDDEN)


def init(key):
    """The parameters of both, the table of the decoder's symbols, and two matrices."""
    keys, matrix = jax.random.split(key, 5), lj.initializers.glorot_uniform()
    return {
        "encoder": encoder.init(keys[0]),
        "decoder": decoder.init(keys[1], EMBEDDED + 2 * HIDDEN),
        "e": jax.random.normal(keys[2], (SYMBOLS, EMBEDDED)),
        "attend": matrix(keys[3], (HIDDEN, 2 * HIDDEN)),
        "out": matrix(keys[4], (3 * HIDDEN, SYMBOLS)),
    }


def attended(params, h, memory, valid):
    """(mean of memory [T, B, 2H] by softmax_t(h W m_t), these weights [T, B]), for h [B, H]."""
    scores = jnp.einsum("bh,hk,tbk->tb", h, params["attend"], memory)
    weights = jax.nn.softmax(jnp.where(valid, scores, -jnp.inf), axis=0)
    return jnp.einsum("tb,tbk->bk", weights, memory), weights


def decode(params, source, lengths, steps, targets=None):
    """(logits [steps, B, SYMBOLS], weights [steps, T, B]) from source [T, B].

    The next symbol is the target [steps, B], or without targets the likeliest.
    """
    _, memory = lj.unroll(encoder, params["encoder"], source, seq_lengths=lengths)
    valid = jnp.arange(source.shape[0])[:, None] < lengths[None]

    def step(state, target):
        carry, symbol, context = state
        x = jnp.concatenate([params["e"][symbol], context], axis=-1)
        carry, h = decoder.step(params["decoder"], carry, x)
        context, weights = attended(params, h, memory, valid)
        logits = jnp.concatenate([h, context], axis=-1) @ params["out"]
        symbol = jnp.argmax(logits, axis=-1) if target is None else target
        return (carry, symbol, context), (logits, weights)

    carry = decoder.initial_carry(params["decoder"], lengths.shape)
    start = carry, jnp.full_like(source[0], START), jnp.zeros_like(memory[0])
    return jax.lax.scan(step, start, targets, steps)[1]


def sample(key, length, batch_size=64):
    """Symbols [T, B] with lengths of T/2 to T, and the same in reverse, START in the padding."""
    key, own = jax.random.split(key)
    source = jax.random.randint(key, (length, batch_size), 1, SYMBOLS)
    lengths = jax.random.randint(own, (batch_size,), length // 2, length + 1)
    t = jnp.arange(length)[:, None]
    reverse = jnp.take_along_axis(source, (lengths[None] - 1 - t) % length, axis=0)
    return source, lengths, jnp.where(t < lengths[None], reverse, START)


def accuracy(params, batch):
    """The share of sequences that the decoder reverses by itself without a mistake."""
    source, lengths, targets = batch
    logits, _ = decode(params, source, lengths, len(source))
    right = (jnp.argmax(logits, axis=-1) == targets) | (targets == START)
    return jnp.mean(jnp.all(right, axis=0))


def main(arguments: list[str] | None = None) -> float:
    """Train with forced targets; print and return the share of sequences reversed without them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    smoke = parser.parse_args(arguments).smoke
    length, steps = (4, 2) if smoke else (8, 1000)

    def loss(params, batch):
        source, lengths, targets = batch
        logits, _ = decode(params, source, lengths, length, targets)
        return lj.losses.softmax_cross_entropy(logits, targets, targets != START)

    tx = optax.adam(5e-3)
    run = lj.train.make_loop(loss, tx, lambda key: sample(key, length), steps)
    state, history = run(lj.train.create(init(jax.random.key(0)), tx), jax.random.key(1))
    share = float(jax.jit(accuracy)(state.params, sample(jax.random.key(2), length, 256)))
    print(
        f"loss {history['loss'][-1]:.4f}; {share:.0%} of new sequences reversed, of {length} steps"
    )
    return share


if __name__ == "__main__":
    main()
