"""``run``: a bundle on a camera and a microphone."""

import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional, Union

from mla_edge.cli import options
from mla_edge.cli.attended import Attended
from mla_edge.cli.decisions import JsonLines, Words
from mla_edge.cli.follow import Follower
from mla_edge.cli.interrupts import Interrupts
from mla_edge.cli.outputs import end_output, own_stderr, say
from mla_edge.cli.web import serving
from mla_edge.errors import CaptureError, ConfigError, MissingDependency, MlaEdgeError

if TYPE_CHECKING:
    from mla_edge.bundle import Bundle
    from mla_edge.runtime.auditing import Alarm
    from mla_edge.runtime.guard import Guard
    from mla_edge.runtime.model import FusedModel
    from mla_edge.runtime.recorder import Recorder

NO_SOURCE = "none"


def run(
    camera: options.Camera = "0",
    mic: options.Mic = "default",
    bundle: options.Bundle = None,
    duration: options.Duration = None,
    rate: options.Rate = None,
    max_age_ms: options.MaxAge = 500.0,
    mask_suspect: options.MaskSuspect = False,
    deadline_ms: options.Deadline = None,
    reuse_ms: options.Reuse = None,
    audit_rate: options.AuditRate = None,
    power_budget_w: options.PowerBudget = None,
    no_heat_guard: options.NoHeatGuard = False,
    threads: options.Threads = None,
    engine: options.Engine = "auto",
    as_fast_as_possible: options.AsFastAsPossible = False,
    web: options.Web = None,
    as_json: options.JsonLines = False,
) -> None:
    """Run a bundle on a camera and a microphone.

    Decisions go to stdout, words to stderr. Ctrl-C and SIGTERM end it with the summary and exit
    code 130; --duration, and the end of all files, with 0.
    """
    settings = {
        "rate_hz": rate,
        "max_age_ms": max_age_ms,
        "mask_suspect": mask_suspect,
        "duration_s": duration,
        "as_fast_as_possible": as_fast_as_possible,
    }
    wanted = {"camera": camera, "microphone": mic}
    opening = {
        "engine": engine,
        "threads": threads,
        "deadline_ms": deadline_ms,
        "reuse_ms": reuse_ms,
        "audit_rate": audit_rate or None,
    }
    guarding = {"power_budget_w": power_budget_w, "heat": not no_heat_guard}
    run_bundle(wanted, settings, bundle, opening, guarding, web=web, as_json=as_json)


def run_bundle(
    wanted: Dict[str, str],
    settings: Dict[str, Any],
    bundle: Optional[Path],
    opening: Dict[str, Any],
    guarding: Dict[str, Any],
    *,
    web: Optional[int],
    as_json: bool,
    record: "Optional[Callable[[FusedModel], Recorder]]" = None,
) -> None:
    """Run with the sources that are ``wanted``; ``record`` opens what notes it all.

    ``opening`` is what ``mla_edge.load`` takes besides the folder, and ``guarding`` what
    ``mla_edge.open_guard`` does.
    """
    import mla_edge

    if set(wanted.values()) == {NO_SOURCE}:
        raise ConfigError(
            "--camera none and --mic none leave nothing to run on",
            hint="give at least one, for example --camera sim://digits",
        )
    with own_stderr(), Interrupts() as interrupts, ExitStack() as stack:
        guard = stack.enter_context(mla_edge.open_guard(**guarding))
        opening = {**opening, "guard": guard}
        service = stack.enter_context(
            Attended(lambda: load(choose_bundle(bundle), opening), reloads=record is None)
        )
        model = service.model.model
        if guarding["power_budget_w"] is not None and len(model.bundle.tiers) == 1:
            say(
                "the bundle has one tier: there is no cheaper one to answer instead, so "
                "nothing is done about the power budget"
            )
        fast = settings["as_fast_as_possible"]
        sources = open_sources(stack, model.bundle, wanted, fast)
        recorder = stack.enter_context(record(model)) if record is not None else None
        view = stack.enter_context(serving(service.model, web, settings["rate_hz"]))
        output = _open_output(stack, model.bundle, as_json, guard)
        try:
            follower = Follower(output, interrupts, recorder, service.deadline_ms, view, guard)
            _run(service, sources, settings, follower)
        except BrokenPipeError:  # the reader has left
            end_output()


def _open_output(
    stack: ExitStack, bundle: "Bundle", as_json: bool, guard: "Guard"
) -> Union[JsonLines, Words]:
    if as_json:
        return JsonLines(bundle.inputs)
    if not sys.stdout.isatty():
        return Words()
    from mla_edge.cli.live import open_panel  # loads rich

    return stack.enter_context(open_panel(bundle.inputs, guard))


def _run(
    service: Attended, sources: Dict[str, Any], settings: Dict[str, Any], follower: Follower
) -> None:
    import mla_edge
    from mla_edge.signals import find_inputs

    recorder, view, seen = follower.recorder, follower.view, dict(sources)
    if recorder is not None:
        seen = {name: recorder.watch(source) for name, source in seen.items()}
    if view is not None:
        seen = {name: view.watch(name, source) for name, source in seen.items()}
    start_s = time.monotonic()
    follower.follow(
        mla_edge.run(
            service.model,
            seen.get("camera"),
            seen.get("microphone"),
            on_fault=follower.on_fault,
            stopped=service.attend,
            **settings,
        )
    )
    seconds = time.monotonic() - start_s
    if not (follower.summary.decisions or follower.failure or follower.interrupted):
        why = "; ".join(f"{name}: {reason}" for name, reason in follower.reasons.items())
        follower.failure = CaptureError(
            f"no decision was made, for no source gave anything ({why or 'the run was short'})",
            hint="look at the devices: mla-edge doctor",
        )
    service.stopping()
    specs = find_inputs(service.model.bundle.inputs)
    drops = {specs[name].name: source.drops for name, source in sources.items()}
    shown = follower.to_dict(seconds=seconds, drops=drops)
    shown["audits"] = audits_of(service.model.model)
    if recorder is not None:
        recorder.close()
        shown["recording"] = recorder.to_dict()
        follower.failure = follower.failure or recorder.failure
    follower.end(shown)


def choose_bundle(bundle: Optional[Path]) -> Path:
    """The bundle that was given, or the newest that fits this machine, which is told."""
    from mla_edge.runtime.selection import select_bundle

    if bundle is not None:
        return bundle
    chosen = select_bundle(Path())
    say(f"bundle {chosen.folder}, made {chosen.created}")
    return chosen.folder


def load(folder: Path, opening: Dict[str, Any]) -> "FusedModel":
    """The model of the bundle in ``folder``; what is to be known of it is told."""
    import mla_edge

    model = mla_edge.load(folder, **opening)
    if model.note:
        say(model.note)
    if model.auditor is not None:
        model.auditor.on_alarm = _tell_alarm
    return model


def _tell_alarm(alarm: "Alarm") -> None:
    say(str(alarm))


def audits_of(model: "FusedModel") -> Optional[Dict[str, Any]]:
    """What came of the audits, by mode; None: nothing is audited."""
    return None if model.auditor is None else model.auditor.to_dict()


def open_sources(
    stack: ExitStack, bundle: "Bundle", wanted: Dict[str, str], as_fast_as_possible: bool
) -> Dict[str, Any]:
    """Open of ``camera`` and ``microphone`` what is wanted and has an input in the bundle."""
    import mla_edge
    from mla_edge.runtime.capture import check_pace
    from mla_edge.signals import SENSES, find_inputs

    flags = {"camera": "--camera", "microphone": "--mic"}
    specs = find_inputs(bundle.inputs)
    opened: Dict[str, Any] = {}
    for name, source in wanted.items():
        if source == NO_SOURCE:
            continue
        if name not in specs:
            kinds = " or ".join(SENSES[name])
            say(f"{flags[name]} is not used: the bundle takes no {kinds}")
            continue
        spec = specs[name]
        try:
            opened[name] = stack.enter_context(
                mla_edge.open_camera(source, as_fast_as_possible=as_fast_as_possible)
                if name == "camera"
                else mla_edge.open_microphone(
                    source,
                    rate_hz=spec.rate_hz or 0,
                    window_s=spec.window_s,
                    as_fast_as_possible=as_fast_as_possible,
                )
            )
        except (CaptureError, MissingDependency) as error:
            others = [other for other in wanted if other != name and other in specs]
            if any(wanted[other] != NO_SOURCE for other in others):
                _add_hint(error, f"or run without it: {flags[name]} none")
            _add_hint(error, f"or on the simulator: {flags[name]} sim://digits")
            raise
    if not opened:
        raise ConfigError(
            f"{bundle.name} takes {', '.join(spec.kind for spec in specs.values())}, and no "
            "source of that was given",
            hint="leave the `none` away",
        )
    if as_fast_as_possible:
        check_pace(opened.get("camera"), opened.get("microphone"))
    return opened


def _add_hint(error: MlaEdgeError, hint: str) -> None:
    error.hint = f"{error.hint}\n  {hint}" if error.hint else hint
