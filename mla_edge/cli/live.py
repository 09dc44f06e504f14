"""How ``run`` shows itself on a terminal: a line for each new label, a panel below them."""

import time
from collections import deque
from contextlib import contextmanager
from typing import Any, Callable, Deque, Dict, Iterator, List, Optional, Sequence, Tuple

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mla_edge.cli.decisions import Words, in_words
from mla_edge.runtime.guard import Guard
from mla_edge.runtime.sense import BACK, Fault
from mla_edge.signals import InputSpec, Prediction

REFRESH_S = 0.25
"""Drawing takes some milliseconds, which a board has better uses for."""

KEPT = 240  # decisions behind the curves and the medians
CURVE = 30  # characters
LEVELS = "▁▂▃▄▅▆▇█"
BAR = 24


@contextmanager
def open_panel(inputs: Sequence[InputSpec], guard: Optional[Guard] = None) -> Iterator[Words]:
    """A panel that is gone afterwards, however the run ended; words on a dumb terminal."""
    console = Console(highlight=False)
    if console.is_dumb_terminal:
        yield Words()
        return
    panel = LivePanel(inputs, console, guard=guard)
    try:
        yield panel
    finally:
        panel.stop()  # or the cursor stays hidden


class LivePanel(Words):
    """A line for each change of the label, and a panel that is always up to date."""

    def __init__(
        self,
        inputs: Sequence[InputSpec],
        console: Console,
        clock: Callable[[], float] = time.monotonic,
        guard: Optional[Guard] = None,
    ) -> None:
        """Draw on ``console`` from the first decision on, of the board what ``guard`` sees."""
        super().__init__(clock)
        self._guard = guard
        self._names = [spec.name for spec in inputs]
        self._console = console
        self._panel = Live(
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._drawn_s = float("-inf")
        self._decisions = 0
        self._recent: Deque[Tuple[float, float, float]] = deque(maxlen=KEPT)
        self._faults: Dict[str, Fault] = {}  # that are not over, by modality

    def show(self, prediction: Prediction) -> None:
        """Print a line if the label is another one; bring the panel up to date."""
        now_s = self._clock()
        self._decisions += 1
        self._recent.append((now_s, prediction.latency_ms, prediction.age_ms))
        if prediction.label != self._label:
            self._label = prediction.label
            self._console.print(self._line(prediction), markup=False, soft_wrap=True)
        if now_s - self._drawn_s >= REFRESH_S:
            self._drawn_s = now_s
            self._panel.start()
            self._panel.update(self._draw(prediction), refresh=True)

    def show_fault(self, fault: Fault) -> None:
        """Say it on stderr, on a line of its own, and remember it until it is over."""
        if fault.what == BACK:
            self._faults.pop(fault.modality, None)
        else:
            self._faults[fault.modality] = fault
        self.say(in_words(fault))

    def stop(self) -> None:
        """Take the panel away; the next decision brings it back, below what was said."""
        self._panel.stop()
        self._drawn_s = float("-inf")

    def _end_live_line(self) -> None:
        self.stop()

    def _draw(self, prediction: Prediction) -> Panel:
        times = [row[0] for row in self._recent]
        span_s = times[-1] - times[0]
        rate = f"{(len(times) - 1) / span_s:.1f} a second" if span_s > 0 else ""
        filled = round(BAR * prediction.confidence)
        sure = Text.assemble(
            ("█" * filled, "green"),
            ("░" * (BAR - filled), "dim"),
            f" {prediction.confidence:6.1%}",
        )
        rows: List[Tuple[str, Any]] = [
            ("decision", Text.assemble((f"{prediction.label:<8}", "bold"), sure)),
            (
                "tier",
                Text.assemble(
                    (prediction.tier, "bold"), f", {prediction.reason}", _truth(prediction)
                ),
            ),
            *((name, self._sense(name, prediction)) for name in self._names),
            ("latency", _curve([row[1] for row in self._recent])),
            ("age", _curve([row[2] for row in self._recent])),
        ]
        if self._guard is not None and self._guard.watches:
            style = "yellow" if self._guard.rung.number else ""
            rows.append(("board", Text(self._guard.in_words(), style=style)))
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim")
        table.add_column(no_wrap=True)
        for name, shown in rows:
            table.add_row(name, shown)
        return Panel(
            table,
            title=f"{self._decisions} decisions",
            subtitle=rate,
            title_align="left",
            subtitle_align="left",
            expand=False,
            border_style="dim",
        )

    def _sense(self, name: str, prediction: Prediction) -> Text:
        fault = self._faults.get(name)
        age = prediction.ages_ms.get(name)
        if age is None:
            why = f"left out{f', {fault.what}' if fault is not None else ''}"
            return Text(why, style="red")
        style = "yellow" if fault is not None else "green"
        return Text.assemble((fault.what if fault else "ok", style), f"  {age:.0f} ms old")


def _truth(prediction: Prediction) -> str:
    return "" if prediction.truth is None else f", truth {prediction.truth}"


def _curve(values: Sequence[float]) -> Text:
    """The last values as columns, with the median and the largest of all."""
    top = max(max(values), 1e-9)
    levels = [LEVELS[min(int(v / top * len(LEVELS)), len(LEVELS) - 1)] for v in values[-CURVE:]]
    middle = sorted(values)[len(values) // 2]
    figures = f"  p50 {middle:.1f} ms  max {top:.1f} ms"
    return Text.assemble(("".join(levels).rjust(CURVE), "cyan"), figures)
