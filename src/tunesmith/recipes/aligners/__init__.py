"""Ways to align a policy: one file each with `Parameters` and what it learns from (`LEARNS_FROM`).

scores      of the policy's own answers: `credit` and `policy_loss`, with HAS_VALUES, SAMPLES, LEAST_SAMPLES, and defaults
            of training: PASSES over a round in batches of MINIBATCH (None = the whole round), LEARNING_RATE
answers     the best of its own: the same, and `Parameters.keep` of SAMPLES answers are learned
pairs       of judged completions, or "texts", judged by themselves: `loss`, with HAS_REFERENCE
nothing     the best of SAMPLES answers is given, and nothing is trained
"""
