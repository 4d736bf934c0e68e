"""What `tunesmith align` is made of."""
