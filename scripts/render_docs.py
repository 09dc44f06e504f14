"""Write the generated documents: docs/reference/cli.md, and the boards in README.md.

``--check`` writes nothing and exits 1 if one of them is not current.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from mla_edge.cli import app
from mla_edge.profiles import DeviceProfile, all_profiles

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- boards: written by make docs -->", "<!-- end of boards -->"


def cli_reference() -> str:
    """The reference of the command line, from the commands themselves."""
    lines = [
        "# Command line",
        "",
        "Written by `make docs` from the commands themselves.",
        "",
        "Data goes to standard output, words to standard error. Exit codes: 0 ok,",
        "1 unexpected, 2 usage or configuration, 3 environment, 4 accuracy gate,",
        "5 bundle or recording not usable here, 6 camera or microphone, 7 build failed or out",
        "of memory, 130 interrupted.",
        "",
        "With `--json` a command that fails prints one object on standard output as well:",
        '`{"ok": false, "problem": …, "fix": …, "exit_code": …}`, and what else it found by',
        "then: `report` of a lost accuracy gate, `checks` of `verify`, the findings of",
        "`doctor`, the `summary` of `run`, `record` and `replay`. Wrong usage, such as an",
        "option that does not exist, is told in words only.",
    ]
    group: Any = typer.main.get_command(app)
    for name, command in _commands(group):
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option"]
        shown = [a.name.upper() if a.required else f"[{a.name.upper()}]" for a in arguments]
        usage = " ".join(["mla-edge", name, *shown, *(["[OPTIONS]"] if options else [])])
        lines += ["", f"## {name}", "", f"`{usage}`", "", _paragraphs(command.help), ""]
        lines += ["| | | default |", "|---|---|---|"]
        for parameter in [*arguments, *options]:
            lines.append(
                f"| `{_spelling(parameter)}` | {parameter.help} | {_default(parameter)} |"
            )
    return "\n".join(lines) + "\n"


def board_table() -> str:
    """What is known of every device, as a Markdown table."""
    lines = [
        "| `--profile` | device | modules | JetPack | TensorRT | ONNX opset | precisions |",
        "|---|---|---|---|---|---|---|",
    ]
    for profile in all_profiles():
        modules = ", ".join(profile.module) or "—"
        opset = profile.opset if profile.supported else "not supported"
        lines.append(
            f"| `{profile.name}` | {profile.title} | {modules} | {profile.jetpack or '—'} "
            f"| {profile.tensorrt or '—'} | {opset} | {_precisions(profile)} |"
        )
    return "\n".join(lines)


def readme_with_boards(readme: str) -> str:
    """``readme`` with the table of boards between its marks."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{board_table()}\n{END}{after}"


def main() -> int:
    """Write the documents, or check them."""
    reference, readme = ROOT / "docs/reference/cli.md", ROOT / "README.md"
    wanted = {
        reference: cli_reference(),
        readme: readme_with_boards(readme.read_text(encoding="utf-8")),
    }
    stale = []
    for path, text in wanted.items():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path.relative_to(ROOT).as_posix())
        if "--check" not in sys.argv[1:]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if stale and "--check" in sys.argv[1:]:
        print(f"not current: {', '.join(stale)}; run: make docs", file=sys.stderr)
        return 1
    return 0


def _commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every command with its whole name; a group that has options of its own is one too."""
    for name, command in sorted(group.commands.items()):
        yield f"{prefix}{name}", command
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix}{name} ")


def _paragraphs(text: str | None) -> str:
    return "\n".join(line.strip() for line in (text or "").strip().splitlines())


def _spelling(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.name.upper())
    return " / ".join([*parameter.opts, *parameter.secondary_opts])


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if parameter.default in (None, False, ()) or callable(parameter.default):
        return ""
    return f"`{parameter.default}`"


def _precisions(profile: DeviceProfile) -> str:
    return " ".join(profile.precisions)


if __name__ == "__main__":
    sys.exit(main())
