"""`ssr1-rl data show` prints what the model gets; both commands read only the data of a launch file."""

import json

import pytest
from typer.testing import CliRunner

from ssr1_rl import cli
from tests.unit.data.distributed import put, wav

ROWS = [
    {
        "id": 1,
        "question": "Which?",
        "choices": ["dog", "cat"],
        "answer": "B",
        "audio": "a.wav",
        "kind": "animal",
        "x": 3,
    },
    {"id": 2, "question": "\x1b[31mRed <|AUDIO|>?", "answer": "[bold]two[/]"},
    {"id": 3, "question": "Broken?", "answer": "x", "audio": "broken.wav"},
    {"id": 4, "question": "long " * 5000, "answer": "x"},
]


@pytest.fixture
def spec(tmp_path):
    put(tmp_path, a__wav=wav(1.5), broken__wav=b"no sound")
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    path = tmp_path / "launch.yaml"
    path.write_text(
        f"data:\n  train: {{format: jsonl, path: {tmp_path}/rows.jsonl}}\n"
        f"  validation: {{v: {{format: jsonl, path: {tmp_path}/rows.jsonl, kinds: [animal]}}}}\n"
        "rollout:\n  num_workers: ${oc.env:NOT_SET_ANYWHERE}\n"
    )
    return path


def run(*arguments):
    result = CliRunner().invoke(cli.app, ["data", *map(str, arguments)], catch_exceptions=True)
    return result.output, result.exception


def test_samples_as_the_model_gets_them(spec, random_audio_model):
    text, error = run("show", spec, "--model", random_audio_model)
    assert error is None
    # 1.5 s are 150 frames of mel, and these 37 audio tokens
    assert "rows.jsonl row 1, id 1: " in text and "37 of them for 1.50 s of audio" in text
    assert "Audio 1: <|audio_bos|><|AUDIO|><|audio_eos|>\nWhich?\n(A) dog\n(B) cat\n" in text
    assert "answer: cat\nkind: animal\n" in text and 'metadata: {"x": 3}' in text
    assert "\\x1b[31mRed < |AUDIO|>?" in text and "answer: [bold]two[/]" in text
    assert "id 3\ncannot be used: " in text and "broken.wav" in text
    assert "id 4\ncannot be used: " in text and "more than data.max_prompt_tokens=4096" in text


def test_a_number_of_samples_of_a_split(spec, random_audio_model):
    text, _ = run("show", spec, "-n", 1, "--split", "v", f"model.path={random_audio_model}")
    assert text.count("answer: ") == 1 and "rows.jsonl row 1" in text and "cannot be read" not in text
    text, error = run("show", spec, "--split", "w", "--model", random_audio_model)
    assert "there is no such split; the settings name data.train, data.validation.v" in str(error)


def test_show_needs_a_model(spec):
    assert "names no model, whose tokenizer makes the prompts; give one: --model PATH" in str(run("show", spec)[1])


def test_rows_that_cannot_be_read_are_told_beside_the_samples(spec, tmp_path, random_audio_model):
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROWS[0] | {"answer": "cow"}) + "\n" + json.dumps(ROWS[1]))
    text, error = run("show", spec, "--model", random_audio_model)
    assert error is None and text.count("\nanswer: ") == 1
    assert "cannot be read: 1, for example " in text and "'cow' is not one of the choices" in text


def test_the_splits_of_a_recipes_stages_are_read_too(spec, tmp_path, monkeypatch):
    """With questions of text alone, so nothing is decoded."""
    rows = "\n".join(json.dumps({"id": i, "question": f"{i}?", "answer": "x"}) for i in range(4))
    (tmp_path / "rows.jsonl").write_text(rows)
    file = f"format: jsonl, path: {tmp_path}/rows.jsonl"
    spec.write_text(
        f"data: {{train: {{{file}, skip_questions: 2}}, validation: {{v: {{{file}, max_questions: 1}}}}}}\n"
        f"stages:\n  grpo: {{data: {{validation: {{held_out: {{{file}, max_questions: 3}}}}}}}}\n"
        f"  evaluate: {{data: {{validation: {{v: {{max_questions: 2}}}}}}}}\n"
    )
    report = json.loads(run("check", spec, "--json")[0])
    assert {split["split"]: split["num_questions"] for split in report["splits"]} == {
        "data.train": 2,
        "data.validation.v": 1,
        "stages.grpo.data.validation.held_out": 3,
        "stages.evaluate.data.validation.v": 2,
    }
    assert [(found["split"], found["kind"]) for found in report["findings"]] == [
        ("stages.grpo.data.validation.held_out", "question of train")
    ]
    text = str(run("show", spec, "--split", "held", "--model", "x")[1])
    assert "name data.train, data.validation.v, stages.grpo.data.validation.held_out" in text


@pytest.mark.parametrize("command", ["check", "show"])
def test_wrong_settings_are_refused_as_for_a_run(spec, command):
    error = str(run(command, spec, "data.trian.path=x")[1])
    assert "data.trian" in error and "train" in error
    assert "an override has none: data.max_audio_s=3" in str(run(command, spec, "--data.max_audio_s=3")[1])
    spec.write_text("run: {name: x}\n")
    assert "the settings name no data" in str(run(command, spec, "model.path=x")[1])


def test_a_file_of_text_alone_is_checked_without_ray(spec, tmp_path, monkeypatch):
    import ray

    monkeypatch.setattr(ray, "init", lambda *_args, **_kwargs: pytest.fail("Ray was started"))
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROWS[1]) + "\n" + json.dumps(ROWS[1] | {"id": 7}))
    text, error = run("check", spec, "~data.validation")
    assert isinstance(error, SystemExit) and error.code == 1
    assert "data.train: repeated question: 1\n" in text and "something is wrong" in text
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROWS[1]))
    text, error = run("check", spec, "~data.validation")
    assert error is None and "nothing is wrong" in text
    text, error = run("check", spec, "~data.validation", "--json")
    assert error is None and json.loads(text)["ok"] is True
