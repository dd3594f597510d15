"""Evaluation: features, measures, probes, pictures and reports of trained towers."""
