"""``--web [PORT]``: an option whose value may be left away, and what it opens."""

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Iterator, List, Optional, Union

from mla_edge.cli.failures import Command
from mla_edge.cli.outputs import say

if TYPE_CHECKING:
    from mla_edge.runtime.model import FusedModel
    from mla_edge.runtime.reloading import ReloadingModel
    from mla_edge.runtime.web.view import View

FLAG = "--web"
PORT = 8765


class WatchableCommand(Command):
    """A command with ``--web``, which may stand alone."""

    def parse_args(self, ctx: Any, args: List[str]) -> Any:
        """Give ``--web`` its port where it has none: Typer has no options like that."""
        return super().parse_args(ctx, with_port(args))


def with_port(words: List[str]) -> List[str]:
    """``words``, with PORT after a ``--web`` that no number follows."""
    filled = []
    for number, word in enumerate(words):
        filled.append(word)
        if word == FLAG and not "".join(words[number + 1 : number + 2]).isdecimal():
            filled.append(str(PORT))
    return filled


@contextmanager
def serving(
    model: "Union[FusedModel, ReloadingModel]", port: Optional[int], rate_hz: Optional[float]
) -> "Iterator[Optional[View]]":
    """The view of a run, served on ``port`` meanwhile; None without one."""
    if port is None:
        yield None
        return
    from mla_edge.runtime.web.server import WebServer
    from mla_edge.runtime.web.view import View

    view = View(model, rate_hz=rate_hz)
    with WebServer(view, port) as server:
        say(f"watch it at {server.url}")
        yield view
