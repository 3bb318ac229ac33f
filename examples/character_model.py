"""Train a GRU on the source of Python's standard library, and sample text from it."""

import argparse

import jax

from lstm_jax.comparison import characters, language
from lstm_jax.comparison.settings import Training


def main(arguments: list[str] | None = None) -> float:
    """Train, print the score and a sample; return the bits per character on held-out text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    smoke = parser.parse_args(arguments).smoke
    hidden_size, steps, chars = (8, 4, 20_000) if smoke else (128, 1000, 1_000_000)

    corpus = characters.load(None, chars, max_symbols=128, window=48)
    settings = Training(hidden_size, 32, steps, learning_rate=3.0, max_norm=0.2)
    model, training = language.learn(corpus, "gru", settings, window=48)
    bits = training["bits_per_character"]
    print(f"{bits:.3f} bits per character; without memory {corpus.order0:.3f}")
    print(model.sample("def ", 20 if smoke else 300))
    return bits


if __name__ == "__main__":
    print(jax.devices())
    main()
