"""A row for each chain, and its request: frames, prompt, and a seed of its own."""

import dataclasses
import json
import pickle

import pytest

from ssr1_rl.config.environment import FromEnvironment
from ssr1_rl.config.sections.data import DataConfig
from ssr1_rl.config.sections.engines import EndpointConfig, EnginesConfig
from ssr1_rl.config.sections.teacher import TeacherConfig
from ssr1_rl.data.frames import VideoError
from ssr1_rl.distill import chain_rows
from ssr1_rl.distill.chain_rows import ChainRequest, chain_key, fingerprint, question_of, rows_of
from ssr1_rl.types import Distribution, VideoRef


@pytest.fixture
def teacher(tiny_vision_model):
    return TeacherConfig(
        model=str(tiny_vision_model), num_chains=3, temperature=0.7, top_p=0.9, max_response_tokens=20, frame_size=32
    )


def test_a_row_for_each_chain_those_of_a_question_together(question):
    other = dataclasses.replace(question, id="8")
    rows = rows_of([question, other], num_chains=2, seed=0)
    assert (
        [row["key"] for row in rows] == ["7/0", "7/1", "8/0", "8/1"] == [chain_key(q, i) for q in "78" for i in (0, 1)]
    )
    assert len({row["seed"] for row in rows}) == 4
    assert all(0 <= row["seed"] < 2**31 for row in rows)


def test_the_label_is_not_in_a_row(question):
    question = dataclasses.replace(question, ground_truth="THE LABEL", metadata={"answer": "THE LABEL"})
    assert "LABEL" not in json.dumps(rows_of([question], 4, 0))


def test_seeds_depend_on_the_run_s_seed_the_question_and_the_chain_alone(question):
    def seeds(seed, *questions):
        return {row["key"]: row["seed"] for row in rows_of(questions, 2, seed)}

    other = dataclasses.replace(question, id="8")
    assert seeds(0, other, question) == seeds(0, question, other)
    assert not set(seeds(0, question).values()) & set(seeds(1, question).values())


def test_a_row_says_all_that_the_prompt_needs(question):
    [row] = rows_of([question], 1, 0)
    read = question_of(row)
    assert (read.id, read.text, read.choices, read.video) == ("7", question.text, question.choices, question.video)
    stills = dataclasses.replace(question, video=VideoRef(stills=("a.png", "b.png")), choices=())
    read = question_of(rows_of([stills], 1, 0)[0])
    assert (read.video, read.choices) == (stills.video, ())


def test_the_request_of_a_row(question, teacher):
    rows = rows_of([question], 3, seed=5)
    # As Ray Data ships it to its workers, also after it was used.
    maker = ChainRequest(teacher, DataConfig())
    maker(rows[0])
    shipped = pickle.dumps(maker)
    assert len(shipped) < 5_000  # without the tokenizer
    first, second, _ = map(pickle.loads(shipped), rows)
    assert first.token_ids == second.token_ids and first.seed != second.seed
    assert [image.shape for image in first.images] == [(24, 32, 3), (24, 32, 3)]
    assert first.distribution == Distribution(temperature=0.7, top_p=0.9)
    assert (first.max_response_tokens, first.allowed_token_ids, first.waveforms) == (20, (), ())


def test_a_video_is_decoded_once_for_the_chains_of_its_question(question, teacher, monkeypatch):
    decoded = []
    load = chain_rows.load_frames
    monkeypatch.setattr(chain_rows, "load_frames", lambda ref, **options: decoded.append(ref) or load(ref, **options))
    chain_rows._frames.cache_clear()
    list(map(ChainRequest(teacher, DataConfig()), rows_of([question], 3, 0)))
    assert decoded == [question.video]


def test_a_broken_video_is_the_row_s_error(question, teacher, tmp_path):
    (tmp_path / "clip.mp4").write_text("no video")
    [row] = rows_of([dataclasses.replace(question, video=VideoRef(str(tmp_path / "clip.mp4")))], 1, 0)
    with pytest.raises(VideoError, match=r"clip\.mp4: corrupt"):
        ChainRequest(teacher, DataConfig())(row)


def test_the_fingerprint_changes_with_what_is_asked_and_not_with_what_is_kept(teacher):
    def of(data=None, seed=0, **changes):
        found = fingerprint(dataclasses.replace(teacher, **changes), data or DataConfig(), seed)
        assert json.loads(json.dumps(found)) == found
        return found

    before = of()
    same = {
        "keep": "majority",
        "min_vote_share": 0.9,
        "forbidden_words": ["x"],
        "num_chains": 9,
        "max_failed_share": 1.0,
    }
    for name, value in same.items():
        assert of(**{name: value}) == before, name
    other = {"model": "x", "temperature": 0.1, "top_p": 0.1, "max_frames": 1, "frames_per_s": 9.0, "frame_size": 99}
    other |= {"instruction": "x", "system_prompt": "x", "max_response_tokens": 9, "dtype": "float32"}
    other |= {"engines": EnginesConfig(engine_args={"quantization": "fp8"})}
    other |= {"endpoint": EndpointConfig(request_fields={"top_k": 5})}
    for name, value in other.items():
        assert of(**{name: value}) != before, name
    assert of(DataConfig(replace_video_by_audio=True)) != before != of(seed=1)


def test_the_fingerprint_holds_no_secret_and_changes_with_it(teacher):
    """It is kept in a file, and told when it changes."""

    def of(key):
        text = FromEnvironment(key, "${oc.env:NAME}")
        endpoint = EndpointConfig(url="http://host/v1", request_fields={"provider": {"token": key}})
        asked = dataclasses.replace(teacher, system_prompt=text, endpoint=endpoint)
        return fingerprint(asked, DataConfig(), 0)

    assert "sk-123456" not in json.dumps(of("sk-123456"))
    assert of("sk-123456")["teacher.system_prompt"] == "${oc.env:NAME}"
    assert of("sk-123456") != of("sk-654321")


def test_the_fingerprint_changes_when_the_model_s_folder_holds_another_model(teacher, tmp_path):
    teacher = dataclasses.replace(teacher, model=str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"1")
    before = fingerprint(teacher, DataConfig(), 0)
    assert fingerprint(teacher, DataConfig(), 0) == before
    (tmp_path / "model.safetensors").write_bytes(b"trained")
    assert fingerprint(teacher, DataConfig(), 0) != before
