"""Benchmarks, one file each; ``tools/bench.py`` runs them."""
