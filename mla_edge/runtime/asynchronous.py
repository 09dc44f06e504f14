"""The loop for programs that run on asyncio."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, AsyncGenerator, Callable, Generator

from mla_edge.runtime.capture import Camera, Microphone
from mla_edge.runtime.model import FusedModel
from mla_edge.runtime.sense import Fault
from mla_edge.runtime.session import Model, run
from mla_edge.signals import Prediction


async def run_async(
    model: Model | Callable[[], FusedModel],
    camera: Camera | None,
    microphone: Microphone | None,
    *,
    on_fault: Callable[[Fault], None] | None = None,
    stopped: Callable[[], bool] | None = None,
    **options: Any,
) -> AsyncGenerator[Prediction, None]:
    """As ``run``, on a thread of its own, for ``async for``; the event loop is never blocked.

    Each decision is made when it is asked for, on what is newest then: a slow reader gets fewer
    decisions, and never an old one. ``on_fault`` is called on the event loop. ``model`` may be
    a function that loads it: it is then loaded, used and closed on that one thread, as
    TensorRT's engines want it. ``options`` are those of ``run``. When the reader leaves or is
    cancelled, the thread ends within one wait and one decision. Raises what ``run`` and the
    function raise.
    """
    events = asyncio.get_running_loop()
    left = threading.Event()

    def tell(fault: Fault) -> None:
        if on_fault is not None:
            events.call_soon_threadsafe(on_fault, fault)

    def decide() -> Generator[Prediction, None, None]:
        with ExitStack() as stack:
            used = stack.enter_context(model()) if callable(model) else model
            yield from run(
                used,
                camera,
                microphone,
                on_fault=tell,
                stopped=lambda: left.is_set() or (stopped is not None and stopped()),
                **options,
            )

    predictions = decide()
    with ThreadPoolExecutor(1, thread_name_prefix="mla-edge-run") as thread:
        try:
            while True:
                prediction = await events.run_in_executor(thread, next, predictions, None)
                if prediction is None:
                    return
                yield prediction
        finally:
            left.set()
            await events.run_in_executor(thread, predictions.close)
