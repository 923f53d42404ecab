"""Memory and step time of a run, predicted from sizes alone, before anything is loaded."""

from agentrl.train.estimate.plan import Plan, Work
from agentrl.train.estimate.report import Estimate, estimate, mend
from agentrl.train.estimate.simulator import simulator_words
from agentrl.train.estimate.words import plan_of

__all__ = ["Estimate", "Plan", "Work", "estimate", "mend", "plan_of", "simulator_words"]
