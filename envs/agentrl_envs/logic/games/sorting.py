"""Word sorting, by the usual alphabet or by a new one."""

from __future__ import annotations

import string
from random import Random
from typing import final

from agentrl_envs.logic.games.base import Data, Game, Knobs, Puzzle, read_words, text, texts


@final
class WordSorting(Game):
    """Put words in the order of an alphabet."""

    name = "word_sorting"
    rules = (
        "Sort the words by the alphabet given, from first to last. Answer with the words in order, "
        "separated by blanks."
    )
    knobs = {"words": (3, 5, 8, 5, 8), "new_alphabet": (0, 0, 0, 1, 1)}  # noqa: RUF012
    bounds = {"words": (2, 40), "new_alphabet": (0, 1)}  # noqa: RUF012

    def make(self, rng: Random, knobs: Knobs) -> Puzzle:
        """Different random words; half of them share their first letters with others."""
        letters = string.ascii_lowercase
        alphabet = "".join(rng.sample(letters, 26)) if knobs["new_alphabet"] else letters
        words: list[str] = []
        while len(words) < knobs["words"]:
            start = rng.choice(words)[:2] if words and rng.random() < 0.5 else ""
            word = start + "".join(rng.choices(letters, k=rng.randint(3, 6) - len(start)))
            if word not in words:
                words.append(word)
        body = f"Alphabet: {alphabet}\nWords: {' '.join(words)}"
        data = {"alphabet": alphabet, "words": words}
        return Puzzle(body, " ".join(_in_order(words, alphabet)), data)

    def right(self, data: Data, answer: str) -> bool:
        """Exactly the words, in order."""
        return read_words(answer) == _in_order(texts(data, "words"), text(data, "alphabet"))

    def guess(self, data: Data, rng: Random) -> str:
        """The words shuffled."""
        words = texts(data, "words")
        return " ".join(rng.sample(words, len(words)))


def _in_order(words: list[str], alphabet: str) -> list[str]:
    return sorted(words, key=lambda word: [alphabet.index(letter) for letter in word])
