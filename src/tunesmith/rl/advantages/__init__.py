"""How much better than expected each token, or each completion, was: one estimator a file."""
