"""Losses: registered modules that return one scalar, one file per family."""
