"""Graphs: YAML files of modules and calls, read, checked, built and drawn."""

from typing import Any


def __getattr__(name: str) -> Any:
    """``Graph`` on first use: importing it imports torch, which checking names does not need."""
    if name == "Graph":
        from avssl.graph.graph import Graph

        return Graph
    raise AttributeError(f"module 'avssl.graph' has no attribute '{name}'")
