import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing

import pytest

import mla_edge
from mla_edge.cli.attended import Attended
from mla_edge.errors import CaptureError, ConfigError
from mla_edge.runtime.service import Service
from mla_edge.testing import FakeCamera, FakeMicrophone


@pytest.fixture
def manager(tmp_path):
    """What systemd is to a service: a datagram socket."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listening:
        listening.settimeout(20)
        listening.bind(str(tmp_path / "notify"))
        yield listening


def heard(manager):
    return manager.recv(4096).decode()


def settings(manager, **more):
    return {"NOTIFY_SOCKET": manager.getsockname(), **more}


def test_what_the_manager_hears(manager):
    with Service(settings(manager)) as service:
        service.ready("deciding")
        service.reloading()
        service.stopping()
    assert heard(manager) == "READY=1\nSTATUS=deciding"
    reloading, moment = heard(manager).split("\n")
    assert reloading == "RELOADING=1"
    assert 0 <= time.monotonic() - int(moment[len("MONOTONIC_USEC=") :]) / 1e6 < 1
    assert heard(manager) == "STOPPING=1"


def test_four_beats_in_the_time_of_the_watchdog(manager):
    own = settings(manager, WATCHDOG_USEC="400000", WATCHDOG_PID=str(os.getpid()))
    with Service(own) as service:
        end_s = time.monotonic() + 0.45
        while time.monotonic() < end_s:
            service.beat()
        manager.setblocking(False)
        beats = 0
        with pytest.raises(BlockingIOError):
            while heard(manager) == "WATCHDOG=1":
                beats += 1
    assert 4 <= beats <= 5


@pytest.mark.parametrize("environment", [{}, {"WATCHDOG_USEC": "1000"}])
def test_without_a_manager_nothing_is_sent(environment):
    with Service(environment) as service:
        assert not service.there
        service.ready("x")
        service.beat()


def test_another_process_watchdog_is_not_ours(manager):
    with Service(settings(manager, WATCHDOG_USEC="1000", WATCHDOG_PID="1")) as service:
        service.beat()
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):
            heard(manager)


def test_a_manager_that_is_gone_does_not_end_the_run(manager, tmp_path):
    with Service(settings(manager)) as service:
        (tmp_path / "notify").unlink()
        service.ready("x")


def test_an_address_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="NOTIFY_SOCKET is 'tcp:1'"):
        Service({"NOTIFY_SOCKET": "tcp:1"})


def test_a_run_tells_reloads_at_sighup_and_says_its_end(here, manager):
    words = ["-m", "mla_edge", "run", "--camera", "sim://digits", "--mic", "none"]
    environment = {**os.environ, **settings(manager, WATCHDOG_USEC="2000000")}
    running = subprocess.Popen(
        [sys.executable, *words],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert heard(manager).startswith("READY=1\nSTATUS=deciding with colours-host")
        assert heard(manager) == "WATCHDOG=1"
        running.send_signal(signal.SIGHUP)
        said = [heard(manager) for _ in range(4)]
        said = [text.split("\n")[0] for text in said if text != "WATCHDOG=1"]
        assert said[:2] == ["RELOADING=1", "READY=1"]
        running.terminate()
        while (text := heard(manager)) == "WATCHDOG=1":
            pass
        assert text == "STOPPING=1"
        assert running.wait(20) == 130
    finally:
        running.kill()
        _, errors = running.communicate()
    assert "reloaded " in errors


def test_a_reload_ends_also_while_both_sensors_are_lost(small_bundle, manager, monkeypatch):
    """Nothing is decided then, and so no decision takes the new model."""
    monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
    cable = dict.fromkeys(range(1000), CaptureError("the cable is out"))
    eyes, ears = FakeCamera([], faults=cable), FakeMicrophone([], faults=cable)
    with Attended(lambda: mla_edge.load(small_bundle.folder), reloads=False) as service:
        first = service.model.model
        service._hang_up(signal.SIGHUP, None)
        run = mla_edge.run(service.model, eyes, ears, stopped=service.attend, duration_s=1)
        assert list(run) == []
        assert service.model.model is not first
    said = [heard(manager).split("\n")[0] for _ in range(3)]
    assert said == ["READY=1", "RELOADING=1", "READY=1"]
