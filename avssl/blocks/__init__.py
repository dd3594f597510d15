"""Blocks: the registered modules that a graph is made of, one file per family.

A block fills its parameters and buffers in ``init_weights``, never in ``__init__``: graphs are
built on the meta device first. Who builds a block by hand calls ``block.init_weights()`` once.
"""
