"""What `rounds` is made of."""
