"""The commands of `lstm-jax`, one a file, and the checks of options that they share."""
