"""A taskset written with the classes of verifiers 0.4: sums, with a tool over MCP or without."""

from __future__ import annotations

import verifiers.v1 as vf
from agentrl_sums_server import Sums


class SumData(vf.TaskData):
    answer: str


class SumTaskConfig(vf.TaskConfig):
    tools: vf.ToolsetConfig = vf.ToolsetConfig()
    with_tools: bool = False


class SumTask(vf.Task[SumData, vf.State, SumTaskConfig]):
    @classmethod
    def toolsets(cls, config: SumTaskConfig) -> list[vf.Toolset]:
        return [Sums(config.tools)] if config.with_tools else []

    @vf.reward(weight=1.0)
    async def correct(self, trace: vf.Trace) -> float:
        return float(self.data.answer in trace.last_reply)


class SumConfig(vf.TasksetConfig):
    n: int = 40
    task: SumTaskConfig = SumTaskConfig()


class SumTaskset(vf.Taskset[SumTask, SumConfig]):
    def load(self) -> list[SumTask]:
        return [
            SumTask(
                SumData(idx=i, prompt=f"{i}+1?", system_prompt="Be short.", answer=str(i + 1)),
                self.config.task,
            )
            for i in range(self.config.n)
        ]


__all__ = ["SumTaskset"]
