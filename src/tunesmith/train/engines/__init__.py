"""Engines: which processes a training runs in, what each of them does of a step, and how their numbers come together."""
