"""A number game in the shape of TRL's environment_factory, and TRL's own trainer playing it.

python trl_game.py turns.json      prints what GRPOTrainer made of the class and of scripted turns
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any


class Game:
    """Guess a number."""

    def reset(self, secret: int | None = None, **columns: Any) -> str | None:
        self.secret, self.tries, self.found = secret or 7, 0, False
        return " It is between 1 and 9."

    def guess(self, number: int, loud: bool = False) -> str:
        """
        Guess the number.

        Args:
            number: What you believe it is.
            loud: Whether to shout.

        Returns:
            higher, lower, or right.
        """
        self.tries += 1
        if number < 1:
            raise ValueError("too small to be true")
        self.found = number == self.secret
        told = "right" if self.found else "higher" if number < self.secret else "lower"
        return told.upper() if loud else told

    async def peek(self, places: list[int]) -> dict[str, int]:
        """
        Look at some of the tries.

        Args:
            places: Which ones.
        """
        return {"tries": self.tries, "asked": len(places)}

    def get_reward(self) -> float:
        return 1.0 - 0.25 * (self.tries - 1) if self.found else 0.0

    def _hidden(self) -> None:
        raise AssertionError("no tool")


def theirs(turns: list[list[str]], secret: int, folder: str) -> dict[str, Any]:
    """Play scripted turns, one list per rollout, in GRPOTrainer's own environment path."""
    import trl
    from datasets import Dataset
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
    from transformers.utils import get_json_schema
    from trl import GRPOConfig, GRPOTrainer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    controls = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    plain.add_special_tokens([AddedToken(c, special=True) for c in controls])
    plain.add_tokens([AddedToken(t, special=False) for t in ("<tool_call>", "</tool_call>")])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    templates = Path(trl.__file__).parent / "chat_templates"
    tokenizer.chat_template = (templates / "qwen2_5.jinja").read_text()
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
            num_attention_heads=1, num_key_value_heads=1, max_position_embeddings=8192,
        )
    )  # fmt: skip
    n = len(turns)
    options = GRPOConfig(
        output_dir=folder, per_device_train_batch_size=n, num_generations=n, max_steps=1,
        max_completion_length=4096, report_to=[], use_cpu=True, bf16=False,
    )  # fmt: skip
    row = {"prompt": [{"role": "user", "content": "Guess."}], "secret": secret}
    trainer = GRPOTrainer(
        model=model, args=options, processing_class=tokenizer, environment_factory=Game,
        train_dataset=Dataset.from_list([row] * n),
    )  # fmt: skip
    prompts: list[str] = []
    playing = list(range(n))
    done = [0] * n

    def write(prompt_ids: Any, *_: Any, **__: Any) -> tuple[list[list[int]], None]:
        nonlocal playing
        if not prompts:
            prompts.extend(tokenizer.decode(ids) for ids in prompt_ids)
        playing = [i for i in playing if done[i] < len(turns[i])]
        assert len(prompt_ids) == len(playing)
        written = [tokenizer(turns[i][done[i]] + "<|im_end|>")["input_ids"] for i in playing]
        for i in playing:
            done[i] += 1
        return written, None

    trainer._generate_single_turn = write
    trainer._generate_and_score_completions([dict(row) for _ in range(n)])
    return {
        "tools": [get_json_schema(tool)["function"] for tool in trainer._env_tools[None]],
        "rewards": list(trainer._logs["rewards"]["Game"]),
        "told": [[m["content"] for m in c if m["role"] == "tool"] for c in _completions(trainer)],
        "prompt": prompts[0],
    }


def _completions(trainer: Any) -> list[Any]:
    return list(trainer._logs["completion"])


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text())
    with tempfile.TemporaryDirectory() as there:
        print(json.dumps(theirs(given["turns"], given["secret"], there)))
