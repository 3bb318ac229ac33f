"""Docstrings as they are written in this project, turned into reStructuredText for Sphinx.

In a docstring a block that is indented after an empty line is code or an equation, and what stands
between backticks is code; everything else is plain text, in which `*` and `|` mean themselves.
"""

import inspect
import re

from sphinx.util.inspect import stringify_signature

SECTIONS = ("Args:", "Attributes:", "Class attributes that a subclass may set:", "Returns:",
            "Raises:")  # fmt: skip
CODE = re.compile(r"(``.+?``|`[^`]+`)")
BULLET = re.compile(r"([*-]|\d+\.) ")
NAMES = re.compile(r"^\w+(, \w+)+(?=: )")


def before_napoleon(app, what, name, obj, options, lines):
    """A listener of autodoc: change the lines of one docstring in place."""
    del app, what, name, obj, options
    lines[:] = translated(lines)


def after_napoleon(app, what, name, obj, options, lines):
    """A listener of autodoc: in a property napoleon takes the words before a colon for its type."""
    del app, name, options
    if what == "property":
        lines[:] = translated(inspect.cleandoc(obj.__doc__).splitlines())


def signature(app, what, name, obj, options, arguments, returned):
    """A listener of autodoc: show the arguments of `__init__`, not those of `Static.__new__`."""
    del app, name, options
    if what == "class" and arguments == "(*given, **options)":
        if obj.__init__ is object.__init__:  # An abstract class.
            return "", returned
        found = stringify_signature(inspect.signature(obj), show_annotation=False)
        return found.removesuffix(" -> None"), returned
    return None


def skip(app, what, name, obj, skipped, options):
    """A listener of autodoc: True for the fields of a NamedTuple that have no docstring."""
    del app, what, name, skipped, options
    return True if str(getattr(obj, "__doc__", "")).startswith("Alias for field") else None


def translated(lines):
    """The lines in reStructuredText, with `::` before each block of code."""
    out, inside, literal, content = [], False, None, 0
    for number, line in enumerate(lines):
        indent, text = len(line) - len(line.lstrip()), line.strip()
        begins = not number or not lines[number - 1].strip()
        if literal is not None and text and indent < literal:
            literal = None
        if not text or literal is not None:
            out.append(line)
            continue
        if begins and indent > content and out:
            out += [" " * content + "::", "", line]
            literal = indent
            continue
        if BULLET.match(text) and out and out[-1].endswith(":"):
            out.append("")  # Or the list would go on as a paragraph.
        inside = text in SECTIONS or (inside and indent > 0)
        content = indent + _hanging(text, inside, indent) if _is_first(begins, text) else indent
        if inside and text not in SECTIONS and indent == 4:
            content = 8  # What goes on with an entry stands deeper than its first line.
        out.append(" " * indent + escaped(text))
    return out


def _is_first(begins, text):
    return begins or bool(BULLET.match(text))


def _hanging(text, inside, indent):
    """How much deeper than its first line a paragraph goes on."""
    if text in SECTIONS:
        return 4
    bullet = BULLET.match(text)
    return len(bullet.group()) if bullet else 0


def escaped(text):
    """The text with the marks of reStructuredText taken for themselves, but for backticks.

    A dict in front is code. Of several names before a colon Sphinx would take the first for a type;
    and a letter with a dot is the first entry of a list.
    """
    text = re.sub(r"^\{[^{}]*\}", r"``\g<0>``", text)
    text = NAMES.sub(lambda found: found[0].replace(", ", ","), text, count=1)
    text = re.sub(r"(?<=: )([A-Za-z])\.$", r"\1\\.", text)
    bullet = BULLET.match(text)
    start = bullet.group() if bullet else ""
    parts = CODE.split(text[len(start) :])
    parts[::2] = [re.sub(r"[*|]|(?<=\w)_(?!\w)", r"\\\g<0>", part) for part in parts[::2]]
    parts[2::2] = [re.sub(r"^(?=\w)", r"\\ ", part) for part in parts[2::2]]  # `array`s
    return start + "".join(parts)
