"""Print which names of TensorRT and pycuda mla_edge uses, against each version that it claims.

yes          the version has it
guarded      it has not, and the source asks for it first (hasattr)
not reached  it has not, and every way there needs another name that the version has not;
             which one, the note says
MISSING      none of these, or running everything on that version's fake asked for it all the
             same: then the exit status is 1
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[i]) for i in (2, 1, 0)]
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fakes"))

from fake_names import read_names  # noqa: E402
from reading import RTX, Use, read_sources  # noqa: E402
from recording import record  # noqa: E402

VERSIONS = ("8.6.1", "10.3.0", "11.4.0", "rtx-1.7.1")
PYCUDA = "pycuda-2026.1"
FAKED = {"8.6": "8.6.1", "10.3": "10.3.0", "11.4": "11.4.0"}
OF_PYCUDA = {
    *("driver", "Device", "Context", "Stream", "DeviceAllocation"),
    *("PagelockedHostAllocation", "device_attribute", "host_alloc_flags"),
}


def verdict(uses: list[Use], names: dict[str, list[str]]) -> str:
    """What one version says to the uses of one name, by the source alone."""
    called, member = uses[0].name
    if member in names.get(called, ()):
        return "yes"
    lacking = [
        [g for g in use.gates if g[1] == "*" or g[1] not in names.get(g[0], ())] for use in uses
    ]
    if not all(lacking):
        return "MISSING"
    mine = {(called, member), (called, "*"), ("tensorrt", called)} - {RTX}
    if all(mine & set(gates) for gates in lacking):
        return "guarded"
    others = {
        "the flavour rtx" if g == RTX else ".".join(g)
        for gates in lacking
        for g in gates
        if g != (called, "*")
    }
    return f"not reached ({', '.join(sorted(others))})"


def by_name(uses: list[Use]) -> dict[tuple[str, str], list[Use]]:
    """The uses of each name."""
    found: dict[tuple[str, str], list[Use]] = {}
    for use in uses:
        found.setdefault(use.name, []).append(use)
    return dict(sorted(found.items()))


def table() -> list[tuple[str, list[str]]]:
    """Each used name, and the verdict of each version."""
    lists = {version: read_names(version) for version in (*VERSIONS, PYCUDA)}
    reached = {FAKED[version]: record(version)[0] for version in FAKED}
    rows = []
    for name, uses in by_name(read_sources()).items():
        row = []
        for version in (PYCUDA,) if name[0] in OF_PYCUDA else VERSIONS:
            found = verdict(uses, lists[version])
            ran = reached.get(version)
            if found not in ("yes", "MISSING") and ran is not None and name in ran:
                found = "MISSING"  # what the source seems to say is wrong
            row.append(found)
        rows.append((".".join(name), row))
    return rows


def main() -> int:
    """Print the table."""
    rows = table()
    width = max(len(name) for name, _ in rows)
    print(
        f"{'name':{width}}  " + "  ".join(f"{v:13}" for v in VERSIONS) + "  (or " + PYCUDA + ")"
    )
    notes: list[str] = []
    for name, row in rows:
        shown = []
        for cell in row:
            word, _, note = cell.partition(" (")
            if note and note.rstrip(")") not in notes:
                notes.append(note.rstrip(")"))
            shown.append(f"{word} {notes.index(note.rstrip(')')) + 1}" if note else word)
        print(f"{name:{width}}  " + "  ".join(f"{cell:13}" for cell in shown))
    for number, note in enumerate(notes, 1):
        print(f"not reached {number}: only where there is {note}")
    missing = [name for name, row in rows if "MISSING" in row]
    print(f"{len(rows)} names, {len(missing)} missing {missing or ''}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
