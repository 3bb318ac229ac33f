"""Backpropagation through time of a cell or net, step by step and in log scale.

`record` runs it forwards, `back` walks it backwards, `scaled` holds what under- or overflows.
"""
