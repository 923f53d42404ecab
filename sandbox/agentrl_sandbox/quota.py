"""Measuring a work folder that lies on the machine's own disk."""

from __future__ import annotations

import os

ENTRIES = 2048
"""More files and folders than this count as a breach."""


def exceeds(folder: str, limit_bytes: int, members: int = 1) -> bool:
    """Whether a live, hostile folder holds more than it may; anything odd counts as a breach.

    `members`: sessions that share the folder, each with its own number of entries. Only sizes are
    read. A folder swapped for a link while we look can at worst make its own session look too big.
    """
    total = entries = 0
    waiting = [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as found:
                for entry in found:
                    entries += 1
                    try:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(entry.path)
                    except FileNotFoundError:
                        continue
                    if entries > ENTRIES * members or total > limit_bytes:
                        return True
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return True
    return False
