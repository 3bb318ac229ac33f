"""The C++ source of a kernel: its numbers, the cell's program, and the files beside this one."""

import functools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from .plan import Plan
from .printed import Printed, planes

FOLDER = pathlib.Path(__file__).parent
FILES = ("numbers.cuh", "product.cuh", "group.cuh", "items.cuh")
"""What all kernels include, in order; the printed functions come after the first."""

OWN = {
    "run": ("run.cuh", "forwards.cuh"),
    "linearized": ("point.cuh", "linearized.cuh", "forwards.cuh"),
    "transposed": ("point.cuh", "transposed.cuh"),
}
"""What each kernel includes after them."""


KINDS = {"None": 0, "float32": 0, "bfloat16": 1, "float16": 2}
"""Numbers of dtypes in the sources."""


class Leaf(NamedTuple):
    """An array of a tree: elements in a row, number of its dtype, whether it is there."""

    n: int
    kind: int
    there: bool = True


class Kernel(NamedTuple):
    """All that a source is made of.

    Attributes:
        name: "run", "linearized" or "transposed".
        plan: the division among blocks.
        printed: the cell's program.
        numbers: values of the macros that the file of this name needs.
        given, made: names of the operands and results, with the leaves of each, in their order.
        accessors: leaves by the names of the functions that load or store them, "load_pre".
    """

    name: str
    plan: Plan
    printed: Printed
    numbers: tuple[tuple[str, int], ...]
    given: tuple[tuple[str, int], ...]
    made: tuple[tuple[str, int], ...]
    accessors: tuple[tuple[str, tuple[Leaf, ...]], ...]


@functools.lru_cache(maxsize=1024)
def source(kernel: Kernel) -> str:
    """Write the source of a kernel, without the words of the machine."""
    units = kernel.plan.problem.units
    numbers, *others = [(FOLDER / name).read_text() for name in FILES]
    parts = [
        "\n".join(f"#define {name} {value}" for name, value in _numbers(kernel).items()),
        "#define SIZE(n) ((n) > 0 ? (n) : 1)",
        "#define PHASE(k) INLINE void phase_##k(const float* a, float* y, float* sums, \\\n"
        "    float* kept, float* terms, const float* totals, bool valid)",
        "struct Arguments {\n  const void* given[GIVEN];\n  void* made[MADE];\n"
        "  int steps, batch, reverse, groups, member;\n};",
        numbers,
        *[_accessor(name, leaves, units) for name, leaves in kernel.accessors],
        kernel.printed.source,
        *others,
        _program(kernel.printed),
        *[(FOLDER / name).read_text() for name in OWN[kernel.name]],
    ]
    return "\n\n".join(parts)


def _numbers(kernel: Kernel) -> Mapping[str, int]:
    plan, printed = kernel.plan, kernel.printed
    problem = plan.problem
    return {
        "UNITS": problem.units,
        "X_PLANES": problem.x_planes,
        "M_PLANES": problem.m_planes,
        "NARROW": problem.narrow,
        "BLOCKS": plan.blocks,
        "UB": plan.own,
        "NB": plan.rows,
        "THREADS": plan.threads,
        "MEET": plan.meeting,
        "PLACE": plan.place,
        "PARTS": plan.parts,
        "M": plan.columns,
        "K": plan.depth,
        "BUFFERS": plan.buffers,
        "X_ROW": plan.x_row,
        "SUMS_ROW": plan.sums_row,
        "MEETING_BYTES": plan.bytes_of_meeting,
        "SCRATCH_BYTES": plan.scratch,
        **{f"AT_{name.upper()}": at for name, at in plan.layout.items() if name != "all"},
        "TERMS": len(printed.totals),
        "LARGEST": sum(1 << k for k, op in enumerate(printed.totals) if op == "largest"),
        "KEPT": printed.kept,
        "ARGUMENTS": sum(planes(n, problem.units) for n in printed.arguments),
        "SUM_PLANES": sum(
            planes(n, problem.units)
            for n, summed in zip(printed.results, printed.summed, strict=True)
            if summed
        ),
        **dict(kernel.numbers),
        **_places("GIVEN", kernel.given),
        **_places("MADE", kernel.made),
    }


def _places(kind: str, fields: Iterable[tuple[str, int]]) -> dict[str, int]:
    """The number of each field's first array, and of all arrays."""
    places, at = {}, 0
    for name, count in fields:
        places[f"{kind}_{name.upper()}"] = at
        at += count
    return {**places, kind: max(1, at)}


class _Place(NamedTuple):
    """Where a unit's number p lies: the leaf, its array, the index, a condition for storing it."""

    p: int
    leaf: Leaf
    array: int
    index: str
    condition: str  # A number that a sequence has once is stored by the first unit alone.


def _places_of(leaves: Sequence[Leaf], units: int) -> Iterator[_Place]:
    """List the planes of all leaves; `row` and `unit` are variables of the source."""
    array, p = 0, 0
    for leaf in leaves:
        once = leaf.n == 1 < units
        for plane in range(planes(leaf.n, units)):
            index = f"row * {leaf.n}" if once else f"row * {leaf.n} + {plane * units} + unit"
            yield _Place(p, leaf, array, index, "unit == 0" if once else "true")
            p += 1
        array += leaf.there


def _accessor(name: str, leaves: Sequence[Leaf], units: int) -> str:
    """Write the function that loads or stores a unit's numbers of one row of some arrays."""
    write = {"load": _load, "store": _store}[name.partition("_")[0]]
    if name == "store_sum":
        write = _store_sum
    arguments, line = write()
    lines = [line(place) for place in _places_of(leaves, units)]
    return "\n".join([f"INLINE void {name}({arguments}) {{", *lines, "}"])


Line = Callable[[_Place], str]


def _load() -> tuple[str, Line]:
    def line(at: _Place) -> str:
        value = f"number_at<{at.leaf.kind}>(arrays[{at.array}], {at.index})"
        return f"  numbers[{at.p}] = {value if at.leaf.there else '0.f'};"

    return "const void* const* arrays, int64_t row, int unit, float* numbers", line


def _store() -> tuple[str, Line]:
    def line(at: _Place) -> str:
        given = f"arrays[{at.array}], {at.index}, numbers[{at.p}]"
        call = f"  if ({at.condition}) set_number<{at.leaf.kind}>({given});"
        return call if at.leaf.there else ""

    return "void* const* arrays, int64_t row, int unit, const float* numbers", line


def _store_sum() -> tuple[str, Line]:
    """The sums come plane by plane."""

    def line(at: _Place) -> str:
        given = f"arrays[{at.array}], {at.index}, x"
        return f"  if (p == {at.p} && {at.condition}) set_number<0>({given});"

    return "int p, void* const* arrays, int64_t row, int unit, float x", line


def _program(printed: Printed) -> str:
    """Write the function that runs the phases, with the sums over units between them."""
    lines, done = [], 0
    for k, complete in enumerate(printed.complete):
        lines.append(
            f"  EACH_ITEM phase_{k}(a[i], y[i], sums[i], kept[i], terms[i], totals[i],"
            " items[i].valid && items[i].there);"
        )
        if complete > done:
            lines += [
                f"  EACH_ITEM if (items[i].n < NB)\n    UNROLL for (int s = {done}; s < {complete};"
                " s++)\n      group.terms_at(s, items[i].n)[items[i].own] = terms[i][s];",
                f"  group.combine({done}, {complete});",
                f"  EACH_ITEM if (items[i].n < NB)\n    UNROLL for (int s = {done}; s < {complete};"
                " s++)\n      totals[i][s] = group.total(s, items[i].n);",
            ]
        done = complete
    head = (
        "template <class A, class Y, class S>\n"
        "INLINE void program(const A& a, Y& y, S& sums, const Item (&items)[ITEMS],\n"
        "                    Group& group) {\n"
        "  float kept[ITEMS][SIZE(KEPT)], terms[ITEMS][SIZE(TERMS)], totals[ITEMS][SIZE(TERMS)];"
    )
    return "\n".join([head, *lines, "}"])
