"""Ways to change a model: one file each with `Parameters`, `attach`, and what merging, disabling and saving need."""
