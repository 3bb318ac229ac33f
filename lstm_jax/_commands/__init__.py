"""The commands of `lstm-jax`, one a file, and what they share."""
