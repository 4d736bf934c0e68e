"""Recipes: one verb, one file, read from top to bottom. Each has a `Config` and `run(config) -> dict`, the report."""
