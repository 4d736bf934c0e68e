"""Metrics: one file each. `evaluate(gold, predicted, weights)` gives the value, or one value per row of weights."""
