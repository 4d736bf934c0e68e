"""What `tune` is made of: settings, rows, what objectives share, remedies against forgetting, sweeps."""
