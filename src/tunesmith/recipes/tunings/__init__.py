"""What `tune --objective` can be: one file each with `Parameters`, `DEFAULTS` and `supervise`."""
