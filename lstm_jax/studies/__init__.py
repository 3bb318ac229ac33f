"""Studies of gradient flow, one file each; `study.run` is the whole of them."""

__all__ = ["study"]
__dir__ = __all__.copy
