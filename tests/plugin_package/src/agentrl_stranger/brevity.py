from collections.abc import Mapping

from agentrl.points import RewardFn, Services
from agentrl.trajectory import Trajectory


def brevity(*, per_token: float = 0.001) -> RewardFn:
    """Takes a little for every sampled token."""

    async def score(trajectory: Trajectory, services: Services) -> Mapping[str, float]:
        return {"brevity": -per_token * trajectory.n_sampled}

    return score
