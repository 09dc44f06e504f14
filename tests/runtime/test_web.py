"""What a browser and Prometheus get of a run, over real connections to one that goes on."""

import base64
import http.client
import json
import socket
import sys
import threading
import time
from itertools import islice

import numpy as np
import pytest
from colours import LABELS, frame, sound
from typer.testing import CliRunner
from web_client import events_of, running, until

import mla_edge
from mla_edge.cli import app
from mla_edge.cli.web import PORT, with_port
from mla_edge.errors import CaptureError, ConfigError, MissingDependency
from mla_edge.pictures import unpack
from mla_edge.runtime.web import server as serving
from mla_edge.runtime.web import view as viewing
from mla_edge.runtime.web.server import MOST_VIEWERS, WebServer
from mla_edge.runtime.web.view import View
from mla_edge.testing import FakeCamera, FakeMicrophone

SIMULATED = ["--camera", "sim://digits?size=96x64", "--mic", "sim://digits"]
CHEAP = 0.02  # seconds between signals of fakes


@pytest.fixture
def bundle(small_bundle):
    return small_bundle.folder


def fakes(count=10_000, **trouble):
    return {
        "camera": FakeCamera([frame("red")] * count, period_s=CHEAP, **trouble),
        "microphone": FakeMicrophone([sound("red")] * count, period_s=CHEAP, **trouble),
    }


def server_threads():
    return [t.name for t in threading.enumerate() if t.name.startswith("mla-edge web")]


def test_events_tell_what_runs_and_what_it_sees_hears_and_decides(bundle):
    with running(bundle, **fakes()) as run, run.events() as events:
        name, hello = next(events)
        assert name == "hello"
        assert hello["bundle"] == "colours-host"
        assert (hello["labels"], hello["tiers"]) == (list(LABELS), ["lite", "full"])
        assert {k: v["sensor"] for k, v in hello["inputs"].items()} == {
            "image": "camera",
            "audio": "microphone",
        }
        ticks = [message for name, message in islice(events, 8) if name == "tick"]
        full = [tick for tick in ticks if "picture" in tick][-1]
    decision = full["decision"]
    assert (decision["label"], decision["mode"]) == ("red", "image+audio")
    assert decision["best"][0] == ["red", pytest.approx(decision["confidence"], abs=1e-4)]
    assert set(decision["ages_ms"]) == {"image", "audio"}
    picture = unpack(base64.b64decode(full["picture"]["jpeg"]))
    assert picture.shape == (24, 32, 3)
    assert np.abs(picture.mean((0, 1)) - [255, 0, 0]).max() < 4
    assert full["picture"]["seen"] == [0.75, 1.0]  # 24 of its 32 columns
    bands, columns = full["sound"]["shape"]
    assert len(base64.b64decode(full["sound"]["bands"])) == bands * columns
    assert full["health"]["ok"]
    assert full["states"]["image"] == {"state": "ok", "why": "", "used": True}
    rows = [row for tick in ticks for row in tick["rows"]]
    assert len(rows) == ticks[-1]["decisions"]  # none is told twice or left out
    assert all(a[0] <= b[0] for a, b in zip(rows, rows[1:]))
    assert {row[3] for row in rows} <= {"lite", "full"}


def test_a_bundle_s_graphs_need_not_give_gate_and_attention(bundle):
    with running(bundle, **fakes()) as run, run.events() as events:
        tick = next(message for _, message in events if "picture" in message)
    assert tick["gate"] is None
    assert tick["picture"]["attention"] is None


def test_the_page_and_what_it_loads_are_there(bundle):
    with running(bundle, **fakes()) as run:
        for path, kind in (
            ("/", "text/html"),
            ("/page.css", "text/css"),
            ("/page.js", "text/javascript"),
            ("/traces.js", "text/javascript"),
        ):
            status, headers, body = run.get(path)
            assert status == 200
            assert headers["Content-Type"].startswith(kind)
            assert "default-src 'none'" in headers["Content-Security-Policy"]
            assert len(body) == int(headers["Content-Length"]) > 500
        assert run.get("/../view.py")[0] == 404


def test_other_sites_get_nothing(bundle):
    """A name of theirs may lead here (DNS rebinding), or a page of theirs ask for it."""
    with running(bundle, **fakes()) as run:
        for headers in (
            {"Host": "evil.example"},
            {"Host": "127.0.0.1.evil.example:8765"},
            {"Host": ""},
            {"Host": "[::1"},
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
        ):
            for path in ("/", "/events", "/healthz", "/metrics"):
                status, _, body = run.get(path, **headers)
                assert status == 403, (path, headers)
                assert b"localhost" in body


def test_this_machine_may_be_called_by_its_names_and_listens_to_nobody_else(bundle):
    with running(bundle, **fakes()) as run:
        for host in ("localhost:9000", "127.0.0.1", "[::1]:8765", "LOCALHOST"):
            assert run.get("/", Host=host, Origin=f"http://{host}")[0] == 200
        assert run.server._server.socket.getsockname()[0] == "127.0.0.1"


def test_health_says_whether_decisions_come_and_why_not(bundle, monkeypatch):
    monkeypatch.setattr(viewing, "STALLED_S", 0.3)
    lost = {number: CaptureError("the cable is out") for number in range(30, 10_000)}
    with running(bundle, **fakes(faults=lost), duration_s=3) as run:
        until(lambda: run.view.decisions > 3)
        status, headers, body = run.get("/healthz")
        found = json.loads(body)
        assert (status, headers["Content-Type"]) == (200, "application/json")
        assert found["ok"] and found["decisions"] > 3
        assert found["modalities"] == {"image": "ok", "audio": "ok"}
        until(lambda: not run.view.health().ok)
        status, _, body = run.get("/healthz")
        found = json.loads(body)
        assert status == 503
        assert found["reason"].startswith("no decision for 0.")
        assert "image is lost: the cable is out; audio is lost" in found["reason"]
        with run.events() as events:
            tick = dict(islice(events, 2))["tick"]
        assert not tick["health"]["ok"]
        assert [fault["what"] for fault in tick["faults"]] == ["lost", "lost"]
        assert not tick["states"]["image"]["used"]


def test_before_the_first_decision_it_is_not_healthy(small_bundle):
    with mla_edge.load(small_bundle.folder) as model:
        found = View(model).health()
    assert (found.ok, found.age_s) == (False, None)
    assert found.reason == "no decision yet"


def test_prometheus_reads_the_metrics(bundle):
    parser = pytest.importorskip("prometheus_client.parser")
    gone = {number: CaptureError("the cable is out") for number in range(20, 30)}
    camera = FakeCamera([frame("red")] * 10_000, period_s=CHEAP, faults=gone)
    with running(bundle, camera, fakes()["microphone"]) as run:
        until(lambda: run.view.faults and run.view.faults[-1].fault.what == "back")
        status, headers, body = run.get("/metrics")
        most = run.view.decisions
    assert status == 200
    families = {f.name: f for f in parser.text_string_to_metric_families(body.decode())}
    made = {tuple(s.labels.values()): s.value for s in families["mla_edge_decisions"].samples}
    count = sum(made.values())
    assert 20 <= count <= most
    assert {reason for _, reason, _ in made} <= {"lite-confident", "escalated"}
    for name in ("mla_edge_latency_seconds", "mla_edge_age_seconds"):
        samples = families[name].samples
        buckets = [s.value for s in samples if s.name.endswith("_bucket")]
        assert buckets == sorted(buckets)
        assert buckets[-1] == count
        (total,) = (s.value for s in samples if s.name.endswith("_sum"))
        assert total > 0
    (fault,) = families["mla_edge_faults"].samples
    assert (fault.labels, fault.value) == ({"modality": "image", "what": "lost"}, 1)
    assert {s.labels["modality"] for s in families["mla_edge_dropped_signals"].samples} == {
        *("image", "audio")
    }
    (info,) = families["mla_edge_info"].samples
    assert info.labels["bundle"] == "colours-host"
    assert families["mla_edge_healthy"].samples[0].value == 1
    assert families["process_cpu_seconds"].samples[0].value > 0


def test_nothing_is_packed_while_nobody_looks(bundle):
    with running(bundle, **fakes()) as run:
        until(lambda: run.view.decisions > 20)
        run.get("/healthz")
        run.get("/metrics")
        assert run.server._server.events._packed == ""
        assert not run.model.shows
        with run.events() as events:
            next(events), next(events)
            assert run.model.shows
        until(lambda: not run.model.shows)


def test_a_client_that_reads_nothing_slows_nobody_and_is_dropped(bundle, monkeypatch):
    monkeypatch.setattr(serving, "SEND_BUFFER", 4096)
    monkeypatch.setattr(serving._Handler, "timeout", 1.0)
    with running(bundle, **fakes()) as run, socket.socket() as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.connect(("127.0.0.1", run.server.port))
        stuck.sendall(b"GET /events HTTP/1.0\r\nHost: localhost\r\n\r\n")
        until(lambda: run.model.shows)
        first, began_s = run.view.decisions, time.monotonic()
        with run.events() as events:
            assert sum("picture" in message for _, message in islice(events, 8)) > 2
        until(lambda: not run.model.shows)  # the other one was dropped
        passed_s = time.monotonic() - began_s
        assert passed_s > 0.9
        assert run.view.decisions - first > 0.3 * passed_s / CHEAP
        assert run.get("/healthz")[0] == 200


def test_a_client_that_asks_nothing_is_dropped(bundle, monkeypatch):
    monkeypatch.setattr(serving._Handler, "timeout", 0.2)
    with running(bundle, **fakes()) as run, socket.socket() as idle:
        idle.settimeout(5)
        idle.connect(("127.0.0.1", run.server.port))
        assert idle.recv(1) == b""


def test_there_is_room_for_so_many_who_look(bundle):
    with running(bundle, **fakes()) as run:
        opened = []
        for _ in range(MOST_VIEWERS):
            connection = http.client.HTTPConnection("127.0.0.1", run.server.port, timeout=10)
            connection.request("GET", "/events")
            answer = connection.getresponse()
            assert next(events_of(answer))[0] == "hello"
            opened.append((connection, answer))
        status, _, body = run.get("/events")
        assert status == 503
        assert b"8 browsers look already" in body
        assert run.get("/healthz")[0] == 200  # that is still told
        for connection, answer in opened:
            answer.close()
            connection.close()
        until(lambda: not run.model.shows)
        with run.events() as events:
            assert next(events)[0] == "hello"


def test_more_connections_than_there_may_be_are_hung_up(bundle, monkeypatch):
    monkeypatch.setattr(serving, "MOST_CONNECTIONS", 2)
    with running(bundle, **fakes()) as run:
        idle = [socket.create_connection(("127.0.0.1", run.server.port)) for _ in range(2)]
        until(lambda: len(run.server._server._open) == 2)
        with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
            run.get("/healthz")
        for each in idle:
            each.close()
        until(lambda: not run.server._server._open)
        assert run.get("/healthz")[0] == 200


def test_the_end_is_told_and_nothing_is_left(bundle):
    assert server_threads() == []
    with running(bundle, **fakes()) as run:
        connection = http.client.HTTPConnection("127.0.0.1", run.server.port, timeout=10)
        connection.request("GET", "/events")
        events = events_of(connection.getresponse())
        next(events)
        assert "mla-edge web" in server_threads()
    assert server_threads() == []
    assert [name for name, _ in events][-1] == "end"
    connection.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", run.server.port))


def test_a_port_that_is_taken_is_a_clear_mistake(here):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = CliRunner().invoke(app, ["run", *SIMULATED, "--web", str(port)])
    assert result.exit_code == ConfigError.exit_code == 2
    assert f"something else listens on port {port}" in result.stderr
    assert f"take another one: --web {port + 1}" in result.stderr


def test_run_and_record_say_where_to_look(here):
    for words in (["run"], ["record", "out.mcap"]):
        command = [*words, *SIMULATED, "--duration", "0.3", "--json", "--web", "0"]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.stderr
        assert "watch it at http://127.0.0.1:" in result.stderr
        assert "summary" in result.stdout.splitlines()[-1]
    assert server_threads() == []


def test_the_port_may_be_left_away():
    assert with_port(["--web"]) == ["--web", str(PORT)]
    assert with_port(["--web", "--json"]) == ["--web", str(PORT), "--json"]
    assert with_port(["--web", "out.mcap"]) == ["--web", str(PORT), "out.mcap"]
    assert with_port(["--web", "9000", "--json"]) == ["--web", "9000", "--json"]
    assert with_port(["--web=9000"]) == ["--web=9000"]
    assert with_port(["--json"]) == ["--json"]
    assert PORT == serving.PORT


def test_without_the_client_of_prometheus_it_says_what_to_install(small_bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "mla_edge.runtime.web.metrics")
    with pytest.raises(MissingDependency) as caught:
        import mla_edge.runtime.web.metrics  # noqa: F401
    assert caught.value.hint == "pip install 'mla-edge[web]'"


def test_a_privileged_port_is_a_clear_mistake(small_bundle, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(serving._Server, "server_bind", refuse)
    with mla_edge.load(small_bundle.folder) as model, pytest.raises(ConfigError) as caught:
        WebServer(View(model), 80)
    assert "port 80 of 127.0.0.1 cannot be used: Permission denied" in str(caught.value)
