"""What the policy of a model that sees has learned is the same in transformers and in vLLM, from prompt to log-prob."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssr1_rl.data.images import ImagePrompts, image_clip
from ssr1_rl.data.prompt import expand_audio_placeholders
from ssr1_rl.demo.tiny_vision import build_tiny_idefics3
from ssr1_rl.store.export import write_model_folder
from ssr1_rl.trainer.batches.clips import ClipInputs
from ssr1_rl.trainer.batches.rows import MicroBatch, Row, collate
from ssr1_rl.trainer.model.families import load_model
from ssr1_rl.trainer.model.policy import Policy
from ssr1_rl.types import SOFTMAX, PreparedQuestion, Question
from ssr1_rl.weights.parameters import named_weights
from tests.integration.ranks import make_learner, random_groups, relative_difference, run_ranks, whole_gradient

TEXTS = ["What is seen first, and what is seen last?", "<think> a bell </think> <answer> bell </answer>"]
NUM_TOKENS = 8


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    sizes = {"hidden_size": 64, "num_layers": 2, "tower_size": 64, "image_size": 32, "patch_size": 8, "scale_factor": 2}
    return str(build_tiny_idefics3(tmp_path_factory.mktemp("models") / "vision", TEXTS, **sizes))


@pytest.fixture(scope="module")
def engine_prompts(base: str) -> list[tuple[tuple[int, ...], list[np.ndarray]]]:
    """Token ids with one placeholder per image, and the images: three, one, and none."""
    from transformers import AutoTokenizer

    tokenizer, rng = AutoTokenizer.from_pretrained(base), np.random.default_rng(0)
    found = []
    for shapes in ([(32, 32), (20, 48), (40, 64)], [(64, 64)], []):
        images = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
        content = [*[{"type": "image"}] * len(images), {"type": "text", "text": TEXTS[0]}]
        text: Any = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        found.append((tuple(tokenizer(text, add_special_tokens=False)["input_ids"]), images))
    return found


@pytest.fixture(scope="module")
def prepared(base: str, engine_prompts: list[tuple[tuple[int, ...], list[np.ndarray]]]) -> list[PreparedQuestion]:
    prompts = ImagePrompts(base)
    return [prompts.prepare(Question(str(i), "", ""), *prompt) for i, prompt in enumerate(engine_prompts)]


def expanded(base: str, question: PreparedQuestion) -> tuple[int, ...]:
    placeholder = ImagePrompts(base).placeholder_id
    return tuple(expand_audio_placeholders(question.token_ids, placeholder, question.num_audio_tokens))


def batch_of(base: str, policy: Policy, questions: list[PreparedQuestion], responses: list[list[int]]) -> MicroBatch:
    rows = [
        Row(
            expanded(base, question),
            question.waveforms,
            tuple(response),
            (0.0,) * len(response),
            1.0,
            True,
            num_audio_tokens=question.num_audio_tokens,
        )
        for question, response in zip(questions, responses, strict=True)
    ]
    assert policy.tower is not None
    inputs = ClipInputs(base, lambda clip: clip.waveform)  # pyright: ignore[reportArgumentType, reportReturnType]
    return collate(rows, policy.placeholder_id, inputs, policy.tower.num_channels)


@pytest.fixture(scope="module")
def trained(base: str, prepared: list[PreparedQuestion]) -> Policy:
    """A policy after a few steps, with which every weight has moved."""
    policy = Policy(load_model(base, torch.float32, "sdpa"), SOFTMAX, train_audio_tower=True)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    batch = batch_of(base, policy, prepared, [[5, 9, 30], [40, 50], [60, 7, 8, 9]])
    losses = []
    for _ in range(3):
        loss = -policy(batch)[0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    return policy


@pytest.fixture(scope="module")
def exported(base: str, trained: Policy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    write_model_folder(base, named_weights(trained.model).items(), folder, torch.float32)
    return folder


@pytest.fixture(scope="module")
def engine(exported: Path) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        patch.setenv("VLLM_LOGGING_LEVEL", "WARNING")
        from vllm import LLM
        from vllm.distributed import cleanup_dist_env_and_memory

        yield LLM(
            str(exported),
            dtype="float32",
            max_model_len=128,
            enforce_eager=True,
            limit_mm_per_prompt={"image": 3},
            distributed_executor_backend="uni",
            generation_config="vllm",
            logprobs_mode="processed_logprobs",
        )
        cleanup_dist_env_and_memory()


def test_an_export_answers_alike_in_transformers_and_vllm(
    base: str,
    exported: Path,
    trained: Policy,
    engine: Any,
    engine_prompts: list[tuple[tuple[int, ...], list[np.ndarray]]],
    prepared: list[PreparedQuestion],
) -> None:
    from transformers import AutoImageProcessor, Idefics3ForConditionalGeneration
    from vllm import SamplingParams

    requests = [
        {"prompt_token_ids": list(token_ids), "multi_modal_data": {"image": images} if images else {}}
        for token_ids, images in engine_prompts
    ]
    outputs = engine.generate(requests, SamplingParams(temperature=0, max_tokens=NUM_TOKENS, logprobs=0))
    prompts = [expanded(base, question) for question in prepared]
    assert [tuple(output.prompt_token_ids) for output in outputs] == prompts, "the learner's prompt is the engine's"
    assert [prompt.count(ImagePrompts(base).placeholder_id) for prompt in prompts] == [12, 4, 0]

    loaded: Any = Idefics3ForConditionalGeneration.from_pretrained(exported, output_loading_info=True)
    model, info = loaded
    assert not any(info.values())
    processor = AutoImageProcessor.from_pretrained(exported)
    for output, prompt, (_, images) in zip(outputs, prompts, engine_prompts, strict=True):
        pixels = processor([images], input_data_format="channels_last", return_tensors="pt") if images else {}
        ids = torch.tensor([prompt])
        made = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NUM_TOKENS, **pixels
        )
        assert made[0, len(prompt) :].tolist() == list(output.outputs[0].token_ids)

    responses = [list(output.outputs[0].token_ids) for output in outputs]
    with torch.no_grad():
        found, _ = trained(batch_of(base, trained, prepared, responses))
    by_engine = [
        position[token].logprob
        for output, response in zip(outputs, responses, strict=True)
        for position, token in zip(output.outputs[0].logprobs, response, strict=True)
    ]
    assert (found - torch.tensor(by_engine)).abs().max() < 1e-4


def gradient_of_images(
    rank: int, world_size: int, port: int, model: str, stage: int, train_tower: bool
) -> dict[str, np.ndarray]:
    """The gradient of four groups, of which the last two have no image; with two ranks, one rank gets these."""
    of_model = {"train_audio_tower": train_tower}
    learner = make_learner(rank, world_size, port, model, of_model=of_model, zero_stage=stage)
    config, rng = learner.model.config, np.random.default_rng(0)
    placeholder = config.image_token_id
    groups = []
    for num_images, group in zip((3, 1, 0, 0), random_groups(4, range(10, 60), placeholder), strict=True):
        images = [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(num_images)]
        text = tuple(token for token in group.prompt_token_ids if token != placeholder)
        groups.append(
            replace(
                group,
                prompt_token_ids=(*text[:3], *[placeholder] * num_images, *text[3:]),
                waveforms=tuple(map(image_clip, images)),
                num_audio_tokens=(4,) * num_images,
            )
        )
    return whole_gradient(learner, groups if world_size == 1 else groups[2 * rank : 2 * rank + 2])


@pytest.mark.parametrize("train_tower", [True, False])
def test_ranks_with_and_without_images_have_the_gradient_of_one(base: str, train_tower: bool) -> None:
    expected = run_ranks(gradient_of_images, 1, base, 0, train_tower)
    assert any(name.startswith("model.vision_model.") for name in expected) == train_tower
    for stage in (2, 3):
        found = run_ranks(gradient_of_images, 2, base, stage, train_tower)
        assert relative_difference(found, expected) <= 1e-5, f"ZeRO stage {stage}"
