"""What a command that fails says: words to stderr, one object to stdout, and its exit code."""

import errno
import json
from typing import Any, Dict

import typer
from typer.core import TyperCommand, TyperGroup

from mla_edge.cli.outputs import end_output, say
from mla_edge.errors import MissingDependency, MlaEdgeError

INTERRUPTED = 130

# What a person can put right on their machine; any other OSError is a bug and shows as one.
_DISK = {
    errno.ENOSPC: "free some space, or give another folder",
    errno.EDQUOT: "free some of your quota, or give another folder",
    errno.EACCES: "change its permissions, or give another folder",
    errno.EPERM: "change its permissions, or give another folder",
    errno.EROFS: "give a folder on a disk that can be written",
}


class _Telling:
    """Makes expected errors a message, a hint and an exit code, no traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run it; with ``--json`` an error is one object on stdout too."""
        as_json = bool(ctx.params.get("as_json"))
        try:
            return super().invoke(ctx)  # type: ignore[misc]
        except MlaEdgeError as error:
            _tell(str(error), error.hint, error.exit_code, as_json, error.details)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            _tell("interrupted", "", INTERRUPTED, as_json, {})
            raise typer.Exit(INTERRUPTED) from error
        except OSError as error:
            if error.errno not in _DISK:
                raise
            where = f"{error.filename}: " if error.filename else ""
            code = MissingDependency.exit_code
            _tell(f"{where}{error.strerror}", _DISK[error.errno], code, as_json, {})
            raise typer.Exit(code) from error


class Command(_Telling, TyperCommand):
    """A command that tells its errors."""


class Group(_Telling, TyperGroup):
    """A command with others below it that does."""


def _tell(problem: str, fix: str, code: int, as_json: bool, details: Dict[str, Any]) -> None:
    if as_json:
        told = {"ok": False, "problem": problem, "fix": fix, "exit_code": code, **details}
        try:
            typer.echo(json.dumps(told))
        except OSError:  # perhaps this is the problem; stderr may still be heard
            end_output()
    say(f"mla-edge: {problem}" + (f"\n  {fix}" if fix else ""))
