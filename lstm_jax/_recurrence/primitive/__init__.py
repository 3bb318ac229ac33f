"""The recurrence as a JAX primitive, with every mode of differentiation.

Three primitives: the recurrence, its linearisation, the transpose of that. Each file here holds one
kind of their rules and registers them, so who imports the primitive has them all.
"""

from . import batching as batching
from . import dead as dead
from . import derivatives as derivatives
from . import lowering as lowering
from .binding import recurrence as recurrence
