"""Reinforcement learning from scores: rewards, advantages and what keeps a policy near its reference."""
