"""The recurrence as a JAX primitive, with every mode of differentiation.

There are three primitives: the recurrence, its linearisation, the transpose of that. Each file here
registers one kind of their rules when it is imported; this package imports them all.
"""

from . import batching as batching
from . import dead as dead
from . import derivatives as derivatives
from . import rules as rules
from .binding import recurrence as recurrence
