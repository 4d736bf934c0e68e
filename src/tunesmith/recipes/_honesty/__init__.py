"""The steps of `tunesmith honesty`: probe, boundary data, and the routes that are compared."""
