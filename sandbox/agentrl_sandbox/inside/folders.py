"""Removing a folder that model code has filled, whatever it put there."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat


def _remove(fd: int, name: str, serial: int) -> None:
    """Remove `name` under `fd`; folders inside it are lifted to `fd` under new names."""
    if not stat.S_ISDIR(os.lstat(name, dir_fd=fd).st_mode):
        os.unlink(name, dir_fd=fd)
        return
    with contextlib.suppress(OSError):
        os.rmdir(name, dir_fd=fd)
        return
    os.chmod(name, 0o700, dir_fd=fd)
    inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    try:
        with os.scandir(inner) as entries:
            children = [entry.name for entry in entries]
        for index, child in enumerate(children):
            if stat.S_ISDIR(os.lstat(child, dir_fd=inner).st_mode):
                with contextlib.suppress(OSError):
                    os.rmdir(child, dir_fd=inner)
                    continue
                os.chmod(child, 0o700, dir_fd=inner)
                os.rename(child, f".{serial}-{index}", src_dir_fd=inner, dst_dir_fd=fd)
            else:
                os.unlink(child, dir_fd=inner)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=fd)


def remove_tree(path: str) -> None:
    """Delete `path` and all below it without recursion and without following a link.

    Nothing may be using the folder any more: folders are lifted to the top one level at a time, so
    that neither depth nor path length matters. A missing folder is no error; what cannot be
    removed stays.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    serial = 0
    try:
        with contextlib.suppress(OSError):
            while names := os.listdir(fd):
                for name in names:
                    serial += 1
                    _remove(fd, name, serial)
    finally:
        os.close(fd)
    with contextlib.suppress(OSError):
        os.rmdir(path)


def copy_tree(source: str, target: str) -> None:
    """Copy the files, folders and links of one folder into another.

    Both are the same session's, so nothing is guarded against here. One file under two names
    becomes two files.
    """
    with os.scandir(source) as entries:
        for entry in entries:
            place = os.path.join(target, entry.name)
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), place)
            elif entry.is_dir(follow_symlinks=False):
                os.mkdir(place)
                copy_tree(entry.path, place)
                shutil.copystat(entry.path, place)
            elif entry.is_file(follow_symlinks=False):
                shutil.copy2(entry.path, place)
