"""Every logic game against brute force that knows only the puzzle's data, not the generator."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import combinations, permutations, product
from random import Random
from typing import Any

import pytest

from agentrl_envs.logic.games import GAMES
from agentrl_envs.logic.games.base import LEVELS, Puzzle, read_table

EACH = [(name, level) for name in GAMES for level in LEVELS]


def items(name: str, n: int = 4, **knobs: int) -> list[Puzzle]:
    game = GAMES[name]
    return [game.make(Random(seed), game.at(1, knobs)) for seed in range(n)]


def data_of(puzzle: Puzzle) -> Any:
    """The data as a saved task would hold it."""
    return json.loads(json.dumps(puzzle.data))


@pytest.mark.parametrize(("name", "level"), EACH)
def test_solutions_verify_seeds_repeat_and_a_mutated_answer_is_wrong(name: str, level: int) -> None:
    """SynLogic's three laws (agentic.md section 27)."""
    game = GAMES[name]
    for seed in range(3):
        puzzle = game.make(Random(seed), game.at(level))
        assert puzzle == game.make(Random(seed), game.at(level))
        data = data_of(puzzle)
        assert game.right(data, puzzle.answer)
        assert game.right(data, f"  {puzzle.answer}\n")
        wrong = [m for m in mutants(puzzle.answer) if not game.right(data, m)]
        assert wrong, f"no mutated answer of {puzzle.answer!r} is refused"
        assert not game.right(data, "")
        assert not any(game.right(data, odd) for odd in ("?", "None", "1" * 5000, "\u0662", "((("))


def mutants(answer: str) -> list[str]:
    """The answer with one number, word or character changed."""
    flipped = {
        "yes": "no", "no": "yes", "True": "False", "False": "True", "knight": "knave",
        "knave": "knight",
    }  # fmt: skip
    made = [re.sub(rf"\b{a}\b", b, answer, count=1) for a, b in flipped.items()]
    made += [answer[:i] + answer[i + 1 :] for i in range(len(answer))]
    made += [
        answer[: m.start()] + str(int(m[0]) + 1) + answer[m.end() :]
        for m in re.finditer(r"\d+", answer)
    ]
    return [m for m in made if m.strip() != answer.strip()]


@pytest.mark.parametrize("name", GAMES)
def test_knobs_move_the_puzzle_and_levels_lie_within_the_bounds(name: str) -> None:
    game = GAMES[name]
    assert set(game.knobs) == set(game.bounds)
    for knob, (low, high) in game.bounds.items():
        assert all(low <= value <= high for value in game.knobs[knob])
    easy = [len(game.make(Random(s), game.at(1)).body) for s in range(5)]
    hard = [len(game.make(Random(s), game.at(5)).body) for s in range(5)]
    assert sum(hard) > sum(easy)


@pytest.mark.parametrize("name", GAMES)
def test_guesses_keep_the_form_and_are_sometimes_the_answer_at_most(name: str) -> None:
    game = GAMES[name]
    rng = Random(0)
    hits = 0
    for seed in range(40):
        puzzle = game.make(Random(seed), game.at(2))
        hits += game.right(data_of(puzzle), game.guess(data_of(puzzle), rng))
    assert hits <= (30 if name in ("boolean", "web_of_lies") else 16)


def squares(n: int) -> list[tuple[tuple[int, ...], ...]]:
    """All Latin squares of size n, from permutations of rows."""
    rows = list(permutations(range(1, n + 1)))
    found: list[tuple[tuple[int, ...], ...]] = [()]
    for _ in range(n):
        found = [
            (*square, row)
            for square in found
            for row in rows
            if all(row[c] != above[c] for above in square for c in range(n))
        ]
    return found


def written(rows: Iterable[Sequence[int]]) -> str:
    return "\n".join(" ".join(map(str, row)) for row in rows)


def fits(square: Sequence[Sequence[int]], grid: Sequence[Sequence[int]]) -> bool:
    return all(
        g in (0, v)
        for gs, vs in zip(grid, square, strict=True)
        for g, v in zip(gs, vs, strict=True)
    )


@pytest.mark.parametrize("holes", [6, 10])
def test_sudoku_has_one_solution_among_all_latin_squares(holes: int) -> None:
    assert len(squares(4)) == 576
    for puzzle in items("sudoku", holes=holes):
        data = data_of(puzzle)
        by_hand = [
            s
            for s in squares(4)
            if fits(s, data["grid"])
            and all(
                len({s[r + i][c + j] for i in (0, 1) for j in (0, 1)}) == 4
                for r in (0, 2)
                for c in (0, 2)
            )
        ]
        assert [written(s) for s in by_hand] == [puzzle.answer]
        accepted = [s for s in squares(4) if GAMES["sudoku"].right(data, written(s))]
        assert accepted == by_hand


def test_sudoku_six_keeps_its_boxes() -> None:
    puzzle = items("sudoku", 1, size=6, holes=16)[0]
    rows = read_table(puzzle.answer)
    assert rows is not None
    boxes = [
        {rows[r + i][c + j] for i in (0, 1) for j in (0, 1, 2)} for r in (0, 2, 4) for c in (0, 3)
    ]
    assert all(box == {1, 2, 3, 4, 5, 6} for box in boxes)
    swapped = [rows[0][::-1], *rows[1:]]
    assert not GAMES["sudoku"].right(data_of(puzzle), written(swapped))


def test_futoshiki_has_one_solution() -> None:
    for puzzle in [*items("futoshiki", size=3, signs=4), *items("futoshiki", size=4, signs=9)]:
        data = data_of(puzzle)
        by_hand = [
            s
            for s in squares(data["size"])
            if fits(s, data["grid"]) and all(s[a][b] < s[c][d] for a, b, c, d in data["signs"])
        ]
        assert [written(s) for s in by_hand] == [puzzle.answer]
        told = re.findall(r"r(\d)c(\d) < r(\d)c(\d)", puzzle.body)
        assert [[int(v) - 1 for v in sign] for sign in told] == data["signs"]
        accepted = [s for s in squares(data["size"]) if GAMES["futoshiki"].right(data, written(s))]
        assert accepted == by_hand


def visible(line: Sequence[int]) -> int:
    count = top = 0
    for height in line:
        if height > top:
            count, top = count + 1, height
    return count


def test_skyscraper_has_one_solution() -> None:
    assert visible((2, 1, 4, 3)) == 2
    for puzzle in [*items("skyscraper", size=3, clues=6), *items("skyscraper", size=4, clues=10)]:
        data, n = data_of(puzzle), puzzle.data["size"]
        by_hand: list[Any] = []
        for s in squares(n):  # type: ignore[arg-type]
            columns = list(zip(*s, strict=True))
            top, bottom, left, right = data["clues"]
            views = [
                *((want, visible(line)) for want, line in zip(top, columns, strict=True)),
                *((want, visible(line[::-1])) for want, line in zip(bottom, columns, strict=True)),
                *((want, visible(line)) for want, line in zip(left, s, strict=True)),
                *((want, visible(line[::-1])) for want, line in zip(right, s, strict=True)),
            ]
            if fits(s, data["grid"]) and all(want in (0, got) for want, got in views):
                by_hand.append(s)
        assert [written(s) for s in by_hand] == [puzzle.answer]
        assert [s for s in squares(n) if GAMES["skyscraper"].right(data, written(s))] == by_hand  # type: ignore[arg-type]


def test_knights_from_the_words_alone() -> None:
    """The sentences are read again, so the text and the checker agree on what was said."""
    for puzzle in items("knights", 6, people=4):
        lines = [re.fullmatch(r"(\w+) says: (.*)\.", line) for line in puzzle.body.splitlines()]
        spoken = [(m[1], m[2]) for m in lines if m]
        names = [name for name, _ in spoken]
        answers: list[str] = []
        for kinds in product((True, False), repeat=4):
            knight = dict(zip(names, kinds, strict=True))
            if all(true_of(said, knight) == knight[name] for name, said in spoken):
                answers.append(
                    ", ".join(f"{n} {'knight' if k else 'knave'}" for n, k in knight.items())
                )
        assert answers == [puzzle.answer]
        reverse = ", ".join(reversed(puzzle.answer.split(", ")))
        assert GAMES["knights"].right(data_of(puzzle), reverse)


def true_of(said: str, knight: dict[str, bool]) -> bool:
    if found := re.fullmatch(r"exactly (\d) of us are knights", said):
        return sum(knight.values()) == int(found[1])
    if found := re.fullmatch(r"(\w+) and (\w+) are of (the same kind|different kinds)", said):
        return (knight[found[1]] == knight[found[2]]) == (found[3] == "the same kind")
    found = re.fullmatch(r"(\w+) is a (knight|knave)", said)
    assert found
    return knight[found[1]] == (found[2] == "knight")


def test_web_of_lies_from_the_words_alone() -> None:
    for puzzle in items("web_of_lies", 8, people=5):
        first = re.search(r"(?:^|\. )(\w+) (lies|tells the truth)\.", puzzle.body)
        says = re.findall(r"(\w+) says (\w+) (lies|tells the truth)\.", puzzle.body)
        asked = re.search(r"Does (\w+) tell", puzzle.body)
        assert first
        assert asked
        truthful = {first[1]: first[2] == "tells the truth"}
        while len(truthful) < 5:
            for name, about, verb in says:
                if about in truthful:
                    truthful[name] = truthful[about] == (verb == "tells the truth")
        assert puzzle.answer == ("yes" if truthful[asked[1]] else "no")


def test_countdown_accepts_every_right_expression_and_only_these() -> None:
    right = GAMES["countdown"].right
    data = {"numbers": [3, 3, 8, 8], "target": 24}
    assert right(data, "8/(3-8/3)")
    assert not right(data, "8*3")
    assert not right(data, "3+3+8+8")  # 22: a checker that compares a value with itself accepts it
    assert not right(data, "(3+3-3)*8")
    for odd in (
        "24",
        "8//(3-8/3)",
        "3**3-8+8",
        "-8/(3-8/3)",
        "8/(3-3)+8",
        "8.0/(3-8/3)",
        "True+3+8+8",
        "8/(3-8/3)#",
    ):
        assert not right(data, odd)
    two = {"numbers": [2, 5], "target": 10}
    values = {
        f"{a}{sign}{b}": s
        for a, b in ((2, 5), (5, 2))
        for sign, s in zip(
            "+-*/", (Fraction(a + b), Fraction(a - b), Fraction(a * b), Fraction(a, b)), strict=True
        )
    }
    assert (
        {e for e in values if right(two, e)}
        == {e for e, v in values.items() if v == 10}
        == {"2*5", "5*2"}
    )


def test_boolean_agrees_with_python() -> None:
    for puzzle in items("boolean", 200, leaves=9):
        assert puzzle.answer == str(eval(puzzle.body))  # noqa: S307  made by the generator


def test_sorting_by_a_new_alphabet() -> None:
    right = GAMES["word_sorting"].right
    data = {"alphabet": "zyxwvutsrqponmlkjihgfedcba", "words": ["ab", "zz", "b", "abz"]}
    assert [o for o in permutations(data["words"]) if right(data, " ".join(o))] == [
        ("zz", "b", "ab", "abz")
    ]
    plain = items("word_sorting", 5, words=6)
    assert [p.answer.split() for p in plain] == [sorted(p.answer.split()) for p in plain]


def test_dyck_by_reduction() -> None:
    """What is completed reduces to nothing by striking out closed pairs."""
    for puzzle in items("dyck", 20, length=12, kinds=4):
        whole = puzzle.body + puzzle.answer
        while (shorter := re.sub(r"\(\)|\[\]|\{\}|<>", "", whole)) != whole:
            whole = shorter
        assert whole == ""
    assert GAMES["dyck"].right({"start": "([<"}, "> ] )")
    assert not GAMES["dyck"].right({"start": "([<"}, ">])()")


def test_pyramid_has_one_solution_among_whole_numbers() -> None:
    for puzzle in items("pyramid", 6, base=3, extra=0, largest=4):
        rows, found = data_of(puzzle)["rows"], list[str]()
        for a, b, c in product(range(0, 20), repeat=3):
            full = [[a + 2 * b + c], [a + b, b + c], [a, b, c]]
            if all(
                g in (-1, v)
                for gs, vs in zip(rows, full, strict=True)
                for g, v in zip(gs, vs, strict=True)
            ):
                found.append(written(full))
        assert found == [puzzle.answer]


def test_meeting_minute_by_minute() -> None:
    for puzzle in items("time_sequence", 20, people=3, busy=3):
        spans = re.findall(r"(\d+):(\d+)-(\d+):(\d+)", puzzle.body)
        length = re.search(r"meeting: (\d+)", puzzle.body)
        assert length
        taken = {
            m for a, b, c, d in spans for m in range(int(a) * 60 + int(b), int(c) * 60 + int(d))
        }
        free = [
            t
            for t in range(540, 1020 - int(length[1]) + 1)
            if not taken & set(range(t, t + int(length[1])))
        ]
        assert puzzle.answer == f"{free[0] // 60}:{free[0] % 60:02d}"
        accepted = [
            t
            for t in range(540, 1020)
            if GAMES["time_sequence"].right(data_of(puzzle), f"{t // 60}:{t % 60:02d}")
        ]
        assert accepted == free[:1]


def test_minesweeper_has_one_layout() -> None:
    for puzzle in [*items("minesweeper", 6), *items("minesweeper", 4, size=4, mines=3, covered=8)]:
        data = data_of(puzzle)
        grid, n = data["grid"], len(data["grid"])
        covered = [(r, c) for r in range(n) for c in range(n) if grid[r][c] < 0]
        found: list[str] = []
        for mines in combinations(covered, data["mines"]):
            near = lambda r, c, m=mines: sum(max(abs(r - i), abs(c - j)) == 1 for i, j in m)  # noqa: E731
            if all(grid[r][c] in (-1, near(r, c)) for r in range(n) for c in range(n)):
                found.append(", ".join(f"r{r + 1}c{c + 1}" for r, c in mines))
        assert found == [puzzle.answer]
        assert GAMES["minesweeper"].right(data, " ".join(reversed(puzzle.answer.split(", "))))
        assert not GAMES["minesweeper"].right(data, f"not {puzzle.answer}")


@pytest.mark.parametrize(("digits", "hints"), [(1, 0), (2, 1)])
def test_cryptarithm_has_one_key(digits: int, hints: int) -> None:
    for puzzle in items("cryptarithm", 3, digits=digits, hints=hints):
        words, told = data_of(puzzle)["words"], {chr(c): v for c, v in data_of(puzzle)["hints"]}
        letters = sorted(set("".join(words)))
        free = [letter for letter in letters if letter not in told]
        rest = [d for d in range(10) if d not in told.values()]
        found: list[str] = []
        for chosen in permutations(rest, len(free)):
            key = told | dict(zip(free, chosen, strict=True))
            a, b, c = (int("".join(str(key[x]) for x in word)) for word in words)
            if a + b == c and all(key[word[0]] for word in words):
                found.append(", ".join(f"{x}={key[x]}" for x in letters))
        assert found == [puzzle.answer]


def test_counting_from_the_words_alone() -> None:
    kinds = {"fruits": "apple pear plum mango lemon fig", "animals": "cat dog goat duck horse frog",
             "tools": "hammer saw drill wrench file chisel",
             "instruments": "flute piano drum violin harp trumpet"}  # fmt: skip
    for puzzle in items("object_counting", 30, items=8, changes=5):
        asked = re.search(r"How many (\w+)", puzzle.body)
        assert asked
        total = 0
        for sentence in puzzle.body.split(". "):
            sign = -1 if "away" in sentence else 1
            for n, thing in re.findall(r"(\d+) (\w+)", sentence):
                named = (
                    thing.removesuffix("es") if thing.endswith("ches") else thing.removesuffix("s")
                )
                total += sign * int(n) * (named in kinds[asked[1]].split())
        assert puzzle.answer == str(total)


def test_operators_from_the_words_alone() -> None:
    for puzzle in items("operators", 60, operators=2, uses=3):
        *told, asked = puzzle.body.splitlines()
        means = {m[1]: m[2] for m in (re.fullmatch(r"x (.) y = (.*)", line) for line in told) if m}
        formula = asked.removeprefix("What is ").removesuffix("?")
        while found := re.search(r"\((-?\d+) (.) (-?\d+)\)", formula):
            formula = formula.replace(found[0], str(value(means[found[2]], found[1], found[3])))
        a, sign, b = formula.split(" ")
        assert puzzle.answer == str(value(means[sign], a, b))


def value(formula: str, x: str, y: str) -> int:
    return int(eval(formula, {"x": int(x), "y": int(y)}))  # noqa: S307  made by the generator


@pytest.mark.parametrize("size", [4, 5, 6])
def test_star_battle_has_one_solution(size: int) -> None:
    for puzzle in items("star_battle", 4, size=size):
        rows = puzzle.body.splitlines()
        found = [
            " ".join(str(c + 1) for c in stars)
            for stars in permutations(range(size))
            if len({rows[r][c] for r, c in enumerate(stars)}) == size
            and all(abs(stars[r] - stars[r + 1]) > 1 for r in range(size - 1))
        ]
        assert found == [puzzle.answer]
        accepted = [
            o
            for o in permutations(range(1, size + 1))
            if GAMES["star_battle"].right(data_of(puzzle), str(o)[1:-1])
        ]
        assert [" ".join(map(str, o)) for o in accepted] == found


def test_maze_accepts_every_shortest_way() -> None:
    for puzzle in items("maze", 8, size=4, walls=20):
        rows = puzzle.body.splitlines()
        length = len(puzzle.answer)
        reached: dict[str, bool] = {}
        for moves in product("UDLR", repeat=min(length, 6)):
            reached["".join(moves)] = walks(rows, moves)
        if length > 6:
            assert not any(reached.values())
            continue
        assert not any(walks(rows, m) for k in range(1, length) for m in product("UDLR", repeat=k))
        accepted = {m for m in reached if GAMES["maze"].right(data_of(puzzle), m)}
        assert accepted == {m for m, there in reached.items() if there}
        assert puzzle.answer in accepted


def walks(rows: Sequence[str], moves: Iterable[str]) -> bool:
    """Whether the moves end on G and meet no wall; cells outside count as walls."""
    cells = {(r, c): mark for r, row in enumerate(rows) for c, mark in enumerate(row)}
    at = next(place for place, mark in cells.items() if mark == "S")
    for move in moves:
        at = (
            at[0] + "U D".find(move) - 1 if move in "UD" else at[0],
            at[1] + "L R".find(move) - 1 if move in "LR" else at[1],
        )
        if cells.get(at, "#") == "#":
            return False
    return cells[at] == "G"


def test_ordering_from_the_words_alone() -> None:
    for puzzle in items("ordering", 6, people=5):
        names, _, clues = puzzle.body.partition(". ")
        found = [
            " ".join(order)
            for order in permutations(names.split(", "))
            if all(so(clue, order) for clue in clues.removesuffix(".").split(". "))
        ]
        assert found == [puzzle.answer]


def so(clue: str, order: Sequence[str]) -> bool:
    words = clue.split()
    first, last = words[0], words[-1]
    if "number" in words:
        return order[int(last) - 1] == first
    gap = order.index(last) - order.index(first)
    return gap > 0 if "before" in words else (abs(gap) == 1) == ("not" not in words)


def test_campsite_has_one_solution() -> None:
    for puzzle in items("campsite", 8, size=4, trees=3):
        *lines, last = puzzle.body.splitlines()
        rows = [int(line.split()[1]) for line in lines]
        columns = [int(v) for v in last.split()[1:]]
        trees = [
            (r, c) for r, line in enumerate(lines) for c, mark in enumerate(line) if mark == "T"
        ]
        free = [(r, c) for r in range(4) for c in range(4) if (r, c) not in trees]
        found: list[str] = []
        for tents in combinations(free, len(trees)):
            counted = [sum(r == i for r, _ in tents) for i in range(4)] == rows and [
                sum(c == i for _, c in tents) for i in range(4)
            ] == columns
            apart = all(
                max(abs(a - c), abs(b - d)) > 1 for (a, b), (c, d) in combinations(tents, 2)
            )
            owned = any(
                all(
                    abs(a - c) + abs(b - d) == 1
                    for (a, b), (c, d) in zip(tents, order, strict=True)
                )
                for order in permutations(trees)
            )
            if counted and apart and owned:
                found.append(", ".join(f"r{r + 1}c{c + 1}" for r, c in tents))
        assert found == [puzzle.answer]


@pytest.mark.parametrize("name", GAMES)
def test_a_checker_survives_what_a_model_may_write(name: str) -> None:
    """Random splices of the answer with signs, digits, letters and other scripts never raise."""
    game, rng = GAMES[name], Random(name)
    puzzle = game.make(Random(1), game.at(3))
    data, answer = data_of(puzzle), puzzle.answer
    for _ in range(300):
        cut = rng.randrange(len(answer) + 1)
        noise = "".join(
            rng.choices("0123456789 ()[]<>{}+-*/=_,;:\n\tABrc\u0662\u2212\x00\U0001f980", k=6)
        )
        right = game.right(data, answer[:cut] + noise + answer[cut + rng.randrange(3) :])
        assert isinstance(right, bool)
