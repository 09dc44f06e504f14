"""A new bundle in the place of the one that runs, without missing a decision."""

from __future__ import annotations

import threading
import time
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
        self._thread: threading.Thread | None = None
        self._here = False  # the deciding thread is to open the next model
        self._opened: FusedModel | MlaEdgeError | None = None

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
        self._model.shows = shows

    def reload(self) -> None:
        """Begin to open a new model, unless that is under way; returns at once.

        Not for two threads at a time.
        """
        if self._model.engines_key:
            self._here = True
        elif self._thread is None:
            self._thread = threading.Thread(target=self._load_ahead, name="mla-edge-reload")
            self._thread.start()

    def infer(self, sample: Sample, *, clock: Clock = time.monotonic) -> Prediction:
        """As ``FusedModel.infer``, by the newest model that is open."""
        if self._here:
            self._here = False
            self._opened = self._load()
        if self._opened is not None:
            self._swap()
        return self._model.infer(sample, clock=clock)

    def settle(self) -> None:
        """As ``FusedModel.settle``."""
        self._model.settle()

    def close(self) -> None:
        """Free the engines, also of a model that was being opened."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if isinstance(self._opened, FusedModel):
            self._opened.close()
        self._opened = None
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

    def _load_ahead(self) -> None:
        opened = self._load()
        if isinstance(opened, FusedModel) and opened.engines_key:
            opened.close()  # its engines would be of this thread
            self._here = True
        else:
            self._opened = opened

    def _load(self) -> FusedModel | MlaEdgeError:
        try:
            opened = self._open()
        except MlaEdgeError as error:
            return error
        if opened.bundle.inputs == self._model.bundle.inputs:
            return opened
        opened.close()
        return ConfigError(
            f"{opened.bundle.folder} takes other inputs than {self._model.bundle.folder}: "
            "cameras and microphones were opened for those",
            hint="stop, and run it anew",
        )

    def _swap(self) -> None:
        opened, self._opened = self._opened, None
        if self._thread is not None:
            self._thread.join()  # it has nothing left to do
            self._thread = None
        if isinstance(opened, FusedModel):
            before, self._model = self._model, opened
            opened.shows = before.shows
            before.close()
            self._on_reload(None)
        else:
            self._on_reload(opened)
