"""The kernel of the CPU."""

from . import flat as flat
from . import library
from . import product as product
from .jaxprs import Untranslatable as Untranslatable

library.register_early()
