"""Compilation for devices that are not there, and what the compiled programs tell.

    devices.py     the targets, and the compiler for each
    loops.py       what the loops of a compiled program hold
    schedule.py    the schedule that libtpu writes: cycles of a loop on a TPU
    kernels.py     the loop over the steps inside a kernel, from the same schedule

Nothing here needs a device or a network, and the process's own backend stays as it is.
"""
