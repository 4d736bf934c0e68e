"""What `tunesmith reward` is made of: rows, model, measures and page; and the attacks of `inspect scorer`."""
