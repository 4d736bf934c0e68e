"""Paired statistics: bootstrap intervals, McNemar, Holm, and the smallest difference a comparison could have seen."""
