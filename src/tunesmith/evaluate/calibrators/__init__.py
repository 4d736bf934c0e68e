"""Calibrators: one file each. `fit(scores, gold)` gives plain numbers, and `apply(state, scores)` probabilities from them."""
