"""Ways to align a policy: one file each with `Parameters` and what it learns from (`LEARNS_FROM`).

scores      of the policy's own answers: `credit` and `policy_loss`, with HAS_VALUES and SAMPLES
pairs       of judged completions, or "texts", judged by themselves: `loss`, with HAS_REFERENCE
answers     the policy's own, of which the best by a scorer are kept: `Parameters.samples` of them a prompt
"""
