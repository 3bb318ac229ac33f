"""Studies of gradient flow, one file each; `study.run` runs all of them."""

__all__ = ["study"]
__dir__ = __all__.copy
