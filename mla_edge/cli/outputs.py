"""Words on stderr and data on stdout, also where nobody takes them."""

import io
import os
import sys
from contextlib import contextmanager, suppress
from typing import Iterator

import typer


def say(words: str) -> None:
    """Words on stderr; a full disk behind it, or a reader that left, ends nothing."""
    with suppress(OSError):
        typer.echo(words, err=True)


@contextmanager
def own_stderr() -> Iterator[None]:
    """Words that are said meanwhile are not lost while PortAudio starts.

    For that moment sounddevice has descriptor 2 lead to /dev/null, so as to hide ALSA's
    warnings: each time that a lost microphone is looked for.
    """
    before = sys.stderr
    try:
        number = os.dup(before.fileno())
    except (AttributeError, OSError):  # closed, or no file
        yield
        return
    raw = io.FileIO(number, "w")
    with io.TextIOWrapper(raw, before.encoding, before.errors, write_through=True) as own:
        sys.stderr = own
        try:
            yield
        finally:
            sys.stderr = before


def end_output() -> None:
    """Nobody takes what is on stdout; Python would complain of it once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
