"""A teacher behind an OpenAI-compatible server: a real one on this machine."""

import base64
import io
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from ssr1_rl.checks.distill_rules import load_distill
from ssr1_rl.distill.chains import read_chains
from ssr1_rl.distill.teacher import generate
from ssr1_rl.inference.budget import BudgetSpent
from tests.unit.inference.chat_server import ChatServer, reply, running

RIGHT = "<think>A dog barks.</think><answer>A</answer>"


@pytest.fixture
def launch(tmp_path, video):
    rows = [
        {"id": id, "question": f"What do you hear in {id}?", "choices": ["a bark", "a horn"], "answer": "a bark"}
        | {"audio": [], "video": video.name}
        for id in ("one", "two")
    ]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    path = tmp_path / "distill.yaml"
    path.write_text(
        f"run: {{name: test, dir: {tmp_path}/run, device: cpu}}\n"
        f"data: {{train: {{format: jsonl, path: {tmp_path}/train.json, video_dir: {video.parent}}}}}\n"
        "teacher:\n  model: some/model\n  num_chains: 3\n  temperature: 0.7\n  top_p: 0.9\n  max_response_tokens: 40\n"
        "  instruction: Think.\n  endpoint: {api_key_env: TEACHER_KEY, max_retries: 2}\n"
    )
    return path


def ask(launch, server, *overrides):
    return generate(load_distill(launch, [f"teacher.endpoint.url={server.url}", *overrides]))


def question_of(body):
    return body["messages"][-1]["content"][-1]["text"].split()[5].rstrip("?")


def test_a_server_is_asked_with_the_frames_and_its_answers_are_judged(launch, tmp_path, monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", "the-secret")
    with running(ChatServer(lambda number, body: reply(RIGHT, completion_tokens=8))) as server:
        summary = ask(launch, server)
    assert Counter(map(question_of, server.bodies)) == {"one": 3, "two": 3}
    assert len({body["seed"] for body in server.bodies}) == 6
    body = server.bodies[0]
    assert (body["model"], body["temperature"], body["top_p"], body["max_tokens"]) == ("some/model", 0.7, 0.9, 40)
    first, second, text = body["messages"][0]["content"]
    assert text["text"].endswith("?\n(A) a bark\n(B) a horn\nThink.")
    levels = [np.asarray(Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].split(",")[1])))).mean()
              for part in (first, second)]  # fmt: skip
    assert levels == pytest.approx([25, 75], abs=3)  # of the frames at 0.5 s and 1.5 s
    chains = read_chains(tmp_path / "run/chains.parquet")
    assert [chain.reason for chain in chains] == ["right", "duplicate", "duplicate"] * 2
    assert {chain.num_tokens for chain in chains} == {8}
    assert summary["num_kept"] == 2
    assert server.headers[0]["Authorization"] == "Bearer the-secret"
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file() and b"the-secret" in path.read_bytes()]
    assert not written


def test_what_a_server_refuses_or_cuts_off_is_a_chain_that_is_not_kept(launch, tmp_path, monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", "k")
    # By its seed, because requests come in any order.
    seen: list[int] = []

    def script(number, body):
        if body["seed"] not in seen:
            seen.append(body["seed"])
        return {0: (400, {}, {"error": {"message": "too many images"}}), 1: reply("<think>A", "length")}.get(
            seen.index(body["seed"]), reply(RIGHT)
        )

    with running(ChatServer(script)) as server:
        ask(launch, server, "teacher.max_failed_share=0.5")
    reasons = Counter(chain.reason for chain in read_chains(tmp_path / "run/chains.parquet"))
    [failed] = [reason for reason in reasons if reason.startswith("failed: ")]
    assert "400" in failed and "too many images" in failed
    assert reasons["cut off"] == 1 and reasons["right"] >= 1


def test_a_stage_whose_budget_is_spent_goes_on_when_it_is_raised(launch, tmp_path, monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", "k")
    with running(ChatServer(lambda number, body: reply(RIGHT))) as server:
        with pytest.raises(BudgetSpent):
            ask(launch, server, "teacher.endpoint.max_requests=4")
        assert len(server.bodies) == 4
        ask(launch, server, "teacher.endpoint.max_requests=6")
        assert len(server.bodies) == 6
    assert len({(question_of(body), body["seed"]) for body in server.bodies}) == 6
    assert len(read_chains(tmp_path / "run/chains.parquet")) == 6


def test_a_broken_video_fails_its_own_rows_alone(launch, tmp_path, video, monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", "k")
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "good.mp4").write_bytes(video.read_bytes())
    (folder / "bad.mp4").write_bytes(video.read_bytes()[:-100])
    rows = json.loads((tmp_path / "train.json").read_text())
    rows = [row | {"video": name} for row, name in zip(rows, ("good.mp4", "bad.mp4"), strict=True)]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    with running(ChatServer(lambda number, body: reply(RIGHT))) as server:
        ask(launch, server, f"data.train.video_dir={folder}", "teacher.max_failed_share=0.5")
    assert len(server.bodies) == 3
    reasons = [chain.reason for chain in read_chains(tmp_path / "run/chains.parquet")]
    assert reasons[:3] == ["right", "duplicate", "duplicate"]
    assert all("bad.mp4: truncated" in reason for reason in reasons[3:])
