"""Simplification of a program: rewrite patterns that JAX's derivatives leave behind.

x + 0, x - 0, x * 1            x
0.5 * tanh(0.5 * x) + 0.5      logistic(x)
a + a * t, a = g * (1 - t)     dtanh(g, t) = g * (1 - t**2), derivative of t = tanh(x)
(x + a) + a * t                x + dtanh(g, t)
g * dtanh(1, t)                dtanh(g, t): the same from JAX 0.11 on
0.5 * dtanh(0.5 * g, t)        dlogistic(g, s), where t = tanh(0.5 * x) and s = logistic(x)
"""

from collections.abc import Callable, Sequence

from .instructions import CONSTANTS, Code, Instruction, View


def simplified(
    code: Code, constants: Sequence[float], register: Callable[[int, bool], View]
) -> Code:
    """Rewrite the patterns above in `code`, and drop instructions whose result is never read.

    register: a function that makes a new register, from (elements in a row, batched).
    """
    return _live(_Simplifier(constants, register).whole(code))


class _Simplifier:
    """One pass over the code.

    Attributes:
        kept: the rewritten code so far.
        made: for each register the instruction that wrote it.
        places: for each register that another view replaces, that view.
        logistics: for each x of which logistic(x) was computed, the result.
    """

    def __init__(self, constants: Sequence[float], register: Callable[[int, bool], View]):
        self.constants, self.register = constants, register
        self.kept: Code = []
        self.made: dict[int, Instruction] = {}
        self.places: dict[int, View] = {}
        self.logistics: dict[View, View] = {}

    def whole(self, code: Code) -> Code:
        for old in code:
            it = old.moved(self.places)
            same = self._same(it)
            if same is not None and it.out.root is not None:
                self.places[it.out.root] = same
            else:
                self._keep(self._rewritten(it))
        return self.kept

    def _rewritten(self, it: Instruction) -> Instruction:
        """Return `it`, or one instruction that computes the same from earlier operands."""
        rules = {
            "add": (self._logistic, self._dtanh),
            "mul": (self._times_dtanh, self._dlogistic),
        }
        for rule in rules.get(it.op, ()):
            found = rule(it)
            if found:
                return found
        return it

    def _keep(self, it: Instruction) -> View:
        if it.out.root is not None and it.op != "copy":  # A copy may fill only a part.
            self.made[it.out.root] = it
        if it.op == "logistic":
            self.logistics[it.inputs[0]] = it.out
        self.kept.append(it)
        return it.out

    def _same(self, it: Instruction) -> View | None:
        neutral = {"add": 0.0, "sub": 0.0, "mul": 1.0}.get(it.op)
        if neutral is None:
            return None
        pairs = [it.inputs] if it.op == "sub" else [it.inputs, it.inputs[::-1]]
        for x, other in pairs:
            if self._is(other, neutral) and (x.n, x.batched) == (it.out.n, it.out.batched):
                return x
        return None

    def _logistic(self, it: Instruction) -> Instruction | None:
        half = self._other(it, "add", 0.5)
        t = half and self._other(self._maker(half), "mul", 0.5)
        x = self._halved_by_tanh(t) if t else None
        return Instruction("logistic", it.n, it.out, (x,)) if x else None

    def _dtanh(self, it: Instruction) -> Instruction | None:
        if it.op != "add":
            return None
        for sum_, product in (it.inputs, it.inputs[::-1]):
            for a, t in self._factors(product):
                g = self._times_rest(a, t)
                if g and a == sum_:
                    return Instruction("dtanh", it.n, it.out, (g, t))
                x = self._other_part(sum_, a)
                if g and x:
                    d = self.register(it.n, it.out.batched)
                    self._keep(Instruction("dtanh", it.n, d, (g, t)))
                    return Instruction("add", it.n, it.out, (x, d))
        return None

    def _times_dtanh(self, it: Instruction) -> Instruction | None:
        for g, slope in self._orders(it):
            made = self._maker(slope)
            if made and made.op == "dtanh" and self._is(made.inputs[0], 1.0) and g.n == slope.n:
                return Instruction("dtanh", it.n, it.out, (g, made.inputs[1]))
        return None

    def _factors(self, view: View) -> list[tuple[View, View]]:
        """List the factors of a view that is a product, in both orders."""
        return self._orders(self._maker(view))

    def _orders(self, it: Instruction | None) -> list[tuple[View, View]]:
        if it is None or it.op != "mul":
            return []
        a, b = it.inputs
        return [(a, b), (b, a)]

    def _times_rest(self, a: View, t: View) -> View | None:
        """Return g if a is g * (1 - t)."""
        for g, left in self._factors(a):
            rest = self._maker(left)
            if rest and rest.op == "sub" and self._is(rest.inputs[0], 1.0) and rest.inputs[1] == t:
                return g
        return None

    def _other_part(self, view: View, a: View) -> View | None:
        """Return x if the view is x + a."""
        made = self._maker(view)
        if made is None or made.op != "add" or a not in made.inputs:
            return None
        return made.inputs[1 - made.inputs.index(a)]

    def _dlogistic(self, it: Instruction) -> Instruction | None:
        y = self._other(it, "mul", 0.5)
        made = y and self._maker(y)
        if not made or made.op != "dtanh":
            return None
        g = self._other(self._maker(made.inputs[0]), "mul", 0.5)
        s = self.logistics.get(self._halved_by_tanh(made.inputs[1]) or it.out)
        return Instruction("dlogistic", it.n, it.out, (g, s)) if g and s else None

    def _halved_by_tanh(self, t: View) -> View | None:
        """Return x if t is tanh(0.5 * x)."""
        made = self._maker(t)
        if made is None or made.op != "tanh":
            return None
        return self._other(self._maker(made.inputs[0]), "mul", 0.5)

    def _maker(self, view: View) -> Instruction | None:
        """Return the instruction whose whole result is this view."""
        made = self.made.get(view.root) if view.root is not None else None
        return made if made and made.out == view else None

    def _other(self, it: Instruction | None, op: str, number: float) -> View | None:
        """Return x if `it` is op(x, number) or op(number, x)."""
        if it is None or it.op != op:
            return None
        for x, other in (it.inputs, it.inputs[::-1]):
            if self._is(other, number) and x.n == it.n:
                return x
        return None

    def _is(self, view: View, number: float) -> bool:
        return view.base == CONSTANTS and not view.elem and self.constants[view.offset] == number


def _live(code: Code) -> Code:
    """Drop instructions whose register is never read."""
    read: set[int] = set()
    kept = []
    for it in reversed(code):
        if it.out.root is None or it.out.root in read:
            kept.append(it)
            read |= set(it.reads())
    return kept[::-1]
