"""Axes of a mesh: checks, and partition specs by position."""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from .._checks import fail, shown
from .._numerics import has_explicit_axes

__all__ = ["check_axes", "check_axis", "check_mesh", "divided", "spec", "unsplit"]
__dir__ = __all__.copy


def check_mesh(mesh: Any) -> None:
    """Raise unless `mesh` is a mesh of devices."""
    if not isinstance(mesh, Mesh):
        remedy = 'pass for example jax.make_mesh((8,), ("data",))'
        raise fail("mesh", shown(mesh), "a jax.sharding.Mesh", remedy)


def check_axis(argument: str, name: Any, mesh: Mesh) -> int:
    """Return the number of devices along an axis of a mesh, 1 for None; raise if there is none."""
    if name is None:
        return 1
    if name not in mesh.axis_names:
        remedy = "name one of these, or None"
        raise fail(argument, shown(name), f"an axis of the mesh: {mesh.axis_names}", remedy)
    return mesh.shape[name]


def check_axes(mesh: Mesh, axis: Any, batch: Any) -> int:
    """Return the number of devices along `axis`; raise unless it and that of the batch are two."""
    if axis is None or axis == batch:
        seen, wanted = shown(axis), f"an axis of the mesh, not that of the batch: {mesh.axis_names}"
        raise fail("axis", seen, wanted, "name another axis")
    check_axis("batch", batch, mesh)
    return check_axis("axis", axis, mesh)


def divided(argument: str, size: int, pieces: int, letters: str) -> int:
    """Return size / pieces; raise unless that is a whole number."""
    if size % pieces:
        remedy = "choose another size or another mesh"
        if not isinstance(size, int):
            remedy = "give it a number; a program of any size is that of a net which is not split"
        raise fail(argument, f"{letters} = {size}", f"a multiple of {pieces}", remedy)
    return size // pieces


def spec(ndim: int, at: Mapping[str, int]) -> P:
    """Make a partition spec of `ndim` axes: spec(3, {"data": 1}) is P(None, "data", None)."""
    names: list[Any] = [None] * ndim
    for name, position in at.items():
        names[position] = name
    return P(*names)


def unsplit(x: Any) -> Any:
    """Give all of an array to every device where axes are explicit, so that it can be reshaped."""
    mesh = jax.typeof(x).sharding.mesh
    return jax.sharding.reshard(x, NamedSharding(mesh, P())) if has_explicit_axes(mesh) else x
