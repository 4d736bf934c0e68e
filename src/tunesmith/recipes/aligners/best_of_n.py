"""Best of n: answer n times, give the answer the scorer likes best; nothing is trained (Stiennon et al. 2020, appendix G.3).

What every trained policy should be compared with: it goes at most log n - (n - 1) / n nats from the policy that answers.
"""

from __future__ import annotations

from tunesmith.core.config import Config

LEARNS_FROM = "nothing"
SAMPLES = 16


class Parameters(Config):
    """Best of n has none of its own: --samples is n."""
