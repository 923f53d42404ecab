from agentrl.errors import ToolError
from agentrl.tool import tool


@tool(parallel=True)
async def dictionary(word: str) -> str:
    """Looks a word up and says what it means.

    Args:
        word: one English word in lower case.
    """
    meanings = {"cat": "a small furry animal", "tree": "a tall plant with a trunk"}
    if word not in meanings:
        raise ToolError(f"{word!r} is not in the dictionary; it has {', '.join(meanings)}.")
    return meanings[word]
