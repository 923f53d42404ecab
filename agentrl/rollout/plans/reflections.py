"""Thirty sentences that doubt an answer: what REX-RAG's re-opened turns go on with.

Written for this project; the paper has thirty of its own. All begin with the tag of thinking, so that
the first token is certain and the trie branches behind it.
"""

from __future__ import annotations

_SENTENCES = (
    "Wait, I answered too fast.",
    "Wait, one step of that does not hold.",
    "Wait, I should check the facts again.",
    "Wait, the question asks for something else.",
    "Wait, I never made sure of that.",
    "Let me go back to the question.",
    "Let me look for what I left out.",
    "Let me check each step again.",
    "Let me try another way and compare.",
    "Let me see whether the sources agree.",
    "Perhaps I took the wrong thing for granted.",
    "Perhaps I read the question wrongly.",
    "Perhaps there is more to find out.",
    "Perhaps that is only half of the answer.",
    "Perhaps another query tells me more.",
    "I am not sure enough yet.",
    "I should look this up properly.",
    "I should test that before I answer.",
    "I may have mixed two things up.",
    "I may have stopped too early.",
    "That answer came from a guess.",
    "That does not follow from what I found.",
    "That is not what was asked.",
    "Something in this does not fit.",
    "Something is still missing here.",
    "Before I answer, what do I really know?",
    "Before I answer, I need one more fact.",
    "The last result needs a closer look.",
    "The evidence so far is thin.",
    "Actually, I can verify this.",
)

REFLECTIONS = tuple(f"<think> {sentence}" for sentence in _SENTENCES)
"""In the order of their trie."""

__all__ = ["REFLECTIONS"]
