"""The stage from settings to the table: what it asks, writes, refuses, and does again after a kill."""

import contextlib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ssr1_rl.checks.distill_rules import load_distill
from ssr1_rl.cli_distill import app
from ssr1_rl.distill import teacher
from ssr1_rl.distill.chains import read_chains
from ssr1_rl.distill.generation.dry_run import print_dry_run
from ssr1_rl.distill.teacher import generate
from ssr1_rl.errors import ConfigError, Interrupted, MissingFile, UserError
from ssr1_rl.inference.answers import TooManyFailed
from ssr1_rl.inference.request import Answer
from ssr1_rl.store.folder import RunFolderInUse, claim

NUM = 6


class Scripted:
    """A backend that answers chain i of a question with the i-th letter, and counts what it is asked."""

    def __init__(self, stop_after=None, fail=()):
        self.asked, self.prompts, self._stop_after, self._fail = [], [], stop_after, fail

    def answers(self, rows, to_request):
        for start in range(0, len(rows), 6):
            left = len(rows) if self._stop_after is None else self._stop_after - len(self.asked)
            batch = rows[start : min(start + 6, start + left)]
            yield [self._answer(row, to_request) for row in batch]
            if len(batch) < len(rows[start : start + 6]):
                raise KeyboardInterrupt

    def _answer(self, row, to_request):
        self.asked.append(row["key"])
        if row["key"] in self._fail:
            return Answer(row["key"], error="lost")
        self.prompts.append(to_request(row))
        letter = "AB"[int(row["key"].rpartition("/")[2]) % 2]
        text = f"<think> chain {row['key']} </think> <answer> {letter} </answer>"
        return Answer(row["key"], text=text, num_tokens=9, finish_reason="stop")


@pytest.fixture
def launch(tmp_path, video, tiny_vision_model, monkeypatch) -> Path:
    """A launch file of six questions with videos."""
    rows = [
        {
            "id": str(index),
            "question": "What do you hear?",
            "choices": ["a bark", "a horn"],
            "answer": "a bark",
            "kind": ["animals", "traffic"][index % 2],
            "audio": [],
            "video": video.name,
        }
        for index in range(NUM)
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "distill.yaml"
    path.write_text(
        f"run: {{name: test, dir: {tmp_path}/run, device: cpu}}\n"
        f"data: {{train: {{format: jsonl, path: {tmp_path}/train.jsonl, video_dir: {video.parent}}}}}\n"
        f"teacher: {{model: {tiny_vision_model}, num_chains: 3, forbidden_words: []}}\n"
    )
    monkeypatch.setattr(teacher, "connected", contextlib.nullcontext)
    return path


@pytest.fixture
def backend(monkeypatch):
    def use(scripted):
        monkeypatch.setattr(teacher, "_backend", lambda config, folder: scripted)
        return scripted

    return use


def test_every_chain_is_in_the_table_with_why(launch, backend, tmp_path, capsys):
    used = backend(Scripted())
    summary = generate(load_distill(launch))
    chains = read_chains(tmp_path / "run/chains.parquet")
    assert [(chain.question_id, chain.chain) for chain in chains] == [(str(q), c) for q in range(NUM) for c in range(3)]
    assert [chain.reason for chain in chains[:3]] == ["right", "wrong answer", "right"]
    assert chains[2].text == "<think> chain 0/2 </think> <answer> a bark </answer>"
    assert chains[2].vote_share == pytest.approx(2 / 3)
    assert len(used.asked) == 18 and len({prompt.seed for prompt in used.prompts}) == 18
    figures = {"num_questions": 6, "num_chains": 18, "num_kept": 12, "num_questions_without_a_kept_chain": 0}
    assert figures.items() <= summary.items()
    assert summary["kept_share"] == summary["right_share"] == pytest.approx(2 / 3)
    assert summary["reasons"] == {"right": 12, "wrong answer": 6}
    assert {kind: of["num_kept"] for kind, of in summary["by_kind"].items()} == {"animals": 6, "traffic": 6}
    assert json.loads((tmp_path / "run/generate_summary.json").read_text()) == summary
    printed = capsys.readouterr().out
    assert "kept_share" in printed and "wrong answer" in printed and "traffic" in printed


def test_a_stage_that_was_stopped_asks_only_for_the_rest(launch, backend, tmp_path):
    first = backend(Scripted(stop_after=7))
    with pytest.raises(Interrupted, match="the same command"):
        generate(load_distill(launch))
    assert not (tmp_path / "run/chains.parquet").exists()
    rest = backend(Scripted())
    generate(load_distill(launch))
    assert len(first.asked) == 7 and not set(first.asked) & set(rest.asked)
    assert len(read_chains(tmp_path / "run/chains.parquet")) == 18


def test_another_rule_judges_the_same_answers_anew(launch, backend, tmp_path):
    backend(Scripted())
    generate(load_distill(launch))
    again = backend(Scripted())
    generate(load_distill(launch, ["teacher.keep=majority", "teacher.forbidden_words=[chain 0/0]"]))
    assert again.asked == []
    chains = read_chains(tmp_path / "run/chains.parquet")
    assert [chain.reason for chain in chains[:3]] == ["forbidden word: chain 0/0", "minority", "majority"]
    assert {chain.is_right for chain in chains} == {None}
    summary = json.loads((tmp_path / "run/generate_summary.json").read_text())
    assert summary["right_share"] is None and summary["by_kind"]["animals"]["right_share"] is None


def test_more_chains_ask_for_the_new_ones_alone(launch, backend):
    backend(Scripted())
    generate(load_distill(launch))
    more = backend(Scripted())
    generate(load_distill(launch, ["teacher.num_chains=4"]))
    assert more.asked == [f"{index}/3" for index in range(NUM)]


def test_a_failed_request_is_a_chain_that_is_not_kept(launch, backend, tmp_path):
    backend(Scripted(fail=["2/1"]))
    generate(load_distill(launch))
    [failed] = [chain for chain in read_chains(tmp_path / "run/chains.parquet") if chain.reason.startswith("failed")]
    assert (failed.question_id, failed.chain, failed.reason) == ("2", 1, "failed: lost")


def test_too_many_failed_requests_end_the_stage(launch, backend):
    backend(Scripted(fail=["2/1", "2/2"]))
    with pytest.raises(TooManyFailed, match=r"teacher writes chains: 2 of .* failed"):
        generate(load_distill(launch))


def test_two_runs_in_one_folder_are_refused(launch, backend, tmp_path):
    backend(Scripted())
    with claim(tmp_path / "run"), pytest.raises(RunFolderInUse, match="another process is running in"):
        generate(load_distill(launch))


def test_nothing_to_learn_from_is_an_error_and_the_table_says_why(launch, backend, tmp_path):
    backend(Scripted())
    with pytest.raises(UserError, match=r"no chain is kept, .*chains\.parquet says why"):
        generate(load_distill(launch, ["teacher.forbidden_words=[chain]"]))
    assert {chain.reason for chain in read_chains(tmp_path / "run/chains.parquet")} == {
        "forbidden word: chain",
        "wrong answer",
    }
    assert json.loads((tmp_path / "run/generate_summary.json").read_text())["forbidden_words"] == {"chain": 12}


def test_the_settings_of_the_last_start_are_kept(launch, backend, tmp_path):
    backend(Scripted())
    generate(load_distill(launch, ["run.seed=3"]))
    written = (tmp_path / "run/generate/config.yaml").read_text()
    assert "seed: 3" in written and "num_chains: 3" in written
    assert load_distill(tmp_path / "run/generate/config.yaml").teacher.num_chains == 3


# --- questions without a video


def test_questions_without_a_video_are_listed_and_counted(launch, backend, tmp_path):
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    rows[4]["video"] = "gone.mp4"
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    backend(Scripted())
    with pytest.raises(UserError, match=r"1 of 6 (rows|questions).*data\.max_skipped_share"):
        generate(load_distill(launch))
    summary = generate(load_distill(launch, ["data.max_skipped_share=0.2"]))
    assert (summary["num_questions"], summary["num_questions_left_out"]) == (5, 1)
    [listed] = [json.loads(line) for line in (tmp_path / "run/generate/left_out.jsonl").read_text().splitlines()]
    assert listed["source"].endswith("train.jsonl row 5") and "video" in listed["reason"]


def test_a_data_set_without_videos_is_refused(launch):
    with pytest.raises(UserError, match=r"none of 6 questions .* has a video.*set data\.train\.video_dir"):
        generate(load_distill(launch, ["data.train.video_dir=''"]))


def test_videos_of_which_none_can_be_used_are_refused(launch, video, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / video.name).write_text("no video")
    with pytest.raises(UserError, match=r"none of 6 questions that were tried .*clip\.mp4: corrupt"):
        generate(load_distill(launch, [f"data.train.video_dir={folder}"]))


def test_a_missing_file_is_told_with_what_makes_it(launch):
    with pytest.raises(MissingFile, match=r"data\.train\.path .*gone\.jsonl is not a file.*To get it: make it$"):
        generate(load_distill(launch, ["data.train.path=gone.jsonl", "run.setup=make it"]))
    with pytest.raises(MissingFile, match=r"teacher\.model gone does not exist.*To get it: make it$"):
        generate(load_distill(launch, ["teacher.model=gone", "run.setup=make it"]))


# --- dry run


def test_a_dry_run_shows_a_prompt_counts_requests_and_writes_nothing(launch, tmp_path, capsys):
    print_dry_run(load_distill(launch))
    printed = capsys.readouterr().out
    assert "requests" in printed and "18" in printed and "nothing was started" in printed
    assert "2 frames of 64 x 48, " in printed and "tokens with one for each frame" in printed
    assert "User:<image><image>What do you hear?\n(A) a bark\n(B) a horn\nYou see frames of a silent video." in printed
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("stage", ["generate", "verify", "calibrate"])
def test_settings_without_effect_are_noted(launch, stage):
    (launch.parent / "labels.jsonl").touch()
    given = ["run.resume=never", "run.max_time_s=60", "run.wait_for_resources_s=5"]
    given += ["teacher.endpoint.request_fields={api_key: sk-123456}", "teacher.endpoint.max_tokens=9"]
    of_verifier = ["verifier.model=x", "verifier.labels=labels.jsonl"]
    said = CliRunner().invoke(app, [stage, str(launch), "--dry-run", *given, *of_verifier]).output
    for setting in ("run.resume=never", "run.max_time_s=60", "run.wait_for_resources_s=5"):
        assert f"note: {setting} has no effect here" in said
    assert ("max_tokens=9 has no effect without teacher.endpoint.url" in said) == (stage == "generate")
    assert "note: teacher.endpoint.request_fields.api_key looks like a secret" in said and "sk-123456" not in said
    assert "no effect" not in CliRunner().invoke(app, [stage, str(launch), "--dry-run", *of_verifier]).output


def test_a_dry_run_downloads_no_model_and_decodes_a_video_all_the_same(launch, tmp_path, video, capsys):
    settings = ["teacher.model=someone/large-model"]
    print_dry_run(load_distill(launch, settings))
    printed = capsys.readouterr().out
    assert (
        "2 frames of 64 x 48" in printed and "left out: its prompt, because the model is not downloaded yet" in printed
    )
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / video.name).write_text("no video")
    with pytest.raises(UserError, match="none of 6 questions that were tried can be used"):
        print_dry_run(load_distill(launch, [*settings, f"data.train.video_dir={tmp_path}/videos"]))


def test_a_dry_run_of_an_endpoint_needs_no_model(launch, capsys):
    print_dry_run(load_distill(launch, ["teacher.model=some/model", "teacher.endpoint.url=http://host/v1"]))
    printed = capsys.readouterr().out
    assert "http://host/v1" in printed and "user: [frame] [frame] What do you hear?" in printed


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["teacher.endpoint.url=host/v1"], r"endpoint\.url must be like https://host/v1, got 'host/v1'"),
        (
            ["teacher.endpoint.url=http://host/v1", "teacher.endpoint.api_key_env=NO_SUCH_KEY"],
            "environment variable NO_SUCH_KEY, which is not set",
        ),
    ],
)
def test_an_endpoint_that_cannot_be_used_is_refused_before_anything_starts(launch, tmp_path, overrides, message):
    for run in (generate, print_dry_run):
        with pytest.raises(ConfigError, match=message):
            run(load_distill(launch, overrides))
    assert not (tmp_path / "run").exists()
