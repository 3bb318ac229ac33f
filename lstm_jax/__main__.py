"""Run the command line by `python -m lstm_jax`."""

from .cli import console

if __name__ == "__main__":
    console()
