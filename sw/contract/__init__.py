"""What hardware and software must agree on, written once.

=============  =====================================================================================
module         holds
=============  =====================================================================================
``fixed``      fixed-point formats, rounding, saturation, wrap-around
``tables``     tanh and sigmoid as integer tables with linear interpolation
``expr``       the small language in which the equations of a cell are written
``cells``      the cells themselves
``events``     when an element of a vector becomes an event, and with which value
``config``     ``EngineConfig``: the parameters of an engine, its presets and its fingerprint
``image``      layout of the memory image: header, descriptors, columns
``registers``  the register map that the host sees
=============  =====================================================================================

Imports neither Amaranth nor the rest of ``stillnet.sw``.
"""
