"""``inspect`` and ``verify``: what a bundle holds, and whether it is right on this machine."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Optional

import typer
from typing_extensions import Annotated

from mla_edge.bundle import MANIFEST, Bundle
from mla_edge.certificate import Certificate, read_certificate
from mla_edge.errors import BundleError

_REPORT = "report.json"

Folder = Annotated[Path, typer.Argument(help="The folder that export wrote.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def inspect(bundle: Folder, as_json: AsJson = False) -> None:
    """Show what is inside a bundle."""
    opened = Bundle.read(bundle)
    sizes = {name: _size(opened.folder / name) for name in opened.files}
    report, certificate = _report(opened), read_certificate(opened)
    if as_json:
        shown = {**asdict(opened), "folder": str(opened.folder), "sizes_bytes": sizes}
        shown["certificate"] = asdict(certificate) if certificate else None
        typer.echo(json.dumps({**shown, "report": report}, indent=2))
    else:
        typer.echo("\n".join(_describe(opened, sizes, report, certificate)))


def verify(bundle: Folder, as_json: AsJson = False) -> None:
    """Prove a bundle on this machine: hashes, every graph loads, golden samples agree."""
    import mla_edge
    from mla_edge.engines import saturation
    from mla_edge.engines.opening import machines
    from mla_edge.engines.verification import verify as prove
    from mla_edge.engines.verification import verify_engines

    engines = ""
    opened = Bundle.read(bundle)
    checks = prove(opened)
    if machines(opened):
        found, engines = verify_engines(opened)
        checks += found
    mla_edge.load(bundle).close()  # what is proven must also run
    wrong = [check for check in checks if not check.ok]
    shown: Dict[str, Any] = {
        "checks": [{**asdict(check), "ok": check.ok} for check in checks],
        **({"engines_not_checked": engines} if engines else {}),
    }
    if as_json and not wrong:
        typer.echo(json.dumps({"ok": True, "problem": None, **shown}, indent=2))
    elif not as_json:
        typer.echo(f"{opened.name}: {len(opened.files)} files match their sha256")
        for check in checks:
            typer.echo(
                f"  {'ok   ' if check.ok else 'WRONG'} {check.tier} ({check.form}): "
                f"agrees with the float network on {check.match.top1_agreement:.1%} "
                f"of the golden samples (at least {check.required:.1%} required)"
            )
        if engines:
            typer.echo(f"  engines are not checked here: {engines}")
    if wrong:
        names = ", ".join(f"{check.tier} ({check.form})" for check in wrong)
        cut_off = all(check.form == "cpu" for check in wrong)
        advice = saturation.advice(opened) if cut_off else ""
        problem = BundleError(
            f"{bundle}: {names} does not answer as it did when it was exported",
            hint=advice
            or "do not use this bundle here; export it again and verify the new one",
        )
        problem.details.update(shown)
        raise problem


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise BundleError(
            f"{path}: {error.strerror}", hint="export the bundle again"
        ) from error


def _report(bundle: Bundle) -> Dict[str, Any]:
    if _REPORT not in bundle.files:
        return {}
    path = bundle.folder / _REPORT
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(
            f"{path}: cannot be read: {error}", hint="export the bundle again"
        ) from error
    if not isinstance(report, dict):
        raise BundleError(f"{path}: is not a report", hint="export the bundle again")
    return report


def _accuracy(bundle: Bundle, report: Dict[str, Any]) -> List[str]:
    """What the export measured on samples that nothing was fitted to."""
    if not report:
        return ["accuracy: the bundle has no report"]
    lines = ["accuracy, as measured when it was exported:"]
    try:
        for tier in report["tiers"]:
            for form, found in tier["agreement"].items():
                lines.append(
                    f"  {tier['name']} ({form}): {found['accuracy']:.1%} of "
                    f"{found['samples']} samples, float {found['float_accuracy']:.1%}"
                )
            lines.append(f"  {tier['name']}: TensorRT {tier['tensorrt']['status']}")
        for key, built in report.get("engines", {}).items():
            proof = built["proof"]
            said = proof["reason"] or (
                f"proven on {proof['samples']} golden samples, accuracy "
                f"{proof.get('accuracy', 'not judged')}"
            )
            lines.append(f"  engines {key}, {built['with']}: {said}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(
            f"{bundle.folder / _REPORT}: is not a report of this version: {error!r}",
            hint="export the bundle again",
        ) from error
    return lines


def _claims(certificate: Optional[Certificate]) -> List[str]:
    """What is certified of the routing, and how often that was tried."""
    if certificate is None:
        return ["certificate: none"]
    tried = len(certificate.attempts)
    lines = [f"certificate {certificate.id}, {tried} attempt{'s' if tried > 1 else ''}:"]
    for mode, each in certificate.modes.items():
        routed = (
            f"from {each.threshold:.7g} on"
            if each.pays
            else "full alone, routing would not pay"
        )
        lines.append(f"  {mode}: {routed}: {each.claim(mode)}")
        for rung in each.rungs if len(each.rungs) > 1 else ():
            lines.append(
                f"    at most {rung.epsilon:g}: from {rung.threshold:.7g} on, keeps "
                f"{rung.kept:.1%}"
            )
    sessions = certificate.sessions
    if sessions is not None:
        lines.append(f"  whole sessions: {sessions.claim()}")
    if not certificate.modes and sessions is None:
        lines.append("  nothing was certified")
    return [*lines, f"  holds for {certificate.identity.engine}"]


def _describe(
    bundle: Bundle,
    sizes: Dict[str, int],
    report: Dict[str, Any],
    certificate: Optional[Certificate],
) -> List[str]:
    total = sum(sizes.values()) + _size(bundle.folder / MANIFEST)
    lines = [
        f"{bundle.name}: {bundle.network} for {bundle.profile}, {total / 1e6:.1f} MB, "
        f"made {bundle.created}",
        f"labels: {' '.join(bundle.labels)}",
        "inputs:",
    ]
    for spec in bundle.inputs:
        unit = "frames a second" if spec.kind == "clip" else "Hz"
        rate = f" at {spec.rate_hz} {unit}" if spec.rate_hz else ""
        shape = " x ".join(map(str, spec.shape))
        lines.append(f"  {spec.name}: {spec.kind}, {shape}{rate}")
    lines.append("tiers:")
    for tier in bundle.tiers:
        cost = bundle.policy.cost_ms.get(tier.name)
        shown = f", {cost:.2f} ms on {bundle.policy.measured_on}" if cost is not None else ""
        lines.append(
            f"  {tier.name}: {', '.join(tier.inputs)} -> {', '.join(tier.outputs)}{shown}"
        )
    lines.append("routing (the first tier's answer is kept from this confidence on):")
    for mode, policy in bundle.policy.modes.items():
        lines.append(
            f"  {mode}: {policy.threshold:.3f} at temperature {policy.temperature:.2f}"
        )
    lines += _claims(certificate)
    lines += _accuracy(bundle, report)
    lines.append("files:")
    lines += [f"  {size / 1e6:8.3f} MB  {name}" for name, size in sorted(sizes.items())]
    return lines
