"""The documents: links lead somewhere, commands exist, the cheap ones run, programs compile."""

import ast
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import mla_edge
from mla_edge.cli import app

ROOT = Path(__file__).resolve().parent.parent
CONTENT = ("benchmarks", "device_profiles", "export", "calibration")
DOCUMENTS = sorted(
    path
    for path in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("examples/**/*.md"),
        *(ROOT / kind / "README.md" for kind in CONTENT),
    ]
)
CHEAP = {("profiles",), ("doctor",)}


def each_document(test):
    return pytest.mark.parametrize(
        "path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix()
    )(test)


def blocks(text, language=""):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands():
    """Every `mla-edge …` line of a block of code or text, without its comment."""
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        for block in [*blocks(text), *blocks(text, "text")]:
            for line in block.splitlines():
                if re.match(r"(\.venv/bin/)?mla-edge ", line):
                    words = shlex.split(line, comments=True)
                    name = path.relative_to(ROOT).as_posix()
                    yield pytest.param(words[1:], id=f"{name}: {' '.join(words)}")


@each_document
def test_links_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if re.match(r"(https?|mailto):", target):
            continue
        name, _, _ = target.partition("#")
        assert (path.parent / name).exists(), f"{path.name}: {target}"


@each_document
def test_code_blocks_are_closed_and_programs_compile(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n```") % 2 == 0
    for block in blocks(text, "python"):
        ast.parse(block)


@pytest.mark.parametrize("words", list(commands()))
def test_commands_and_their_options_exist(words):
    group = typer.main.get_command(app)
    assert words[0] in group.commands, f"there is no command {words[0]}"
    # Parses names and options as the real command does; nothing runs.
    group.commands[words[0]].make_context(words[0], list(words[1:]))


@pytest.mark.parametrize("words", sorted(CHEAP))
def test_the_cheap_commands_run(words):
    assert CliRunner().invoke(app, list(words)).exit_code in (0, 3)


def test_the_documents_that_are_generated_are_current():
    command = [sys.executable, str(ROOT / "scripts/render_docs.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_readme_names_the_public_api_it_uses():
    (program,) = blocks((ROOT / "README.md").read_text(encoding="utf-8"), "python")
    used = set(re.findall(r"mla_edge\.(\w+)", program))
    assert used == {"load", "open_camera", "open_microphone", "run"}
    assert used <= set(mla_edge.__all__)


def test_the_readme_s_make_targets_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert set(re.findall(r"^make (\w+)", "\n".join(blocks(text)), re.M)) == {"demo", "test"}
    assert {"demo", "test", "check", "bench", "docs"} <= targets


def test_the_readme_shows_what_make_demo_prints():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    begin, end = "<!-- recording of make demo -->", "<!-- end of recording -->"
    recording = text[text.index(begin) + len(begin) : text.index(end)]
    (shown,) = blocks(recording)
    lines = shown.splitlines()
    decision = re.compile(r" +\d+\.\d\d s  (\d|none) +\d+\.\d%  (lite|full) .*truth (\d|none)$")
    assert sum(bool(decision.match(line)) for line in lines) >= 3
    table = [line.split()[0] for line in lines if line]
    for row in ("decisions", "tiers", "accuracy", "latency", "age"):
        assert row in table, f"the closing table has no {row}"


def test_every_how_to_is_in_the_index():
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    for path in (ROOT / "docs/how-to").glob("*.md"):
        assert f"(how-to/{path.name})" in index, path.name


def test_who_embeds_it_is_told_of_every_fault():
    from mla_edge.runtime import sense
    from mla_edge.runtime.vitals import SUSPECT

    text = (ROOT / "docs/how-to/embed.md").read_text()
    names = ", ".join(field.name for field in fields(sense.Fault))
    assert f"Fault({names})" in text
    told = (sense.LOST, sense.STALE, sense.ENDED, sense.BACK, *SUSPECT)
    assert [what for what in told if f"`{what}`" not in text] == []


def test_decisions_are_numbered_once():
    names = sorted(path.name for path in (ROOT / "docs/decisions").glob("*.md"))
    numbers = [name[:4] for name in names]
    assert all(re.fullmatch(r"\d{4}-[a-z0-9.-]+\.md", name) for name in names)
    assert len(set(numbers)) == len(numbers)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no git checkout")
def test_nothing_speaks_of_the_machine_it_was_made_on():
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
    ).stdout.decode()
    wrong = re.compile(r"/(work|opt|root|tmp|farm)/[a-z]")
    for name in filter(None, listed.split("\0")):
        data = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b""
        if b"\0" not in data and name != "tests/test_docs.py":
            for line in data.decode("utf-8", "replace").splitlines():
                assert not wrong.search(line), f"{name}: {line[:120]}"


@each_document
def test_a_named_wheel_is_that_of_this_version(path):
    named = set(re.findall(r"mla_edge-([^-]+)-py3", path.read_text()))
    assert named <= {mla_edge.__version__}
