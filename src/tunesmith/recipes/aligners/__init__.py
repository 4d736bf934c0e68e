"""Ways to align a policy with scores of its own answers: one file each with `Parameters`, `credit` and `policy_loss`."""
