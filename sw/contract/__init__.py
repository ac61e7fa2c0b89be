"""What hardware and software must agree on, written once.

================  ==================================================================================
module            holds
================  ==================================================================================
``fixed``         fixed-point formats, rounding, saturation, wrap-around
``tanh_sigmoid``  tanh and sigmoid as one integer table with linear interpolation
``cells``         the cells: their equations, and the small language in which these are written
``events``        when an element of a vector becomes an event, and with which value
``sources``       how vectors and encoders are numbered; which matrices come first
``config``        ``EngineConfig``: the parameters of an engine, its presets and its fingerprint
``image``         layout of the memory image: header, descriptors, tables
``columns``       the words of a matrix in every format; ``step_columns`` deals out format "step"
``registers``     the register map that the host sees
``link``          frames, commands and replies between a host and a board
``errors``        ``StillnetError``
================  ==================================================================================

Imports only NumPy and the standard library.
"""
