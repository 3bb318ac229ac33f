"""Figures as data, from which come a drawing, a table and a description."""

from .lines import Chart, Line, Point, counted, line, middle, table

__all__ = ["Chart", "Line", "Point", "counted", "line", "middle", "table"]
__dir__ = __all__.copy
