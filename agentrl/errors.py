"""The error tree and the three fates of a failure.

    AgentRLError
    ├── UserError (ValueError)            bad input: one sentence with the fix        exit 2
    ├── SetupError (RuntimeError)         this machine lacks something                exit 3
    │   └── SandboxUnavailable            no isolation of the demanded level
    ├── RunFailed (RuntimeError)          a run that cannot go on                     exit 4
    │   └── SyncMismatch                  engine and learner disagree after a sync
    ├── ModelFault                        becomes an observation the model can read
    │   ├── ParseError (ValueError)       the action could not be read
    │   └── ToolError (RuntimeError)      the tool refused or failed on what it was given
    └── WorldFault                        retried, then ends the trajectory with `error` set
        ├── SandboxError (RuntimeError)   the box, not the code in it, failed
        ├── EngineError (RuntimeError)    the engine failed a request or died
        ├── CannotFork (RuntimeError)     an episode could not be branched
        └── DeadlineExceeded (TimeoutError)

Everything else that is raised is our own fault and crashes at once. All are picklable: the
message is the only constructor argument.
"""

from __future__ import annotations


class AgentRLError(Exception):
    """Root of every error this project raises on purpose."""


class UserError(AgentRLError, ValueError):
    """Bad input; the message is one sentence that names the fix."""


class SetupError(AgentRLError, RuntimeError):
    """The machine or installation lacks something; the message names the remedy."""


class SandboxUnavailable(SetupError):
    """No sandbox of the demanded isolation level can be had here."""


class RunFailed(AgentRLError, RuntimeError):
    """A run that cannot go on; what was finished is on disk."""


class SyncMismatch(RunFailed):
    """After a weight sync the engine's logprobs differ from the learner's."""


class ModelFault(AgentRLError):
    """The model's own fault; the message is written for the model to read."""


class ParseError(ModelFault, ValueError):
    """The action could not be read."""


class ToolError(ModelFault, RuntimeError):
    """The tool refused its arguments or failed on them."""


class WorldFault(AgentRLError):
    """The world's fault: never shown to the model, never a reward."""


class SandboxError(WorldFault, RuntimeError):
    """The sandbox itself was lost."""


class EngineError(WorldFault, RuntimeError):
    """The engine failed a request or died."""


class CannotFork(WorldFault, RuntimeError):
    """An environment, tool or sandbox could not be brought to the state of a branch."""


class DeadlineExceeded(WorldFault, TimeoutError):
    """A stage outlived its deadline."""
