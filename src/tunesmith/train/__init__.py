"""Training: one `fit`, one `update`, checkpoints that survive anything, and probes that run before the first step."""
