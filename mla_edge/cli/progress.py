"""How long commands show their steps."""

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Callable, Iterator

import typer

from mla_edge.cli.interrupts import Interrupts

if TYPE_CHECKING:
    from mla_edge.exporter.steps import StepEvent

_EVERY_S = 10.0  # a log takes a line of progress, but not hundreds


@contextmanager
def show_progress(interrupts: Interrupts) -> Iterator[Callable[["StepEvent"], None]]:
    """A line on stderr for each finished step, and the running one below it on a terminal.

    Elsewhere a long step says every ten seconds that it goes on. An interrupt that was lost on
    the way ends the command at the next step.
    """
    with _shown() as show:

        def on_step(event: "StepEvent") -> None:
            interrupts.check()
            show(event)

        yield on_step


@contextmanager
def _shown() -> Iterator[Callable[["StepEvent"], None]]:
    if not sys.stderr.isatty():
        yield _Lines().show
        return
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    with console.status("mla-edge") as status:

        def on_step(event: "StepEvent") -> None:
            if event.seconds is None:
                status.update(f"{_name(event)} … {event.note}".rstrip())
            else:
                console.print(_line(event), markup=False, soft_wrap=True)

        yield on_step


class _Lines:
    """Lines for a log."""

    def __init__(self) -> None:
        self._said_s = 0.0

    def show(self, event: "StepEvent") -> None:
        now_s = time.monotonic()
        if event.seconds is not None:
            typer.echo(_line(event), err=True)
        elif event.note and now_s - self._said_s >= _EVERY_S:
            typer.echo(f"{'…':>8}  {_name(event)}: {event.note}", err=True)
        elif event.note:
            return
        self._said_s = now_s


def _name(event: "StepEvent") -> str:
    return f"{event.step} {event.tier}".rstrip()


def _line(event: "StepEvent") -> str:
    took = "reused" if event.reused else f"{event.seconds:.1f} s"
    return f"{took:>8}  {_name(event)}" + (f": {event.note}" if event.note else "")
