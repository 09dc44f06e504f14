"""Shows decisions as they are made, counts them, and ends as their end was."""

from contextlib import closing
from typing import TYPE_CHECKING, Any, Dict, Generator, Mapping, Optional, Union

import typer

from mla_edge.cli.decisions import JsonLines, Words
from mla_edge.cli.failures import INTERRUPTED
from mla_edge.cli.interrupts import Interrupts
from mla_edge.errors import CaptureError, InferenceError, MlaEdgeError, RecordingError

if TYPE_CHECKING:
    from mla_edge.runtime.guard import Guard
    from mla_edge.runtime.recorder import Recorder
    from mla_edge.runtime.sense import Fault
    from mla_edge.runtime.web.view import View
    from mla_edge.signals import Prediction


class Follower:
    """Give it the faults and the decisions; then say how it ended."""

    def __init__(
        self,
        output: Union[JsonLines, Words],
        interrupts: Interrupts,
        recorder: "Optional[Recorder]" = None,
        deadline_ms: Optional[float] = None,
        view: "Optional[View]" = None,
        guard: "Optional[Guard]" = None,
    ) -> None:
        """No interrupt comes between showing something and counting it."""
        from mla_edge.runtime.summary import Summary

        self.summary = Summary(deadline_ms)
        self.reasons: Dict[str, str] = {}  # by modality: why it was left out last
        self.failure: Optional[MlaEdgeError] = None
        self.interrupted = False
        self._output = output
        self._interrupts = interrupts
        self.recorder = recorder
        self.view = view
        self._guard = guard
        self._told_stop = False

    def on_fault(self, fault: "Fault") -> None:
        """Show and count a fault."""
        from mla_edge.runtime.sense import ENDED

        with self._interrupts.held():
            self.summary.add_fault(fault)
            if self.recorder is not None:
                self.recorder.add_fault(fault)
            if self.view is not None:
                self.view.add_fault(fault)
            self._output.show_fault(fault)
        if fault.what != ENDED or fault.modality not in self.reasons:  # an end explains least
            self.reasons[fault.modality] = fault.why

    def follow(self, predictions: "Generator[Prediction, None, None]") -> None:
        """Show and count all of them; a failure of theirs and an interrupt are kept."""
        try:
            with closing(predictions):
                for prediction in predictions:
                    with self._interrupts.held():
                        self._show(prediction)
        except KeyboardInterrupt:
            self.interrupted = True
        except (InferenceError, CaptureError, RecordingError) as error:
            self.failure = error  # what was measured until then counts all the same

    def to_dict(self, *, seconds: float, drops: "Mapping[str, int]") -> Dict[str, Any]:
        """The summary of so many seconds, with what the board came to, where it is watched."""
        shown = self.summary.to_dict(seconds=seconds, drops=drops)
        if self._guard is not None:
            self._tell_news()
            decisions = self.summary.decisions
            shown["board"] = self._guard.to_dict(decisions=decisions, seconds=seconds)
        return shown

    def end(self, shown: Dict[str, Any]) -> None:
        """Print the summary; raise the failure, or the exit of an interrupt."""
        if self.failure is None:  # which says it otherwise
            self._tell_stop()
        self._output.close(shown, self.failure)
        if self.failure is not None:
            raise self.failure
        if self.interrupted:
            raise typer.Exit(INTERRUPTED)

    def _show(self, prediction: "Prediction") -> None:
        self.summary.add(prediction)
        recorder = self.recorder
        if recorder is not None:
            recorder.add(prediction)
        if self.view is not None:
            self.view.add(prediction)
        self._output.show(prediction)
        self._tell_news()
        self._tell_stop("; deciding goes on")

    def _tell_news(self) -> None:
        for words in self._guard.news() if self._guard is not None else ():
            self._output.say(words)

    def _tell_stop(self, more: str = "") -> None:
        recorder = self.recorder
        if recorder is not None and recorder.stopped and not self._told_stop:
            self._told_stop = True
            self._output.say(f"recording stopped: {recorder.stopped}{more}")
