"""Trackers: programmes that show a training's log as curves; each is a copy of metrics.jsonl that a person asked for."""
