"""Which addresses of a cluster are refused, and what Ray prints."""

import inspect
import socket

import pytest
import ray._private.worker

from ssr1_rl import connection
from ssr1_rl.connection import check_address, connect, connected
from ssr1_rl.errors import RunError, UserError


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "https://head:8265/", "HTTP://head:8265"])
def test_the_address_of_a_job_server_is_refused_with_the_command_that_submits_a_job(address):
    with pytest.raises(UserError) as caught:
        check_address(address)
    assert f"`ray job submit --address {address} -- LAUNCH_FILE`" in str(caught.value)
    assert "unset RAY_ADDRESS" in str(caught.value)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ray://head:10001", "Ray Client is not supported"),
        ("redis://head:6379", "not supported"),
        ("head:6379/", "must be HOST:PORT"),
        ("head", "must be HOST:PORT"),
        (" ", "must be HOST:PORT"),
        ("10.0.0.1:port", "must be HOST:PORT"),
        ("127.0.0.1:99999", "nothing answers there"),
        ("no-such-host.invalid:6379", "nothing answers there"),
    ],
)
def test_an_address_that_cannot_work_is_refused_with_what_to_do(address, words):
    with pytest.raises(UserError, match="RAY_ADDRESS") as caught:
        check_address(address)
    assert words in str(caught.value)
    assert "unset RAY_ADDRESS" in str(caught.value)


@pytest.mark.parametrize("address", ["", "local", "auto"])
def test_no_address_starts_ray_here_and_auto_finds_it(address):
    check_address(address)


def test_an_address_where_something_listens_is_left_to_ray():
    with socket.socket() as head:
        head.bind(("127.0.0.1", 0))
        head.listen()
        port = head.getsockname()[1]
        check_address(f"127.0.0.1:{port}")
    with pytest.raises(UserError, match="nothing answers there"):
        check_address(f"127.0.0.1:{port}")


@pytest.mark.parametrize(("address", "words"), [("auto", "connect to RAY_ADDRESS=auto"), ("", "start on this machine")])
def test_an_error_of_ray_s_start_is_a_sentence(monkeypatch, address, words):
    def init(**options):
        raise ConnectionError("Could not find any running Ray instance")

    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(connection.ray, "init", init)
    with pytest.raises(RunError, match=f"Ray could not {words}"):
        connect()


def test_what_ray_would_print_goes_to_the_run(monkeypatch, capsys):
    """Ray has no setting for it; if it renames the function, its lines come back."""
    assert list(inspect.signature(ray._private.worker.print_to_stdstream).parameters) == ["data", "ignore_prefix"]
    assert "print_to_stdstream(" in inspect.getsource(ray._private.worker.listen_error_messages)
    monkeypatch.setattr(ray._private.worker, "print_to_stdstream", None)
    monkeypatch.setattr(connection.ray, "init", lambda **options: None)
    monkeypatch.setattr(connection.ray, "shutdown", lambda: None)
    monkeypatch.setattr(connection.ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    kept = []
    with connected(kept.append):
        ray._private.worker.print_to_stdstream(
            {"lines": ["A worker died", "Worker PID: 7"], "pid": "raylet", "is_err": False}, ignore_prefix=False
        )
    assert kept == ["A worker died\nWorker PID: 7"]
    assert capsys.readouterr() == ("", "")
