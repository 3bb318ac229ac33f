"""The C++ source of a kernel: its numbers, the cell's program, and the files beside this one."""

import functools
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from .plan import Plan
from .printed import Printed, planes

FOLDER = pathlib.Path(__file__).parent
FILES = ("numbers.cuh", "product.cuh", "group.cuh", "items.cuh")
"""What all kernels include, in order; the printed functions come after the first."""


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
        (FOLDER / f"{kernel.name}.cuh").read_text(),
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


def _accessor(name: str, leaves: Sequence[Leaf], units: int) -> str:
    """Write the function that loads or stores a unit's numbers of one row of some arrays."""
    if name == "store_sum":
        return _sum_accessor(leaves, units)
    load = name.startswith("load")
    lines, array, p = [], 0, 0
    for leaf in leaves:
        for plane in range(planes(leaf.n, units)):
            shared = leaf.n == 1 < units
            at = f"row * {leaf.n} + {plane * units if leaf.n > 1 else 0}"
            at += "" if shared else " + unit"
            if load:
                value = f"number_at<{leaf.kind}>(arrays[{array}], {at})" if leaf.there else "0.f"
                lines.append(f"  numbers[{p}] = {value};")
            elif leaf.there:
                first = "if (unit == 0) " if shared else ""
                lines.append(
                    f"  {first}set_number<{leaf.kind}>(arrays[{array}], {at}, numbers[{p}]);"
                )
            p += 1
        array += leaf.there
    arrays = "const void* const* arrays" if load else "void* const* arrays"
    numbers = "float* numbers" if load else "const float* numbers"
    head = f"INLINE void {name}({arrays}, int64_t row, int unit, {numbers}) {{"
    return "\n".join([head, *lines, "}"])


def _sum_accessor(leaves: Sequence[Leaf], units: int) -> str:
    """The function that stores plane p of the sums over sequences."""
    lines, p = [], 0
    for array, leaf in enumerate(leaves):
        for plane in range(planes(leaf.n, units)):
            shared = leaf.n == 1 < units
            at = f"row * {leaf.n} + {plane * units if leaf.n > 1 else 0}"
            at += "" if shared else " + unit"
            only = " && unit == 0" if shared else ""
            lines.append(f"  if (p == {p}{only}) set_number<0>(arrays[{array}], {at}, x);")
            p += 1
    head = "INLINE void store_sum(int p, void* const* arrays, int64_t row, int unit, float x) {"
    return "\n".join([head, *lines, "}"])


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
