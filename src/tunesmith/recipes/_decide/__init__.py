"""What `decide` is made of."""
