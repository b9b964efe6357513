"""A real HTTP server: the answers that the kubelet, Prometheus and the operator get."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from halcyon.host.errors import BadConfiguration
from halcyon.telemetry import SaveRequests, TelemetryServer
from halcyon_api.ends import ExitCode
from halcyon_api.status.progress import ProgressReport
from halcyon_devcluster.waiting import until
from tests.suite.limits import limit
from tests.trainer.telemetry.fakes import Scene

TOKEN = "secret"  # noqa: S105 - of these tests


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def server(scene: Scene) -> Iterator[TelemetryServer]:
    with closing(TelemetryServer(scene.reporter, 0)) as server:
        yield server


@pytest.fixture
def client(server: TelemetryServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as client:
        yield client


def test_status_is_the_progress_report(scene: Scene, client: httpx.Client) -> None:
    scene.start(resumed_step=40)
    scene.steps(41, 45)
    answer = client.get("/status")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert ProgressReport.model_validate_json(answer.content) == scene.reporter.report().model_copy(
        update={"save_requests": []}
    )
    assert answer.json()["progress"]["tokensPerSecond"] == 8192


def test_the_server_answers_before_the_first_step(client: httpx.Client) -> None:
    assert client.get("/status").json()["stage"] == "starting"
    assert client.get("/healthz").text == "ok: starting for 2.0 s, limit 900.0 s\n"
    assert client.get("/metrics").status_code == 200


def test_health_fails_when_no_step_ends(scene: Scene, client: httpx.Client) -> None:
    scene.start()
    scene.steps(1, 10)
    assert client.get("/healthz").status_code == 200
    scene.time.pass_(60.5)
    answer = client.get("/healthz")
    assert (answer.status_code, answer.text) == (503, "stalled: no step ended for 60.5 s, limit 60.0 s\n")


def test_metrics_can_be_parsed_by_the_prometheus_client(scene: Scene, client: httpx.Client) -> None:
    scene.start()
    scene.steps(1, 10)
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert families["halcyon_trainer_step"].samples[0].value == 10
    assert families["halcyon_trainer_info"].samples[0].labels == {
        "run": "demo",
        "attempt": "3",
        "restart": "1",
        "process": "0",
    }


def test_other_paths_name_the_existing_paths(client: httpx.Client) -> None:
    answer = client.get("/")
    assert (answer.status_code, answer.text) == (404, "there are /status, /metrics, /healthz\n")
    assert client.post("/status").status_code == 404
    assert client.put("/status").status_code == 501
    assert client.get("/healthz?verbose").status_code == 200
    head = client.head("/status")
    assert (head.status_code, head.content) == (200, b"")


def test_many_clients_at_once_are_served_on_persistent_connections(scene: Scene, server: TelemetryServer) -> None:
    scene.start()
    scene.steps(1, 5)
    codes: list[int] = []

    def read() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=limit(30))
        for _ in range(20):
            connection.request("GET", "/status")
            response = connection.getresponse()
            response.read()
            codes.append(response.status)
        connection.close()

    readers = [threading.Thread(target=read) for _ in range(8)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert codes == [200] * 160


def test_a_client_that_hangs_does_not_delay_another(client: httpx.Client, server: TelemetryServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as hung:
        hung.sendall(b"GET /status HTTP/1.1\r\n")
        assert client.get("/status").status_code == 200


def test_a_client_that_disconnects_early_causes_no_output(
    client: httpx.Client, server: TelemetryServer, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as rude:
        rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        rude.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
    assert client.get("/status").status_code == 200
    assert capfd.readouterr() == ("", "")


def test_in_a_pod_both_address_families_are_served_under_every_name(scene: Scene) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with closing(TelemetryServer(scene.reporter, 0, in_pod=True)) as server:
        for host in ("[::1]", "127.0.0.1"):
            answer = httpx.get(
                f"http://{host}:{server.port}/healthz", headers={"host": "10.0.0.1:9400"}, trust_env=False
            )
            assert answer.status_code == 200
        assert server.host == "::"


def test_elsewhere_only_this_machine_is_answered_under_its_own_names(
    server: TelemetryServer, client: httpx.Client
) -> None:
    assert server.host == "127.0.0.1"
    for host in ("localhost", f"localhost:{server.port}", "127.0.0.1", "[::1]:9400"):
        assert client.get("/status", headers={"host": host}).status_code == 200
    for host in ("evil.example", f"evil.example:{server.port}", "192.0.2.1"):
        for method, path in (("GET", "/status"), ("GET", "/metrics"), ("HEAD", "/healthz"), ("POST", "/save")):
            answer = client.request(method, path, headers={"host": host})
            assert (answer.status_code, answer.headers["connection"]) == (421, "close")
            assert answer.text == (
                "" if method == "HEAD" else "this process answers only to localhost; use that name\n"
            )


def _rest(client: socket.socket) -> bytes:
    """What the server sends until it ends the connection."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(65536):
            data += part
    return data


@pytest.mark.parametrize(
    "sent", [b"X" * 60_000 + b" / HTTP/1.1\r\n\r\n", b"GET / " + b"X" * 60_000 + b"\r\n\r\n", b"G" * 70_000]
)
def test_an_error_does_not_repeat_a_long_request(server: TelemetryServer, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=limit(30)) as client:
        client.sendall(sent)
        answer = _rest(client)
    assert len(answer) < 500


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /status HTTP/1.1\r\nHost: localhost\r\n",
        b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\nGET /sta",
        b"POST /save HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer secret\r\nContent-Length: 50\r\n\r\n{",
    ],
)
def test_a_request_that_does_not_end_is_cut_although_bytes_drip(scene: Scene, sent: bytes) -> None:
    with (
        closing(
            TelemetryServer(scene.reporter, 0, requests=SaveRequests(), token=TOKEN, request_seconds=0.2)
        ) as server,
        socket.create_connection(("127.0.0.1", server.port)) as client,
    ):
        client.sendall(sent)
        ended = threading.Event()
        thread = threading.Thread(target=_drip, args=(client, ended))
        thread.start()
        client.settimeout(limit(60))
        assert _rest(client).count(b"HTTP/1.1 200") == sent.count(b"GET /status") - (
            b"\r\n\r\n" not in sent and b"GET" in sent
        )
        ended.set()
        thread.join()


def _drip(client: socket.socket, ended: threading.Event) -> None:
    while not ended.wait(limit(0.02)):
        try:
            client.sendall(b"x")
        except OSError:
            return


def test_silent_clients_have_a_bounded_number_of_threads_and_keep_nobody_out(
    server: TelemetryServer, client: httpx.Client
) -> None:
    before = threading.active_count()
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(120)]
        assert client.get("/status").status_code == 200
        silent[0].settimeout(limit(30))
        assert _rest(silent[0]) == b""
        until(
            lambda: threading.active_count() - before <= 32,
            timeout_seconds=30,
            interval_seconds=0.02,
            failure=lambda: f"{threading.active_count() - before} threads",
        )


def test_the_error_for_a_port_in_use_names_the_field(scene: Scene, server: TelemetryServer) -> None:
    with pytest.raises(BadConfiguration) as refused:
        TelemetryServer(scene.reporter, server.port)
    assert str(refused.value) == (
        f"spec.telemetry.port: port {server.port} is already in use on this machine; set another one, or end the "
        "process that has it"
    )
    assert refused.value.exit_code == ExitCode.BAD_CONFIGURATION


def test_a_closed_server_frees_its_port_and_its_thread(scene: Scene) -> None:
    server = TelemetryServer(scene.reporter, 0)
    server.close()
    server.close()
    again = TelemetryServer(scene.reporter, server.port)
    again.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "halcyon-telemetry"]
