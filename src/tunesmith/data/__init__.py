"""Data: sources, formats, tasks, templates, verbalizers, demonstrations and batches."""
