"""Words on stderr and data on stdout, also where nobody takes them."""

import os
import sys
from contextlib import suppress

import typer


def say(words: str) -> None:
    """Words on stderr; a full disk behind it, or a reader that left, ends nothing."""
    with suppress(OSError):
        typer.echo(words, err=True)


def end_output() -> None:
    """Nobody takes what is on stdout; Python would complain of it once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
