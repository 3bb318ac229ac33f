"""Register allocation: write into the result when that is safe, else reuse dead registers."""

from collections.abc import Mapping

from ...elementwise.instructions import Code, Instruction, View

ALIGNED = 16
"""The size of a register is a multiple of this number of elements."""


def coalesced(code: Code, sizes: Mapping[int, int], aliases: Mapping[int, int]) -> Code:
    """Remove copies by computing each copied value directly at its destination, where possible.

    Args:
        sizes: elements in a row of each register.
        aliases: base of a result to base of the argument whose memory it reuses.
    """
    k = 0
    while k < len(code):
        it = code[k]
        root = it.inputs[0].root
        if it.op == "copy" and root is not None and _may_move(code, k, sizes[root], aliases):
            code = [other.moved({root: it.out}) for n, other in enumerate(code) if n != k]
        else:
            k += 1
    return code


def _may_move(code: Code, k: int, size: int, aliases: Mapping[int, int]) -> bool:
    """Check if the value that instruction k copies may be computed at the copy's destination."""
    place, value = code[k].out, code[k].inputs[0]
    whole = (value.offset, value.n, value.elem) == (0, size, int(size > 1))
    if not whole or not (value.batched and place.batched):
        return False
    if place.root is not None:
        return place.root != value.root
    first = min(n for n, it in enumerate(code) if it.out.root == value.root)
    operand = aliases.get(place.base)
    return not any(v.base == operand for it in code[first:] for v in it.inputs)


def allocated(code: Code, sizes: Mapping[int, int]) -> tuple[dict[int, int], int]:
    """Allocate the registers: return (offset of each, total elements). sizes: elements of each."""
    last: dict[int, int] = {}
    for k, it in enumerate(code):
        last |= dict.fromkeys(_registers(it), k)
    places: dict[int, int] = {}
    free: list[tuple[int, int]] = []  # (offset, size)
    top = 0
    for k, it in enumerate(code):
        root = it.out.root
        if root is not None and root not in places:
            size = -(-sizes[root] // ALIGNED) * ALIGNED
            fits = next((slot for slot in free if slot[1] == size), None)
            if fits:
                free.remove(fits)
                places[root] = fits[0]
            else:
                places[root], top = top, top + size
        for dead in {r for r in _registers(it) if last[r] == k}:
            free.append((places[dead], -(-sizes[dead] // ALIGNED) * ALIGNED))
    return places, top


def _registers(it: Instruction) -> list[int]:
    return it.reads() + ([] if it.out.root is None else [it.out.root])


def placed(view: View, places: Mapping[int, int]) -> View:
    """Turn a view of a register into one of the memory that holds all registers."""
    return view if view.root is None else view._replace(offset=view.offset + places[view.root])
