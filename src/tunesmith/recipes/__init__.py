"""Recipes: one verb, one file, read from top to bottom. Each has a `Config` and `run(config) -> dict`, the report.

What a verb is made of stands in a folder of its name (`tune.py`, `_tune/`); a file `_x.py` serves several verbs. The other folders
are rooms of entries: routes and baselines of the ladder, objectives of `tune`, methods and scorers of `align`, plans.
"""
