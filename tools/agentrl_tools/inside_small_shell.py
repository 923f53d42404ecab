"""A small shell for sandboxes that let no process start: the usual file commands, run in Python.

Sent as source (`inside.py`); the standard library alone. Quotes, variables, `*`, pipes, `&&`, `||`,
`;`, `>`, `>>`, `<` and here-documents are read; loops, conditions and `$(...)` are refused. The working
folder and variables last from call to call. Commands hold their output in memory.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
from collections.abc import Iterator
from itertools import chain

from agentrl_tools.inside_commands import COMMANDS
from agentrl_tools.inside_files import Fail, Stop, read

MAX_OUTPUT = 20_000
_OPERATORS = ("&&", "||", ">>", "<<", "2>&1", "2>", ";", "|", ">", "<", "\n")
_CONNECTORS = (";", "\n", "&&", "||")
_KEYWORDS = {"for", "while", "if", "case", "function", "until", "select", "{", "(", "[["}

_folder = os.getcwd()
_variables: dict[str, str] = {}


class Token(str):
    """One word or operator."""

    operator: bool = False
    pattern: bool = False
    """Whether it holds a `*` or `?` outside quotes."""


def run(command: str) -> str:
    """JSON of `output` and `code`."""
    global _folder
    back = os.getcwd()
    out: list[str] = []
    try:
        os.chdir(_folder)
        body, documents = _here_documents(command)
        code = _listed(_tokens(body), documents, out)
    except Fail as error:
        out.append(f"{error}\n" if str(error) else "")
        code = error.code
    except (OSError, UnicodeError, ValueError, re.error, RecursionError) as error:
        out.append(f"{error}\n")
        code = 1
    finally:
        with contextlib.suppress(OSError):
            _folder = os.getcwd()
        os.chdir(back)
    text = "".join(out)
    half = MAX_OUTPUT // 2
    if len(text) > MAX_OUTPUT:
        text = f"{text[:half]}\n...\n{text[-half:]}"
    return json.dumps({"output": text, "code": code})


def _here_documents(command: str) -> tuple[str, list[str]]:
    """The command without its here-documents, and their texts in order."""
    kept: list[str] = []
    documents: list[str] = []
    lines = iter(command.split("\n"))
    for line in lines:
        found = re.search(r"<<-?\s*(['\"]?)(\w+)\1", line)
        kept.append(line if found is None else line[: found.start()] + "<<" + line[found.end() :])
        if found is not None:
            text: list[str] = []
            for inner in lines:
                if inner.strip() == found[2]:
                    break
                text.append(inner + "\n")
            documents.append("".join(text))
    return "\n".join(kept), documents


def _tokens(text: str) -> Iterator[Token]:
    """Words and operators; quotes removed, variables put in when a word is reached."""
    at, word, started, pattern = 0, "", False, False
    while at <= len(text):
        operator = next(
            (o for o in _OPERATORS if text.startswith(o, at) and not (o[0] == "2" and started)),
            None,
        )
        if at == len(text) or operator or text[at] in " \t":
            if started:
                yield _token(word, pattern=pattern)
            word, started, pattern = "", False, False
            if operator:
                yield _token(operator, operator=True)
            at += len(operator or " ")
            continue
        letter = text[at]
        if letter == "#" and not started:
            line_end = text.find("\n", at)
            at = len(text) if line_end < 0 else line_end
            continue
        started = True
        if letter == "'":
            end = text.find("'", at + 1)
            if end < 0:
                raise Fail("a ' is not closed", 2)
            word, at = word + text[at + 1 : end], end + 1
        elif letter == '"':
            piece, at = _quoted(text, at + 1)
            word += piece
        elif letter == "\\":
            word, at = word + text[at + 1 : at + 2], at + 2
        elif letter == "$":
            piece, at = _variable(text, at)
            word += piece
        elif letter in "`(&":
            raise Stop(f"{letter} is not available here: no process can be started", 2)
        else:
            pattern = pattern or letter in "*?"
            word, at = word + letter, at + 1


def _token(text: str, *, operator: bool = False, pattern: bool = False) -> Token:
    token = Token(text)
    token.operator, token.pattern = operator, pattern
    return token


def _quoted(text: str, at: int) -> tuple[str, int]:
    """What stands in double quotes, and where it ends."""
    word = ""
    while at < len(text):
        letter = text[at]
        if letter == '"':
            return word, at + 1
        if letter == "\\" and text[at + 1 : at + 2] in ('"', "\\", "$", "`"):
            word, at = word + text[at + 1], at + 2
        elif letter == "$":
            piece, at = _variable(text, at)
            word += piece
        else:
            word, at = word + letter, at + 1
    raise Fail('a " is not closed', 2)


def _variable(text: str, at: int) -> tuple[str, int]:
    if text.startswith("$(", at):
        raise Stop("$(...) is not available here: no process can be started", 2)
    found = re.compile(r"\$(?:(\w+|\?)|\{(\w+)\})").match(text, at)
    if found is None:
        return "$", at + 1
    name = found[1] or found[2]
    return _variables.get(name, os.environ.get(name, "")), found.end()


def _listed(tokens: Iterator[Token], documents: list[str], out: list[str]) -> int:
    """Run pipelines one after another; the last one's exit code.

    The words of a pipeline are read when the one before has run, so that they see its variables.
    """
    code, skip, part = 0, False, list[Token]()
    for token in chain(tokens, [_token(";", operator=True)]):
        if not (token.operator and token in _CONNECTORS):
            part.append(token)
            continue
        if part and not skip:
            code = _pipeline(part, documents, out)
            _variables["?"] = str(code)
        # `a && b`: b is skipped after a failure; `a || b`: after a success.
        skip = (token == "&&" and code != 0) or (token == "||" and code == 0)
        part = []
    return code


def _pipeline(tokens: list[Token], documents: list[str], out: list[str]) -> int:
    parts: list[list[Token]] = [[]]
    for token in tokens:
        if token.operator and token == "|":
            parts.append([])
        else:
            parts[-1].append(token)
    text, code = "", 0
    for i, part in enumerate(parts):
        words, given, target, append, quiet, merged = _redirections(part, documents)
        try:
            said, code = _command(words, given if given is not None else text)
            error = ""
        except Stop:
            raise
        except Fail as failed:
            said, code, error = "", failed.code, f"{failed}\n"
        if merged:
            said, error = said + error, ""
        if error and not quiet:
            out.append(error)
        if target is not None:
            with open(target, "a" if append else "w", encoding="utf-8") as file:
                file.write(said)
            said = ""
        text = said
        if i == len(parts) - 1:
            out.append(text)
    return code


def _redirections(
    part: list[Token], documents: list[str]
) -> tuple[list[Token], str | None, str | None, bool, bool, bool]:
    """Words, text from a file or here-document, file to write, appending, errors dropped, merged."""
    words: list[Token] = []
    given = target = None
    append = quiet = merged = False
    tokens = iter(part)
    for token in tokens:
        if not token.operator:
            words.append(token)
        elif token == "<<":
            given = documents.pop(0) if documents else ""
        elif token == "2>&1":
            merged = True
        else:
            name = next(tokens, None)
            if name is None or name.operator:
                raise Fail(f"{token} needs a file", 2)
            if token == "<":
                given = read(name)
            elif token == "2>":
                quiet = True
            elif name != "/dev/null":
                target, append = str(name), token == ">>"
            else:
                target = os.devnull
    return words, given, target, append, quiet, merged


def _command(words: list[Token], given: str) -> tuple[str, int]:
    """One command's output and exit code. Raises Fail."""
    if words and words[0] == "export":
        words = words[1:]
    while words and re.fullmatch(r"[A-Za-z_]\w*=.*", words[0], re.DOTALL):
        name, _, value = words.pop(0).partition("=")
        _variables[name] = value
    if not words:
        return "", 0
    name, arguments = str(words[0]), _expanded(words[1:])
    if name in _KEYWORDS:
        raise Stop(f"{name} is not available here: no process can be started", 2)
    chosen = COMMANDS.get(name)
    if chosen is None:
        known = " ".join(sorted(COMMANDS))
        raise Fail(f"{name}: this sandbox starts no programs; available: {known}", 127)
    try:
        return chosen(arguments, given)
    except OSError as error:
        raise Fail(f"{name}: {error.filename}: {error.strerror}") from None


def _expanded(words: list[Token]) -> list[str]:
    found: list[str] = []
    for word in words:
        matches = sorted(glob.glob(word)) if word.pattern else []
        found += matches or [str(word)]
    return found
