"""Response tokens -> text: tags that are special tokens stay, tokens that end or pad a response do not."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ssr1_rl.config.sections.data import DataConfig
from ssr1_rl.data.prompt import PromptBuilder
from ssr1_rl.data.tags import opened_tags
from ssr1_rl.demo.tiny_models import CHAT_TEMPLATE, build_tiny_qwen2_audio
from ssr1_rl.rewards.accuracy import Accuracy
from ssr1_rl.rewards.format import Format
from ssr1_rl.rollout.engine import RolloutEngine, Sampling
from ssr1_rl.rollout.text import ResponseText
from ssr1_rl.types import AudioRef, Completion, Question

TAGS = ["<think>", "</think>", "<answer>", "</answer>", "<plan>", "</plan>"]
QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<reserved_107>"]
RIGHT = "<think> a bark </think> <answer> B </answer>"
QUESTION = Question("q", "What barks?", "dog", ("cat", "dog"), (AudioRef("a.wav"),))


def byte_tokenizer(special, eos="<|im_end|>", pad="<|endoftext|>", **roles):
    """A tokenizer of bytes in which `special` are special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, pad_token=pad, **roles)
    made.add_special_tokens({"additional_special_tokens": list(special)})
    return made


@pytest.fixture(params=[TAGS, []], ids=["special tags", "ordinary tags"])
def tokenizer(request):
    return byte_tokenizer([*QWEN, *request.param])


def decoded(tokenizer, text, finish_reason="stop", prefill=""):
    return ResponseText(tokenizer).decode(tokenizer(text)["input_ids"], finish_reason, prefill)


def test_tags_stay_and_the_end_of_the_turn_does_not(tokenizer):
    assert decoded(tokenizer, RIGHT + "<|im_end|>") == RIGHT
    assert decoded(tokenizer, RIGHT + "<|endoftext|>") == RIGHT
    assert decoded(tokenizer, RIGHT + "<|im_end|><|endoftext|><|endoftext|>", "length") == RIGHT
    assert decoded(tokenizer, "") == ""
    assert decoded(tokenizer, "<|im_end|>") == ""


def test_built_in_rewards_of_a_right_response_are_1(tokenizer):
    completion = Completion((1,), (0.0,), decoded(tokenizer, RIGHT + "<|im_end|>"), "stop")
    assert Accuracy()(QUESTION, [completion]) == Format()(QUESTION, [completion]) == [1.0]


def test_other_special_tokens_that_a_response_samples_are_seen(tokenizer):
    text = "<answer>B</answer><|AUDIO|> <|im_start|>user"
    assert decoded(tokenizer, text + "<|im_end|>") == text
    completion = Completion((1,), (0.0,), decoded(tokenizer, "<answer><|AUDIO|>B</answer>"), "stop")
    assert Accuracy()(QUESTION, [completion]) == [0.0]


def test_a_turn_that_ends_with_another_token_than_the_tokenizer_s(tokenizer):
    assert decoded(tokenizer, RIGHT + "<|im_start|>", "stop") == RIGHT
    assert decoded(tokenizer, RIGHT + "<|im_start|>", "length") == RIGHT + "<|im_start|>"


@pytest.mark.parametrize("eos", ["</answer>", "</solution>"])
def test_the_end_of_the_turn_may_be_the_tag_that_closes_the_answer(eos):
    tokenizer = byte_tokenizer([*QWEN, eos], eos=eos)
    opening = eos.replace("/", "")
    assert decoded(tokenizer, f"{opening}B{eos}") == f"{opening}B{eos}"
    assert decoded(tokenizer, f"B{eos}", prefill=opening) == f"B{eos}"


def test_s_and_slash_s_are_no_tags():
    tokenizer = byte_tokenizer(["<s>", "</s>", "<pad>"], eos="</s>", pad="<pad>", bos_token="<s>")
    assert decoded(tokenizer, RIGHT + "</s>") == RIGHT
    assert decoded(tokenizer, RIGHT + "</s><pad><pad>", "length") == RIGHT
    assert opened_tags(tokenizer, tokenizer("[INST] x [/INST]</s><s>")["input_ids"]) == ""


@pytest.mark.parametrize(
    ("end", "opened"),
    [
        ("<|im_start|>assistant\n<think>\n", "<think>\n"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "<think>\n\n</think>\n\n"),
        ("<|im_start|>assistant\n", ""),
        ("use <think> </think><|im_end|>\n<|im_start|>assistant\n", ""),
        ("<|im_start|>assistant\n<plan>", "<plan>"),
        ("<|im_start|>assistant\n<reserved_107>", ""),
        ("<|im_start|>", ""),
        ("", ""),
    ],
)
def test_tags_at_the_end_of_the_prompt_are_opened(tokenizer, end, opened):
    assert opened_tags(tokenizer, tokenizer("<|im_start|>user\nhi<|im_end|>\n" + end)["input_ids"]) == opened


@dataclass
class Output:
    """As vLLM returns one response."""

    token_ids: list[int]
    finish_reason: str = "stop"
    weight_versions: tuple = ()
    logprobs: SimpleNamespace = field(init=False)

    def __post_init__(self):
        self.logprobs = SimpleNamespace(logprobs=[0.0] * len(self.token_ids))


class Engine:
    """Stands for vLLM: answers every prompt with one text."""

    def __init__(self, tokenizer, text):
        self._tokenizer, self._text = tokenizer, text

    def get_tokenizer(self):
        return self._tokenizer

    async def generate(self, prompt, params, request_id):
        yield SimpleNamespace(finished=True, outputs=[Output(self._tokenizer(self._text)["input_ids"])])


@pytest.fixture(scope="module", params=[TAGS[:4], []], ids=["special tags", "ordinary tags"])
def thinking_model(request, tmp_path_factory):
    """A model whose chat template opens <think> for every response."""
    folder = build_tiny_qwen2_audio(tmp_path_factory.mktemp("model"), [RIGHT], num_layers=1, hidden_size=32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"extra_special_tokens": request.param}, replace_extra_special_tokens=False)
    tokenizer.save_pretrained(folder)
    template = folder / "chat_template.jinja"
    template.write_text(CHAT_TEMPLATE.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}"))
    return str(folder)


async def test_from_a_template_that_opens_the_thought_to_the_rewards(thinking_model, monkeypatch):
    builder = PromptBuilder(thinking_model, DataConfig())
    (note,) = builder.notes()
    assert note.startswith("the model's chat template ends every prompt with '<think>': rewards count it as part of")
    prompt = builder.prepare(QUESTION, [np.zeros(16_000, np.float32)], [16_000])
    monkeypatch.setattr("ssr1_rl.rollout.engine.sampling_params", lambda sampling: None)
    engine = RolloutEngine(Engine(builder.tokenizer, " a bark </think> <answer> B </answer><|im_end|>"))  # type: ignore[arg-type]
    (completion,), _ = await engine.generate("r", prompt.token_ids, [], Sampling(1, 1.0, 10))
    assert completion.text == " a bark </think> <answer> B </answer>"
    assert completion.full_text == "<think>\n a bark </think> <answer> B </answer>"
    assert Accuracy()(QUESTION, [completion]) == Format()(QUESTION, [completion]) == [1.0]


def test_the_instruction_s_tags_are_whole_in_the_prompt(thinking_model):
    instruction = DataConfig().instruction + " Use <im_x> once, <plan> a plan </plan>, and <|im_end|>."
    builder = PromptBuilder(thinking_model, DataConfig(instruction=instruction))
    prompt = builder.prepare(QUESTION, [np.zeros(16_000, np.float32)], [16_000])
    text = builder.tokenizer.decode(prompt.token_ids)
    assert "inside <think> </think>, then give the chosen option inside <answer> </answer>. Use <im_x> once" in text
    assert "<plan> a plan </plan>, and < |im_end|>." in text
