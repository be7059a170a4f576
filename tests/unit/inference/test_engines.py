"""What goes into an engine and what comes out, without an engine."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest

from ssr1_rl.cluster import ClusterTooSmall
from ssr1_rl.config.sections.engines import EnginesConfig
from ssr1_rl.errors import MissingFile, UserError
from ssr1_rl.inference import engine_rows
from ssr1_rl.inference.engine_log import first_cause
from ssr1_rl.inference.engine_rows import FromEngine, ToEngine, engine_fields, to_table
from ssr1_rl.inference.engines import VllmBackend
from ssr1_rl.inference.request import Answer, Request
from ssr1_rl.types import Distribution


def backend(config=None, device="cpu", **fields):
    return VllmBackend("m", "float32", device, config or EnginesConfig(), 512, **fields)


def test_rows_keep_their_values_exactly():
    """As Arrow columns, a list would come back as an array, and what a row lacks as None."""
    rows = [{"key": "a", "choices": ["x"], "n": 1}, {"key": "b", "n": 0.5, "none": None}]
    table = to_table(rows, 7).to_pylist()
    assert [row["index"] for row in table] == [7, 8]
    assert [pickle.loads(row["row"]) for row in table] == rows


def row_of(**values):
    [record] = to_table([{"key": "a", **values}], 0).to_pylist()
    return record


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UserError("clip.wav:\n it is empty"), "clip.wav: it is empty"),
        (ValueError("bad"), "ValueError: bad"),
        (RuntimeError(), "RuntimeError: RuntimeError"),
    ],
)
def test_a_row_that_makes_no_request_goes_on_with_its_error(error, told):
    def to_request(row):
        raise error

    fields = ToEngine(to_request)(row_of())
    assert fields[engine_rows.ERROR] == told
    assert "tokenized_prompt" not in fields


def test_a_long_error_is_cut():
    def to_request(row):
        raise ValueError("x" * 10_000)

    assert len(ToEngine(to_request)(row_of())[engine_rows.ERROR]) == engine_rows.MAX_ERROR_CHARS + 1


def test_every_sampling_field_is_set():
    distribution = Distribution(0.7, top_p=0.9, top_k=5, min_p=0.01)
    sampling = engine_fields(Request((1, 2), max_response_tokens=9, distribution=distribution, seed=3))[
        "sampling_params"
    ]
    assert sampling.pop("output_kind").__reduce__()[0] is engine_rows._final_only
    assert sampling == {
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.01,
        "seed": 3,
        "max_tokens": 9,
        "min_tokens": 0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "stop_token_ids": None,
        "skip_special_tokens": False,
        "detokenize": False,
    }


def test_clips_images_and_allowed_tokens():
    clip, image = np.zeros(160, np.float32), np.full((2, 3, 3), 9, np.uint8)
    fields = engine_fields(Request((1,), waveforms=(clip,), images=(image, image), allowed_token_ids=(4, 2)))
    [(waveform, rate)] = fields["multimodal_data"]["audio"]
    assert waveform is clip
    assert rate == 16_000
    assert [picture.size for picture in fields["multimodal_data"]["image"]] == [(3, 2), (3, 2)]
    assert fields["sampling_params"]["allowed_token_ids"] == [4, 2]
    assert fields["sampling_params"]["logprob_token_ids"] == [4, 2]
    assert engine_fields(Request((1,)))["multimodal_data"] is None


@pytest.fixture
def decoder(monkeypatch):
    text = SimpleNamespace(
        prefill=lambda ids: "<think>" if ids[-1] == 5 else "",
        decode=lambda tokens, reason, prefill: f"{prefill}|{tokens}|{reason}",
    )
    monkeypatch.setattr(engine_rows, "_decoder", lambda path: (text, frozenset({0, 1})))


@pytest.mark.parametrize(
    ("tokens", "reason"), [([7, 8, 1], "stop"), ([7, 8, 0], "stop"), ([7, 1, 8], "length"), ([], "length")]
)
def test_the_last_token_tells_why_a_response_ended(decoder, tokens, reason):
    row = {
        "index": 3,
        "generated_tokens": np.array(tokens),
        "prompt_token_ids": [4, 5],
        "num_input_tokens": 2,
        "logprobs": None,
        "is_restricted": False,
    }
    record = FromEngine("m")(row)
    assert record["index"] == 3
    answer = pickle.loads(record["answer"])
    assert answer == Answer("", f"<think>|{tokens}|{reason}", 2, len(tokens), reason, prefill="<think>")
    assert answer.full_text == "<think>" + answer.text


def test_log_probs_of_a_restricted_row(decoder):
    row = {
        "index": 0,
        "generated_tokens": [7],
        "prompt_token_ids": [4],
        "num_input_tokens": 1,
        "logprobs": [{7: {"logprob": -0.1, "rank": 1}, 9: {"logprob": -2.5, "rank": 2}}],
        "is_restricted": True,
    }
    assert pickle.loads(FromEngine("m")(row)["answer"]).first_logprobs == {7: -0.1, 9: -2.5}


def test_engine_arguments():
    args = backend(EnginesConfig(engine_args={"block_size": 16}), max_clips=2, max_images=3, seed=5).engine_args()
    assert args["limit_mm_per_prompt"] == {"audio": 2, "image": 3}
    assert (args["seed"], args["max_model_len"], args["logprobs_mode"]) == (5, 512, "processed_logprobs")
    assert args["block_size"] == 16
    assert args["enable_chunked_prefill"] is False
    assert not {"model", "weight_transfer_config", "worker_extension_cls"} & args.keys()
    on_gpus = backend(EnginesConfig(tensor_parallel_size=4), "cuda").engine_args()
    assert on_gpus["gpu_memory_utilization"] == 0.9
    assert on_gpus["distributed_executor_backend"] == "mp"
    assert "enforce_eager" not in on_gpus
    assert "limit_mm_per_prompt" not in on_gpus


def test_an_engine_reserves_its_cores_once_and_a_gpu_per_process():
    assert backend(EnginesConfig(num_cpus=2.0)).bundle() == {"CPU": 2.0}
    assert backend(EnginesConfig(num_cpus=2.0, tensor_parallel_size=4), "cuda").bundle() == {"CPU": 0.5, "GPU": 1.0}


@pytest.mark.parametrize(
    ("config", "device", "said"),
    [
        (EnginesConfig(num_engines=3), "cpu", r"3 engines of m need 3.5 CPUs .*, but the cluster has 3 CPUs"),
        (
            EnginesConfig(tensor_parallel_size=2),
            "cuda",
            r"need 1.5 CPUs and 2 GPUs .*the cluster has 3 CPUs and 1 GPUs",
        ),
    ],
)
def test_engines_that_never_fit_are_refused_at_once(monkeypatch, config, device, said):
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 3.0, "GPU": 1.0})
    backend(EnginesConfig(num_engines=2)).check_fits()
    with pytest.raises(ClusterTooSmall, match=said):
        backend(config, device).check_fits()


def test_a_model_that_is_not_there(tmp_path):
    missing = VllmBackend(str(tmp_path / "nowhere"), "float32", "cpu", EnginesConfig(), 512)
    with pytest.raises(MissingFile, match=r"the model .*nowhere does not exist"):
        next(missing.answers([{"key": "a"}], lambda row: Request()))


VLLM_LOG = """\
(EngineCore pid=5) WARNING 11-27 12:00:01 something is slow
(EngineCore pid=5) ERROR 11-27 12:00:02 [core.py:1] EngineCore failed to start.
(EngineCore pid=5) ERROR 11-27 12:00:02 [core.py:1] Traceback (most recent call last):
(EngineCore pid=5) ERROR 11-27 12:00:02 [core.py:1]   File "core.py", line 1, in run
(EngineCore pid=5) ERROR 11-27 12:00:02 [core.py:1] torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB
Process EngineCore:
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""


def test_the_cause_of_a_failed_start():
    told = "Engine core initialization failed. See root cause above. Failed core proc(s): {}"
    assert first_cause(VLLM_LOG, told) == "torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB"
    assert first_cause("nothing\n", told) == told
    assert first_cause(VLLM_LOG, "1 validation error\n for ModelConfig") == "1 validation error for ModelConfig"
