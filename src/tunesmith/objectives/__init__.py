"""Objectives: pure functions of tensors, (tensors) -> (loss, stats), one file each."""
