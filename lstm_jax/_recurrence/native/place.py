"""Where the kernel may take the place of what XLA compiles."""

from typing import Any


def on_one_device(module: Any) -> bool:
    """Whether each device runs the computation by itself, and here: XLA cannot split a kernel, nor
    may an export name one.

    Args:
        module: the `module_context` of a lowering rule.
    """
    axes = module.axis_context
    manual = getattr(axes, "manual_axes", None)
    alone = getattr(axes, "num_devices", 1) == 1
    if manual is not None:
        alone = manual == frozenset(axes.mesh.axis_names)
    return alone and not module.lowering_parameters.for_export
