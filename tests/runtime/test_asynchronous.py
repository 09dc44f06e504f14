import asyncio
import threading
import time
from functools import partial

import pytest
from colours import frame, sound

import mla_edge
from mla_edge.errors import CaptureError, ConfigError
from mla_edge.testing import FakeCamera, FakeMicrophone

NAME = "mla-edge-run"


@pytest.fixture
def model(small_bundle):
    with mla_edge.load(small_bundle.folder, threads=1) as loaded:
        yield loaded


def camera(count=10**6, **faults):
    return FakeCamera([frame("red")] * count, period_s=0.01, **faults)


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith(NAME)]


def test_decisions_come_as_they_are_made_and_nothing_else_waits(model):
    async def main():
        turns = 0

        async def other():
            nonlocal turns
            while True:
                await asyncio.sleep(0.005)
                turns += 1

        beside = asyncio.ensure_future(other())
        found = [p async for p in mla_edge.run_async(model, camera(20), None)]
        beside.cancel()
        return found, turns

    found, turns = asyncio.run(main())
    assert len(found) == 20
    assert {p.label for p in found} == {"red"}
    assert turns >= 10
    assert threads() == []


def test_a_slow_reader_gets_fewer_decisions_and_no_old_one(model):
    async def main():
        predictions = mla_edge.run_async(model, camera(), None, duration_s=0.5)
        found = []
        async for prediction in predictions:
            found.append((time.monotonic() - prediction.capture_time_s["image"]) * 1e3)
            await asyncio.sleep(0.1)
        return found

    ages = asyncio.run(main())
    assert 3 <= len(ages) <= 6
    assert max(ages) < 60


def test_a_reader_that_leaves_or_is_cancelled_leaves_no_thread(model):
    async def leave():
        predictions = mla_edge.run_async(model, camera(), None)
        async for _ in predictions:
            break
        assert threads()
        await predictions.aclose()

    asyncio.run(leave())
    assert threads() == []

    async def forever(silent):
        async for _ in mla_edge.run_async(model, silent, None):
            pass

    async def cancel():
        silent = camera(faults=dict.fromkeys(range(10**4), CaptureError("the cable is out")))
        task = asyncio.ensure_future(forever(silent))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert threads() == []


def test_faults_are_told_on_the_event_loop(model):
    told = []

    async def main():
        lost = camera(30, faults={5: CaptureError("the cable is out")})
        ears = FakeMicrophone([sound("green")] * 1000, period_s=0.02)
        options = {"duration_s": 0.4, "on_fault": on_fault}
        return [p async for p in mla_edge.run_async(model, lost, ears, **options)]

    def on_fault(fault):
        told.append((fault.what, threading.current_thread() is threading.main_thread()))

    asyncio.run(main())
    assert ("lost", True) in told
    assert all(on_main for _, on_main in told)


def test_a_function_loads_the_model_on_the_thread_that_uses_and_frees_it(small_bundle):
    where = []

    def load():
        where.append(threading.current_thread().name)
        opened = mla_edge.load(small_bundle.folder, threads=1)
        close = opened.close
        opened.close = lambda: (where.append(threading.current_thread().name), close())
        return opened

    async def main():
        return [p async for p in mla_edge.run_async(load, camera(5), None)]

    assert len(asyncio.run(main())) == 5
    assert len(where) == 2
    assert all(name.startswith(NAME) for name in where)


def test_what_is_wrong_is_raised_where_it_is_read(model):
    async def main(**options):
        async for _ in mla_edge.run_async(model, camera(), None, **options):
            pass

    with pytest.raises(ConfigError, match="rate_hz is -1"):
        asyncio.run(main(rate_hz=-1))
    with pytest.raises(TypeError, match="speed"):
        asyncio.run(main(speed=2))


@pytest.mark.parametrize("rate_hz", [None, 0.1])
def test_stopped_ends_a_run_from_outside(model, rate_hz):
    stop = threading.Event()
    began = time.monotonic()
    threading.Timer(0.2, stop.set).start()
    run = partial(mla_edge.run, model, camera(), None, rate_hz=rate_hz)
    found = list(run(stopped=stop.is_set))
    assert 0.15 < time.monotonic() - began < 1.0
    assert len(found) >= 1
