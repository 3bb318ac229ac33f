"""Shardings of trees over a mesh: of batches, and of parameters and what is shaped like them."""

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from .._cells.contract import Recurrent
from .._checks import check_positive_int, fail, shown
from .._net import Net, check_net
from .._typing import Params
from ._mesh import check_axis, check_mesh, divided, spec

__all__ = ["batch", "join_params", "split_params", "state"]
__dir__ = __all__.copy


def batch(mesh: Mesh, tree: Any, axis: str = "data", at: Any = 1) -> Any:
    """Shardings that split the batch axis of every array over one axis of a mesh.

        mesh = jax.make_mesh((8,), ("data",))
        xs = jax.device_put(xs, sharding.batch(mesh, xs))

    Args:
        mesh: the devices.
        tree: arrays or `jax.ShapeDtypeStruct`s, such as inputs [T, B, D] or an item of a `Feed`.
        axis: the name of an axis of the mesh.
        at: the place of the batch axis in every array, 1 after time; or a tree of places, in which
            one stands for a whole part: {"xs": 1, "seq_lengths": 0}. None: every device has it all.

    Returns:
        a tree of `jax.sharding.NamedSharding`s.

    Raises:
        ValueError: no such axis of the mesh or of an array, or a B that is no multiple.
    """
    check_mesh(mesh)
    pieces = check_axis("axis", axis, mesh)

    def of(place: int | None, part: Any) -> Any:
        return jax.tree.map(lambda leaf: NamedSharding(mesh, _split(leaf, place)), part)

    def _split(leaf: Any, place: int | None) -> P:
        if place is None:
            return P()
        check_positive_int("at", place, least=0)
        shape = jax.numpy.shape(leaf)
        if place >= len(shape):
            remedy = "pass a tree of places, such as {'xs': 1, 'seq_lengths': 0}"
            raise fail("at", f"{place} for shape {shape}", "an axis of every array", remedy)
        divided("tree", shape[place], pieces, "B")
        return spec(len(shape), {axis: place})

    try:
        return jax.tree.map(of, at, tree, is_leaf=lambda place: place is None)
    except (TypeError, KeyError) as error:
        raise fail("at", shown(at), "one place, or a tree of them", str(error)) from error


def state(mesh: Mesh, net: Recurrent | Net, tree: Any) -> Any:
    """Shardings of parameters, of an optimiser's state, or of a whole training state.

        state = lj.train.create(params, tx)
        state = jax.device_put(state, sharding.state(mesh, net, state))

    A leaf is split as the parameter is whose path its own path ends with, if it has that number of
    axes: so are the momenta of an optimiser. Every other leaf is on all devices, and for a net that
    is not split over devices all are.

    Args:
        mesh: the devices.
        net: a cell or net, as from `by_units` or `by_layers`.
        tree: arrays or `jax.ShapeDtypeStruct`s.

    Returns:
        a tree of `jax.sharding.NamedSharding`s.
    """
    check_mesh(mesh)
    check_net("net", net)
    known = _specs(net, ())

    def of(path: Any, leaf: Any) -> NamedSharding:
        names = tuple(key.key for key in path if isinstance(key, jax.tree_util.DictKey))
        for cut in range(len(names)):
            found = known.get(names[cut:])
            if found is not None:
                return NamedSharding(mesh, found(leaf))
        return NamedSharding(mesh, P())

    return jax.tree_util.tree_map_with_path(of, tree)


def _specs(net: Any, path: tuple[str, ...]) -> dict[tuple[str, ...], Any]:
    """Functions from a leaf to its partition spec, by the names that lead to a parameter."""
    if hasattr(type(net), "spec_of"):
        return {(*path, *names): of for names, of in net.spec_of().items()}
    if not isinstance(net, Net):
        return {}
    return {
        names: of
        for name, part in net.parts.items()
        for names, of in _specs(part, (*path, name)).items()
    }


def split_params(net: Recurrent | Net, params: Params) -> Params:
    """Lay out parameters as a net that is split over devices stores them.

    Those of a cell of `by_units` have its units as their last axis: w_ih [D, G*H] becomes
    [D, G, H]. Those of the layers of `by_layers` are stacked. Others stay as they are.

    Args:
        net: a net, as from `by_units`, `by_time` or `by_layers`.
        params: parameters of the net that was given to it, as from its `init`.
    """
    return _laid_out(net, params, "split_params")


def join_params(net: Recurrent | Net, params: Params) -> Params:
    """Lay out parameters as the net that was split over devices stores them: undo `split_params`.

    Args:
        net: a net, as from `by_units`, `by_time` or `by_layers`.
        params: its parameters.
    """
    return _laid_out(net, params, "join_params")


def _laid_out(net: Any, params: Any, how: str) -> Any:
    if hasattr(type(net), how):
        return getattr(net, how)(params)
    if not isinstance(net, Net):
        return params
    inner = {name: _laid_out(part, params[name], how) for name, part in net.parts.items()}
    return {**params, **inner}
