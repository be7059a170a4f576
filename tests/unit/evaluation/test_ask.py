"""A row's request is the prompt of training, with its clip and sampling, and knows nothing of the label."""

import json
import pickle

import numpy as np
import pytest
import soundfile

from ssr1_rl.config.sections.data import DataConfig
from ssr1_rl.config.sections.evaluation import EvaluationConfig
from ssr1_rl.data.audio import AudioError, as_clip, load_waveform
from ssr1_rl.data.prompt import PromptBuilder
from ssr1_rl.errors import UserError
from ssr1_rl.evaluation.ask import AskQuestion, rows_of
from ssr1_rl.types import GREEDY, SAMPLE_RATE, AudioRef, Distribution, Question


@pytest.fixture
def question(tmp_path):
    noise = np.random.default_rng(0).normal(size=SAMPLE_RATE).astype(np.float32) / 10
    soundfile.write(tmp_path / "a.wav", noise, SAMPLE_RATE)
    return Question("7", "How many <|AUDIO|> beeps?", "two", ("one", "two"), (AudioRef(str(tmp_path / "a.wav")),))


def test_a_request_is_the_prompt_of_training(question, random_audio_model):
    data = DataConfig(system_prompt="Listen.")
    ask = AskQuestion(str(random_audio_model), data, 24)
    waveform = load_waveform(question.audio[0], max_audio_s=data.max_audio_s)
    of_training = PromptBuilder(str(random_audio_model), data).prepare(question, [as_clip(waveform)], [len(waveform)])
    config = EvaluationConfig(num_samples=2, temperature=0.7, top_p=0.9)
    greedy, *samples = [ask(row) for row in rows_of("test", [question], config, run_seed=3)]
    assert greedy.token_ids == samples[0].token_ids == of_training.token_ids
    placeholder = PromptBuilder(str(random_audio_model), data).audio_placeholder_id
    assert greedy.token_ids.count(placeholder) == 1, "what the question spells out is no clip"
    np.testing.assert_array_equal(greedy.waveforms[0], waveform)
    assert (greedy.distribution, greedy.max_response_tokens) == (GREEDY, 24)
    assert [sample.distribution for sample in samples] == [Distribution(0.7, 0.9)] * 2
    assert samples[0].seed != samples[1].seed
    assert [row["key"] for row in rows_of("test", [question], config, 3)] == ["test/greedy/7", "test/0/7", "test/1/7"]


def test_a_row_has_no_label(question):
    [row] = rows_of("test", [question], EvaluationConfig(), 0)
    assert "two" not in [value for name, value in row.items() if name != "choices"]
    assert json.loads(json.dumps(row)) == row, "plain values"


def test_it_is_pickled_without_what_it_has_loaded(question, random_audio_model):
    ask = AskQuestion(str(random_audio_model), DataConfig(), 24)
    [row] = rows_of("test", [question], EvaluationConfig(), 0)
    first = ask(row)
    copy = pickle.loads(pickle.dumps(ask))
    assert len(pickle.dumps(ask)) < 10_000
    assert copy(row).token_ids == first.token_ids


def test_a_question_that_cannot_be_used_raises_what_the_user_reads(question, random_audio_model):
    [row] = rows_of("test", [question], EvaluationConfig(), 0)
    with pytest.raises(AudioError, match=r"gone\.wav"):
        AskQuestion(str(random_audio_model), DataConfig(), 24)({**row, "audio": ["gone.wav"]})
    with pytest.raises(UserError, match=r"more than data\.max_prompt_tokens=8"):
        AskQuestion(str(random_audio_model), DataConfig(max_prompt_tokens=8), 24)(row)
