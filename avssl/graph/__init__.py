"""Graphs: YAML files of modules and calls, read, checked, built and drawn."""
