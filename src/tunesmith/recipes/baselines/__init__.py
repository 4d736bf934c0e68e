"""What a user must beat: rows of the ladder without a language model, one file each with `unsuitable` and `fit`."""
