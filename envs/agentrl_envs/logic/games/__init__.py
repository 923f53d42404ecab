"""Logic games: nineteen generators with knobs and exact checkers, one to a file."""

from __future__ import annotations

from agentrl_envs.logic.games.base import Game
from agentrl_envs.logic.games.boolean import Boolean
from agentrl_envs.logic.games.campsite import Campsite
from agentrl_envs.logic.games.countdown import Countdown
from agentrl_envs.logic.games.counting import Counting
from agentrl_envs.logic.games.cryptarithm import Cryptarithm
from agentrl_envs.logic.games.dyck import Dyck
from agentrl_envs.logic.games.futoshiki import Futoshiki
from agentrl_envs.logic.games.knights import Knights
from agentrl_envs.logic.games.lies import WebOfLies
from agentrl_envs.logic.games.maze import Maze
from agentrl_envs.logic.games.meeting import Meeting
from agentrl_envs.logic.games.minesweeper import Minesweeper
from agentrl_envs.logic.games.operators import Operators
from agentrl_envs.logic.games.ordering import Ordering
from agentrl_envs.logic.games.pyramid import Pyramid
from agentrl_envs.logic.games.skyscraper import Skyscraper
from agentrl_envs.logic.games.sorting import WordSorting
from agentrl_envs.logic.games.stars import StarBattle
from agentrl_envs.logic.games.sudoku import Sudoku

GAMES: dict[str, Game] = {
    game.name: game
    for game in (
        Boolean(),
        Campsite(),
        Countdown(),
        Counting(),
        Cryptarithm(),
        Dyck(),
        Futoshiki(),
        Knights(),
        Maze(),
        Meeting(),
        Minesweeper(),
        Operators(),
        Ordering(),
        Pyramid(),
        Skyscraper(),
        StarBattle(),
        Sudoku(),
        WebOfLies(),
        WordSorting(),
    )
}
"""Every game by name."""

__all__ = ["GAMES", "Game"]
