"""A new bundle in the place of the one that runs, without missing a decision."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Callable

from mla_edge.bundle import Bundle
from mla_edge.errors import ConfigError, MlaEdgeError
from mla_edge.runtime.auditing import Auditor
from mla_edge.runtime.guard import Restraint
from mla_edge.runtime.model import Clock, FusedModel
from mla_edge.signals import Prediction, Sample

OnReload = Callable[["MlaEdgeError | None"], None]


class ReloadingModel:
    """A model that can be replaced while it decides.

    ``reload`` opens another one on a thread of its own. The decision that comes after that is
    made by the new one. TensorRT's engines belong to the thread that opened them: where the
    model or the new one has such, the deciding thread opens the new one itself, and decides
    again when it is there.
    """

    def __init__(self, open_model: Callable[[], FusedModel], on_reload: OnReload) -> None:
        """Open the first model; its errors are raised here.

        ``on_reload`` is told of each reload on the deciding thread: None, or what was wrong;
        then the model stays that was there.
        """
        self._open = open_model
        self._on_reload = on_reload
        self._model = open_model()
        self._lock = threading.Lock()
        self._asked = self._answered = 0  # reloads
        self._thread: threading.Thread | None = None
        self._ahead: _Ahead | None = None  # what it opened, unless the deciding thread is to

    @property
    def bundle(self) -> Bundle:
        """The bundle that decides."""
        return self._model.bundle

    @property
    def model(self) -> FusedModel:
        """The model that decides."""
        return self._model

    @property
    def runs_on(self) -> str:
        """What runs the graphs."""
        return self._model.runs_on

    @property
    def auditor(self) -> Auditor | None:
        """What audits the model that decides, if anything does."""
        return self._model.auditor

    @property
    def guard(self) -> Restraint | None:
        """What may hold its last tier back."""
        return self._model.guard

    @property
    def shows(self) -> bool:
        """As ``FusedModel.shows``, of whichever model decides."""
        return self._model.shows

    @shows.setter
    def shows(self, shows: bool) -> None:
        with self._lock:  # else a model that is replaced just then may be the one that knows
            self._model.shows = shows

    def reload(self) -> None:
        """Begin to open a new model; returns at once.

        What decides then was opened after this call: a model that is on its way already is
        dropped for it. ``on_reload`` is told once, at the end.
        """
        with self._lock:
            self._asked += 1
            if self._thread is None and not self._model.engines_key:
                self._begin()

    def renew(self) -> None:
        """Take the new model, where there is one; on the deciding thread.

        ``infer`` does so first. A loop may do so too while it has nothing to decide on.
        """
        if self._answered == self._asked:
            return
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return
            number, ahead = self._asked, self._ahead
            self._thread = self._ahead = None
            if ahead is not None and ahead.number != number:  # it may be older than was asked
                ahead.close()
                self._begin()
                return
        opened = self._load() if ahead is None else ahead.opened
        self._answered = number
        self._swap(opened)

    def infer(self, sample: Sample, *, clock: Clock = time.monotonic) -> Prediction:
        """As ``FusedModel.infer``, by the newest model that is open."""
        self.renew()
        return self._model.infer(sample, clock=clock)

    def settle(self) -> None:
        """As ``FusedModel.settle``."""
        self._model.settle()

    def close(self) -> None:
        """Free the engines, also of a model that was being opened."""
        if self._thread is not None:
            self._thread.join()
        if self._ahead is not None:
            self._ahead.close()
        self._thread = self._ahead = None
        self._model.close()

    def __enter__(self) -> ReloadingModel:
        """Use the model in a ``with``."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Free the engines."""
        self.close()

    def _begin(self) -> None:
        self._thread = threading.Thread(
            target=self._load_ahead, args=(self._asked,), name="mla-edge-reload"
        )
        self._thread.start()

    def _load_ahead(self, number: int) -> None:
        opened = self._load()
        if isinstance(opened, FusedModel) and opened.engines_key:
            opened.close()  # its engines would be of this thread
        else:
            self._ahead = _Ahead(number, opened)

    def _load(self) -> FusedModel | MlaEdgeError:
        try:
            opened = self._open()
        except MlaEdgeError as error:
            return error
        except Exception as error:  # whatever it is, the old one goes on
            told = MlaEdgeError(
                f"the model could not be opened: {type(error).__name__}: {error}",
                hint="try again; if it fails again, prove the bundle: mla-edge verify",
            )
            told.__cause__ = error
            return told
        if opened.bundle.inputs == self._model.bundle.inputs:
            return opened
        opened.close()
        return ConfigError(
            f"{opened.bundle.folder} takes other inputs than {self._model.bundle.folder}: "
            "cameras and microphones were opened for those",
            hint="stop, and run it anew",
        )

    def _swap(self, opened: FusedModel | MlaEdgeError) -> None:
        if not isinstance(opened, FusedModel):
            self._on_reload(opened)
            return
        with self._lock:
            before, self._model = self._model, opened
            opened.shows = before.shows
        before.close()
        self._on_reload(None)


@dataclass(frozen=True)
class _Ahead:
    """What another thread opened, for which reload."""

    number: int
    opened: FusedModel | MlaEdgeError

    def close(self) -> None:
        """Drop it."""
        if isinstance(self.opened, FusedModel):
            self.opened.close()
