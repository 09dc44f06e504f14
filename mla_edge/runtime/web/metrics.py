"""The metrics of a run, as Prometheus reads them. The only module that imports its client."""

from __future__ import annotations

from itertools import accumulate
from typing import Iterator

import mla_edge
from mla_edge import health
from mla_edge.errors import MissingDependency
from mla_edge.runtime.guard import Guard
from mla_edge.runtime.web.view import BOUNDS_S, Buckets, View

try:
    from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
    )
    from prometheus_client.exposition import CONTENT_TYPE_LATEST
    from prometheus_client.registry import Collector
except ImportError as error:
    raise MissingDependency(
        f"the Prometheus client cannot be loaded, and the web view needs it: {error}",
        hint="pip install 'mla-edge[web]'",
    ) from error

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """The text of ``/metrics``; nothing is counted for it but what the view counts."""

    def __init__(self, view: View) -> None:
        """Of ``view``, and of this process."""
        self._registry = CollectorRegistry()
        self._registry.register(_Run(view))
        ProcessCollector(registry=self._registry)

    def render(self) -> bytes:
        """As they are now."""
        return generate_latest(self._registry)


class _Run(Collector):
    def __init__(self, view: View) -> None:
        self._view = view

    def collect(self) -> Iterator[Metric]:
        view = self._view
        info = GaugeMetricFamily(
            "mla_edge_info", "What runs; always 1.", labels=("bundle", "runs_on", "version")
        )
        model = view.model
        info.add_metric((model.bundle.name, model.runs_on, mla_edge.__version__), 1)
        yield info
        decisions = CounterMetricFamily(
            "mla_edge_decisions", "Decisions made.", labels=("tier", "mode", "reason")
        )
        for labels, count in view.counts.copy().items():
            decisions.add_metric(labels, count)
        yield decisions
        yield _histogram("mla_edge_latency_seconds", "How long decisions took.", view.latency)
        yield _histogram(
            "mla_edge_age_seconds", "How old the oldest signal that was used is.", view.age
        )
        faults = CounterMetricFamily(
            "mla_edge_faults", "Faults of the sensors.", labels=("modality", "what")
        )
        for (modality, what), count in view.fault_counts.copy().items():
            faults.add_metric((modality, what), count)
        yield faults
        drops = CounterMetricFamily(
            "mla_edge_dropped_signals",
            "Frames and sound that no decision could use in time.",
            labels=("modality",),
        )
        for name, count in view.drops().items():
            drops.add_metric((name,), count)
        yield drops
        yield from self._audits()
        yield from self._states()
        guard = view.guard
        if guard is not None:
            yield from _rung(guard)
        yield from _machine()

    def _audits(self) -> Iterator[Metric]:
        auditor = self._view.model.auditor
        if auditor is None:
            return
        audits = CounterMetricFamily(
            "mla_edge_audits", "Cheap decisions that full was asked about.", labels=("mode",)
        )
        others = CounterMetricFamily(
            "mla_edge_audit_disagreements", "Audits in which full said else.", labels=("mode",)
        )
        alarms = GaugeMetricFamily(
            "mla_edge_routing_alarm",
            "Whether audits disagree more often than was certified.",
            labels=("mode",),
        )
        for mode, (count, disagreements) in auditor.counts().items():
            audits.add_metric((mode,), count)
            others.add_metric((mode,), disagreements)
            alarms.add_metric((mode,), float(mode in auditor.alarms))
        yield from (audits, others, alarms)

    def _states(self) -> Iterator[Metric]:
        used = GaugeMetricFamily(
            "mla_edge_modality_used",
            "Whether the last decision used it.",
            labels=("modality",),
        )
        for name, (_, _, is_used) in self._view.states().items():
            used.add_metric((name,), float(is_used))
        yield used
        found = self._view.health()
        yield GaugeMetricFamily(
            "mla_edge_healthy", "Whether decisions are coming.", float(found.ok)
        )
        if found.age_s is not None:
            yield GaugeMetricFamily(
                "mla_edge_last_decision_age_seconds",
                "How long ago the last decision was made.",
                found.age_s,
            )


def _rung(guard: Guard) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "mla_edge_last_tier_share",
        "How much of what is left to it the last tier is asked for, for heat and power.",
        guard.rung.share,
    )


def _machine() -> Iterator[Metric]:
    heat = GaugeMetricFamily(
        "mla_edge_temperature_celsius", "Of each thermal zone.", labels=("zone",)
    )
    for zone, degrees in health.temperatures_c().items():
        heat.add_metric((zone,), degrees)
    if heat.samples:
        yield heat
    watts = health.power_w()
    if watts is not None:
        yield GaugeMetricFamily("mla_edge_power_watts", "Of the whole board.", watts)
    clocks = GaugeMetricFamily("mla_edge_clock_hertz", "At present.", labels=("clock",))
    for name, mhz in health.clocks_mhz().items():
        clocks.add_metric((name,), mhz * 1e6)
    if clocks.samples:
        yield clocks
    yield GaugeMetricFamily(
        "mla_edge_throttled",
        "How many parts have their clocks lowered because of heat.",
        len(health.throttled_by()),
    )


def _histogram(name: str, title: str, buckets: Buckets) -> Metric:
    totals = list(accumulate(buckets.counts))
    bounds = [*map(str, BOUNDS_S), "+Inf"]
    family = HistogramMetricFamily(name, title)
    family.add_metric((), list(zip(bounds, totals)), buckets.sum_s)
    return family
