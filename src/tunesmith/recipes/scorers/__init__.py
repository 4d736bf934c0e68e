"""Who judges a policy's answers: one file each with `Parameters` and `open`, (answers) -> scores."""
