"""A recurrent agent trained by PPO, as one JAX program; `python -m examples.recurrent_ppo` runs it.

The task is a cart-pole whose velocities are hidden. The recurrent module is an option: this
library's GRU; Flax's GRUCell, scanned with restarts; the same run by `lj.nn.linen`; or a GRU that
restarts at every step, so that the agent has no memory. Everything else, initial parameters
included, is the same for all.

`pole` is the environment, `modules` the recurrent modules, `agent` acts and `learning` learns.
Sources: Schulman et al. (2017) for PPO; Barto, Sutton & Anderson (1983) for the cart-pole;
PureJaxRL's recurrent PPO for the sizes.
"""
