"""An endpoint that answers rows, against a real HTTP server that misbehaves."""

import base64
import io
import json
import logging
import os
import signal
import socket
import threading
import time
from email.utils import formatdate
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from ssr1_rl.config.sections.engines import EndpointConfig
from ssr1_rl.errors import ConfigError, Interrupted, RunError, UserError
from ssr1_rl.inference import pace
from ssr1_rl.inference.answers import TooManyFailed, answer_all
from ssr1_rl.inference.budget import AHEAD, Budget, BudgetSpent
from ssr1_rl.inference.chat import Refused, Unreadable, to_answer, to_body
from ssr1_rl.inference.client import MAX_ERROR_CHARS, Client, EndpointRefuses
from ssr1_rl.inference.endpoint import EndpointBackend, check_url, proxy_of
from ssr1_rl.inference.pace import Pace, backoff_s, retry_after_s
from ssr1_rl.inference.request import Answer, Request
from ssr1_rl.types import Distribution
from tests.unit.inference.chat_server import OK, ChatServer, reply, running

KEY = "sk-live-4f9c27d1e8ab"
VARIABLE = "TEST_TEACHER_KEY"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(pace, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setenv(VARIABLE, KEY)
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def to_request(row):
    if row.get("is_bad"):
        raise UserError(f"{row['key']}: the video is broken")
    return Request(
        messages=({"role": "user", "content": f"question {row['key']}"},),
        max_response_tokens=16,
        distribution=Distribution(0.7, 0.9),
        seed=11,
    )


def rows(number):
    return [{"key": f"r{i}"} for i in range(number)]


def backend(server, folder, **settings):
    settings = {"url": server.url, "api_key_env": VARIABLE, "max_concurrency": 4, "timeout_s": 30.0, **settings}
    return EndpointBackend(EndpointConfig(**settings), "teacher", folder)


def ask(server, folder, number=1, **settings) -> dict[str, Answer]:
    """The answers by key; each row has one."""
    given = [a for batch in backend(server, folder, **settings).answers(rows(number), to_request) for a in batch]
    assert len({answer.key for answer in given}) == len(given)
    return {answer.key: answer for answer in given}


def test_what_is_sent_and_what_comes_back(tmp_path):
    with running(ChatServer(lambda number, body: reply(body["messages"][0]["content"].upper()))) as server:
        found = ask(server, tmp_path, 3, request_fields={"max_tokens": None, "max_completion_tokens": 9})
    assert found["r1"] == Answer("r1", "QUESTION R1", 5, 3, "stop")
    assert len(found) == 3
    assert server.paths == ["/v1/chat/completions"] * 3
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    [body] = [body for body in server.bodies if body["messages"][0]["content"] == "question r0"]
    assert body == {
        "model": "teacher",
        "messages": [{"role": "user", "content": "question r0"}],
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": 11,
        "max_completion_tokens": 9,
    }


def test_without_a_variable_no_key_is_sent(tmp_path):
    with running(ChatServer()) as server:
        ask(server, tmp_path, api_key_env="")
    assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize("variable", [VARIABLE, ""])
def test_credentials_of_netrc_are_not_sent(tmp_path, monkeypatch, variable):
    (tmp_path / "netrc").write_text("default login me password of-another-server\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with running(ChatServer()) as server:
        assert ask(server, tmp_path, api_key_env=variable)["r0"].text == "fine"
    assert server.headers[0].get("Authorization", "") == (f"Bearer {KEY}" if variable else "")


def test_proxies_are_those_of_the_environment(tmp_path, monkeypatch):
    with running(ChatServer()) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        monkeypatch.setenv("no_proxy", "localhost,127.0.0.1,inside.example")
        elsewhere = SimpleNamespace(url="http://teacher.example/v1")
        assert ask(elsewhere, tmp_path)["r0"].text == "fine"
        assert proxy.paths == ["http://teacher.example/v1/chat/completions"]
    assert proxy_of("http://inside.example:8000/v1") is None and proxy_of("https://teacher.example/v1") is None


def test_images_and_clips_take_their_places_in_the_messages():
    import soundfile
    from PIL import Image

    image = np.full((4, 6, 3), 200, np.uint8)
    clip = np.linspace(-0.5, 0.5, 160, dtype=np.float32)
    parts = [{"type": "image"}, {"type": "text", "text": "?"}, {"type": "audio"}]
    request = Request(messages=({"role": "user", "content": parts},), images=(image,), waveforms=(clip,))
    sent = to_body(request, "m", {})
    [message] = sent["messages"]
    kind, data = message["content"][0]["image_url"]["url"].split(",")
    assert kind == "data:image/jpeg;base64"
    assert np.abs(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int) - 200).max() <= 3
    assert message["content"][1] == {"type": "text", "text": "?"}
    audio = message["content"][2]["input_audio"]
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(audio["data"])))
    assert (audio["format"], rate) == ("wav", 16_000)
    np.testing.assert_allclose(samples, clip, atol=1e-4)
    assert sent["temperature"] == 0.0
    assert not {"seed", "top_k", "min_p"} & sent.keys()


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Request(messages=({"content": [{"type": "image"}]},)), "more parts"),
        (Request(messages=({"content": "x"},), images=(np.zeros((2, 2, 3), np.uint8),)), "fewer parts"),
        (Request(messages=({"content": "x"},), allowed_token_ids=(1,)), "cannot be restricted"),
        (Request(token_ids=(1, 2)), "no messages"),
    ],
)
def test_a_request_that_no_endpoint_can_answer(request_, said):
    with pytest.raises(UserError, match=said):
        to_body(request_, "m", {})


def test_a_row_that_cannot_be_used_is_an_answer_with_its_error(tmp_path):
    with running(ChatServer()) as server:
        given = backend(server, tmp_path).answers([*rows(2), {"key": "bad", "is_bad": True}], to_request)
        found = {answer.key: answer for batch in given for answer in batch}
    assert found["bad"] == Answer("bad", error="bad: the video is broken")
    assert found["r0"].text == found["r1"].text == "fine"
    assert len(server.bodies) == 2


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param((500, {}, {"error": {"message": "oops"}}), id="500"),
        pytest.param((503, {}, b"<html>busy</html>"), id="503"),
        pytest.param((408, {}, {}), id="408"),
        pytest.param((429, {}, {"error": {"message": "slow down"}}), id="429"),
        pytest.param((429, {"Retry-After": "0"}, {}), id="429 with Retry-After"),
        pytest.param((429, {"Retry-After": "soon"}, {}), id="a Retry-After that says nothing"),
        pytest.param(b'{"choices": [{"mess', id="half of a JSON text"),
        pytest.param(b"", id="nothing"),
        pytest.param([1], id="another JSON value"),
        pytest.param({"choices": []}, id="no choice"),
        pytest.param(reply(None), id="no content"),
        pytest.param((200, {"Content-Length": "5000"}, reply()), id="a connection that breaks"),
        pytest.param(1.0, id="time-out"),
    ],
)
def test_trouble_that_passes_is_retried(tmp_path, trouble):
    with running(ChatServer(lambda number, body: trouble if number < 2 else OK)) as server:
        found = ask(server, tmp_path, timeout_s=0.3, max_retries=2)
        assert found["r0"].text == "fine"
        assert len(server.bodies) == 3


def test_trouble_that_stays_fails_the_row_with_its_cause(tmp_path):
    with running(ChatServer(lambda number, body: (500, {}, {"error": {"message": "out of memory"}}))) as server:
        found = ask(server, tmp_path, 2, max_retries=2)
    assert len(server.bodies) == 6
    host = server.url.split("/")[2]
    assert found["r1"] == Answer("r1", error=f"{host} answered 500: out of memory (3 tries)")


def test_a_server_that_is_not_there(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = ChatServer()
        server.url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    found = ask(server, tmp_path, max_retries=1)
    assert "the connection to 127.0.0.1" in found["r0"].error
    assert "2 tries" in found["r0"].error


def test_a_server_that_comes_up_late(tmp_path):
    """A refused connection is retried."""
    server = ChatServer()
    with running(server):
        pass  # its port is free again
    late = ChatServer()

    def start():
        time.sleep(0.3)
        import http.server

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                content = json.dumps(reply("late")).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format, *args):
                pass

        with http.server.HTTPServer(("127.0.0.1", int(server.url.split(":")[2].split("/")[0])), Handler) as late_server:
            late_server.handle_request()

    thread = threading.Thread(target=start)
    thread.start()
    late.url = server.url
    found = ask(late, tmp_path, max_retries=12)
    thread.join()
    assert found["r0"].text == "late"


def test_retry_after_holds_back_every_request(tmp_path):
    script = lambda number, body: (429, {"Retry-After": "0.5"}, {}) if number == 0 else OK  # noqa: E731
    with running(ChatServer(script)) as server:
        ask(server, tmp_path, 3, max_concurrency=1)
    assert server.times[1] - server.times[0] >= 0.45


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        ("1.5", 1.5),
        ("-3", 0.0),
        (formatdate(1_000_042, usegmt=True), 42.0),
        (formatdate(999_000, usegmt=True), 0.0),
        ("tomorrow", None),
        ("", None),
    ],
)
def test_what_retry_after_says(header, seconds):
    assert retry_after_s(header, now_s=1_000_000.0) == seconds


def test_a_server_that_asks_for_no_pause_again_and_again_does_not_use_up_the_retries_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(pace, "FIRST_PAUSE_S", 0.2)
    script = lambda number, body: (429, {"Retry-After": "0"}, {}) if number < 2 else OK  # noqa: E731
    with running(ChatServer(script)) as server:
        assert ask(server, tmp_path, max_retries=2)["r0"].text == "fine"
    assert server.times[1] - server.times[0] >= 0.1
    assert server.times[2] - server.times[1] >= 0.2


def test_a_pause_of_a_day_ends_the_stage_and_the_message_has_no_key(tmp_path):
    trouble = (429, {"Retry-After": "86400"}, {"error": {"message": f"limit of {KEY} is reached"}})
    with (
        running(ChatServer(lambda number, body: trouble)) as server,
        pytest.raises(RunError, match=r"asks for a pause of 86,400 s.*limit of \*\*\* is reached") as told,
    ):
        ask(server, tmp_path)
    assert KEY not in str(told.value)


def test_the_key_is_blotted_out_before_a_long_message_is_cut():
    """A part of the key would be found no more."""
    client = Client(None, EndpointConfig(url="http://h/v1"), KEY, None)
    for shown in range(1, len(KEY)):
        long = b"x" * (MAX_ERROR_CHARS - shown) + KEY.encode() + b"x" * 100
        with pytest.raises(Refused) as told:
            client._refused(400, {}, long)
        assert set(client._blotted(str(told.value)).removeprefix("h answered 400: ")) <= set("x*")


def test_pauses_double_up_to_a_minute(monkeypatch):
    monkeypatch.setattr(pace, "FIRST_PAUSE_S", 1.0)
    for attempt, longest in enumerate((1, 2, 4, 8, 16, 32, 60, 60)):
        pauses = [backoff_s(attempt) for _ in range(100)]
        assert longest / 2 <= min(pauses) <= max(pauses) <= longest
        assert len(set(pauses)) > 50


async def test_the_rate_spaces_requests_evenly(monkeypatch):
    now, slept = [0.0], []

    async def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(pace.asyncio, "sleep", sleep)
    turns = Pace(requests_per_minute=120, clock=lambda: now[0])
    for _ in range(3):
        await turns.turn()
    assert slept == [0.5, 0.5]
    turns.hold(10)
    await turns.turn()
    assert slept[2:] == [10.0]


def test_no_more_requests_are_in_flight_than_allowed(tmp_path):
    with running(ChatServer(lambda number, body: 0.05)) as server:
        ask(server, tmp_path, 12, max_concurrency=3)
    assert server.most_in_flight == 3


@pytest.mark.parametrize("status", [400, 413, 422])
def test_what_is_wrong_with_one_request_is_not_retried(tmp_path, status):
    wrong = (status, {}, {"error": {"message": "too many images", "code": "invalid"}})
    with running(ChatServer(lambda number, body: wrong if "r1" in str(body) else OK)) as server:
        found = ask(server, tmp_path, 3)
    assert len(server.bodies) == 3
    assert found["r1"].error.endswith(f"answered {status}: too many images")
    assert found["r2"].text == "fine"


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ((401, {}, {"error": {"message": f"Incorrect key {KEY}", "code": "invalid_api_key"}}), VARIABLE),
        ((403, {}, b"no"), VARIABLE),
        ((404, {}, {"error": {"message": "The model `teacher` does not exist"}}), "The model `teacher` does not exist"),
        ((400, {}, {"error": {"message": "no teacher", "code": "model_not_found"}}), "no teacher"),
        ((429, {}, {"error": {"message": "pay", "code": "insufficient_quota"}}), "no credit"),
        ((402, {}, {}), "no credit"),
        ((307, {"Location": "http://elsewhere/v1"}, {}), "redirect to http://elsewhere/v1; set endpoint.url"),
    ],
)
def test_what_is_wrong_with_every_request_stops_the_stage_at_once(tmp_path, trouble, said):
    with (
        running(ChatServer(lambda number, body: trouble)) as server,
        pytest.raises(EndpointRefuses, match=said) as told,
    ):
        ask(server, tmp_path, 50)
    assert len(server.bodies) <= 4  # those in flight
    assert KEY not in str(told.value)


def test_a_wrong_key_without_a_variable_says_how_to_give_one(tmp_path):
    with (
        running(ChatServer(lambda number, body: (401, {}, {}))) as server,
        pytest.raises(EndpointRefuses, match=r"set endpoint\.api_key_env"),
    ):
        ask(server, tmp_path, api_key_env="")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (reply("half a", "length"), Answer("k", "half a", 5, 3, "length")),
        (reply(None, "length"), Answer("k", "", 5, 3, "length")),
        (reply("half a", None), Answer("k", "half a", 5, 3, "length")),
        ({"choices": reply()["choices"]}, Answer("k", "fine", 0, 0, "stop")),
    ],
)
def test_an_answer_that_was_cut_off_is_known(given, expected):
    assert to_answer("k", given) == expected


@pytest.mark.parametrize("given", [None, [], {}, {"choices": None}, {"choices": [{}]}, {"choices": [{"message": 3}]}])
def test_nonsense_is_unreadable(given):
    with pytest.raises(Unreadable):
        to_answer("k", given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (reply(None, refusal="I cannot"), "refuses: I cannot"),
        (reply("", "content_filter"), "'content_filter'"),
        (reply(None, "tool_calls"), "'tool_calls'"),
    ],
)
def test_a_refusal_is_an_error_of_its_row_and_not_retried(tmp_path, given, said):
    with running(ChatServer(lambda number, body: given)) as server:
        found = ask(server, tmp_path)
    assert said in found["r0"].error
    assert len(server.bodies) == 1


def test_a_budget_of_requests_holds_over_restarts_and_counts_retries(tmp_path):
    script = lambda number, body: (500, {}, {}) if number == 0 else OK  # noqa: E731
    with running(ChatServer(script)) as server:
        with pytest.raises(BudgetSpent, match=r"endpoint\.max_requests=5 is spent"):
            answer(tmp_path, backend(server, tmp_path, max_requests=5), 9)
        assert len(server.bodies) == 5
        with pytest.raises(BudgetSpent):
            answer(tmp_path, backend(server, tmp_path, max_requests=5), 9)
        assert len(server.bodies) == 5
        with pytest.raises(BudgetSpent):
            answer(tmp_path, backend(server, tmp_path, max_requests=7), 9)
        assert len(server.bodies) == 7
        found = answer(tmp_path, backend(server, tmp_path), 9)
    # Ten requests for nine rows: one was a retry, and no answer that was paid for was asked for again.
    assert len(server.bodies) == 10
    assert len(found) == 9
    assert json.loads((tmp_path / "spent.json").read_text()) == {
        "requests": 10,
        "tokens": 72,
        "longest_prompt": 5,
    }


def test_a_budget_of_tokens_is_not_exceeded_once_a_prompt_is_known(tmp_path):
    with running(ChatServer(lambda number, body: reply("x", "stop", 10, 5))) as server:
        with pytest.raises(BudgetSpent, match=r"endpoint\.max_tokens=100 is spent: 5 requests and 75 tokens"):
            answer(tmp_path, backend(server, tmp_path, max_tokens=100, max_concurrency=1), 9)
        # A request needs up to 10 + 16 tokens: after 75 there is room for 25.
        assert len(server.bodies) == 5
        with pytest.raises(BudgetSpent):
            answer(tmp_path, backend(server, tmp_path, max_tokens=110, max_concurrency=8), 9)
        # 35 left: one request at a time fits.
        assert len(server.bodies) == 6


def test_a_server_that_counts_no_tokens_cannot_keep_a_budget_of_them(tmp_path):
    with (
        running(ChatServer(lambda number, body: {"choices": reply()["choices"]})) as server,
        pytest.raises(EndpointRefuses, match=r"set endpoint\.max_requests instead"),
    ):
        ask(server, tmp_path, max_tokens=100)


async def test_a_kill_forgets_no_request_that_was_sent(tmp_path):
    budget = Budget(tmp_path / "spent.json", 0, 0)
    for _ in range(AHEAD + 3):
        await budget.settle(await budget.take(1), (1, 1))
    # The process is killed here: nothing is saved any more.
    after = Budget(tmp_path / "spent.json", 0, 0)
    assert budget.requests <= after.requests <= budget.requests + AHEAD


async def test_a_kill_forgets_no_token_of_a_request_that_was_sent(tmp_path):
    (tmp_path / "spent.json").write_text('{"requests": 1, "tokens": 15, "longest_prompt": 10}')
    budget = Budget(tmp_path / "spent.json", 0, 10_000)
    for number in range(1, 2 * AHEAD):
        await budget.take(16)
        # The process is killed here, with requests in flight.
        after = Budget(tmp_path / "spent.json", 0, 10_000)
        assert 15 + number * 26 <= after.tokens <= 15 + (number + AHEAD) * 26


@pytest.mark.parametrize("trouble", [5.0, (200, {"Content-Length": "5000"}, reply())], ids=["time-out", "cut off"])
def test_a_request_that_may_have_cost_tokens_counts_in_their_budget(tmp_path, trouble):
    with (
        running(ChatServer(lambda number, body: trouble)) as server,
        pytest.raises(BudgetSpent, match=r"max_tokens=40 is spent: 2 requests and 32 tokens"),
    ):
        ask(server, tmp_path, max_tokens=40, timeout_s=1.0)


@pytest.mark.parametrize("trouble", [(500, {}, {}), (429, {}, {}), (400, {}, {})])
def test_a_request_that_the_server_refuses_costs_no_tokens(tmp_path, trouble):
    with running(ChatServer(lambda number, body: trouble if number == 0 else OK)) as server:
        ask(server, tmp_path, 2, max_tokens=30, max_concurrency=1)
    assert json.loads((tmp_path / "spent.json").read_text())["tokens"] <= 16


def test_nonsense_is_retried_with_a_budget_of_tokens_too(tmp_path):
    """An error in a 200, as some servers send it, has no counts either."""
    nonsense = {"error": {"message": "upstream is down"}}
    with running(ChatServer(lambda number, body: nonsense if number == 0 else OK)) as server:
        assert ask(server, tmp_path, max_tokens=1000)["r0"].text == "fine"


def test_a_spent_file_that_cannot_be_read_is_not_taken_for_nothing(tmp_path):
    (tmp_path / "spent.json").write_text("{}")
    with pytest.raises(UserError, match=r"spent\.json cannot be read"):
        Budget(tmp_path / "spent.json", 1, 0)


def answer(folder, backend, number, says=None):
    return answer_all(
        folder,
        rows(number),
        to_request,
        backend,
        title="test",
        max_failed_share=0.5,
        fingerprint={"model": "teacher"},
        console=Console(file=says or io.StringIO(), width=500),
    )


def test_a_signal_keeps_what_was_answered(tmp_path):
    def script(number, body):
        if number == 6:
            os.kill(os.getpid(), signal.SIGTERM)
            return 3.0
        return OK

    with running(ChatServer(script)) as server:
        with pytest.raises(Interrupted, match="the same command asks for the others only"):
            answer(tmp_path, backend(server, tmp_path, max_concurrency=2), 12)
        asked_before = len(server.bodies)
        server.script = lambda number, body: OK
        assert len(answer(tmp_path, backend(server, tmp_path), 12)) == 12
    assert asked_before < 10
    assert len(server.bodies) - asked_before <= 12 - 5


def test_the_key_is_in_no_file_no_log_and_no_message(tmp_path, caplog, capfd):
    """Also where the server repeats it."""
    caplog.set_level(logging.DEBUG)
    troubles: list[object] = [
        (500, {}, {"error": {"message": f"failed for Bearer {KEY}"}}),
        (400, {"X-Key": KEY}, f"bad request of {KEY}".encode()),
        f"not JSON {KEY}".encode(),
        reply(None, refusal=f"not for {KEY}"),
    ]
    says = io.StringIO()
    with running(ChatServer(lambda number, body: troubles[number % 4])) as server:
        given = backend(server, tmp_path, max_retries=0, max_concurrency=1)
        with pytest.raises(TooManyFailed) as stopped:
            answer(tmp_path, given, 2, says)
        errors = {a.key: a.error for batch in given.answers(rows(4), to_request) for a in batch}
        server.script = lambda number, body: (403, {"Location": KEY}, {"error": {"code": "x", "message": KEY}})
        with pytest.raises(EndpointRefuses) as refused:
            ask(server, tmp_path)
    shown = [
        says.getvalue(),
        caplog.text,
        *capfd.readouterr(),
        repr(given),
        str(errors),
        str(refused.value),
        str(stopped.value),
    ]
    written = [path.read_bytes().decode(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) >= 3
    assert "***" in str(errors)
    assert not [text for text in shown + written if KEY in text]


@pytest.mark.parametrize("value", ["", "  ", "two\nlines", "ключ"])
def test_a_variable_without_a_usable_key(tmp_path, monkeypatch, value):
    monkeypatch.setenv(VARIABLE, value)
    with running(ChatServer()) as server, pytest.raises(ConfigError, match=VARIABLE) as told:
        ask(server, tmp_path)
    assert not value.strip() or value not in str(told.value)


def test_a_key_in_the_place_of_the_variable_s_name_is_not_shown(tmp_path):
    with running(ChatServer()) as server, pytest.raises(ConfigError, match="must be the name of an") as told:
        ask(server, tmp_path, api_key_env=KEY)
    assert KEY not in str(told.value) and not server.bodies


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "must be like"),
        ("host/v1", "must be like"),
        ("ftp://host/v1", "must be like"),
        ("https://host/v1?key=x", "must be like"),
        ("https://me:secret@host/v1", "holds a user name or a password"),
    ],
)
def test_a_url_that_cannot_be_used(url, said):
    with pytest.raises(ConfigError, match=said) as told:
        check_url(EndpointConfig(url=url))
    assert "secret" not in str(told.value)
