"""The text task of the benchmarks: a model of 6 M parameters and questions whose prompts are equally long.

The model's end-of-sequence token lies outside its output layer, so it is never
sampled and every response has the longest length: systems that are compared do
equal work, and none needs a special sampling setting for it.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path

from ssr1_rl.config.schema import DataConfig, DatasetConfig
from ssr1_rl.data.prompt import PromptBuilder
from ssr1_rl.data.read import read_questions
from ssr1_rl.demo.tiny_models import build_tiny_qwen2_text
from ssr1_rl.types import Question

NEVER_SAMPLED = "<|never_sampled|>"
NUM_WORDS = 100
MODEL_SIZES: dict[str, dict[str, int]] = {
    "6m": {"hidden_size": 256, "intermediate_size": 1024, "num_layers": 6},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_layers": 2},
}


@dataclass(frozen=True)
class TextTask:
    """Where model and questions lie.

    Attributes:
        model: Hugging Face folder.
        questions: for `data.format: jsonl`.
        prompts: the same questions as the model reads them, chat template included: {"prompt": text} a line.
        num_parameters: of the model.
        prompt_tokens: of every prompt.
    """

    model: Path
    questions: Path
    prompts: Path
    num_parameters: int
    prompt_tokens: int

    def data_config(self) -> DataConfig:
        """The settings to read and build the prompts with."""
        train = DatasetConfig(format="jsonl", path=str(self.questions))
        return DataConfig(train=train, instruction="", max_prompt_tokens=self.prompt_tokens)

    def read(self) -> list[tuple[Question, tuple[int, ...]]]:
        """Every question with its prompt's tokens."""
        data = self.data_config()
        builder = PromptBuilder(str(self.model), data)
        questions = read_questions(data.train, max_skipped_share=0.0).questions
        return [(question, builder.prepare(question, [], []).token_ids) for question in questions]


def make_text_task(folder: Path, size: str, num_questions: int, prompt_tokens: int, seed: int) -> TextTask:
    """Makes model and questions in `folder`; the same arguments give the same bytes."""
    rng = random.Random(seed)
    words = sorted({_make_word(rng) for _ in range(NUM_WORDS)})
    texts = [" ".join(rng.choices(words, k=50)) for _ in range(400)]
    model = build_tiny_qwen2_text(folder / "model", texts, seed, **MODEL_SIZES[size])
    _take_eos_away(model)

    from safetensors import safe_open
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    one_token_words = [word for word in words if len(tokenizer.encode(f" {word}", add_special_tokens=False)) == 1]

    def prompt(question: str) -> str:
        messages = [{"role": "user", "content": question}]
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    frame_tokens = len(tokenizer.encode(prompt("Continue:"), add_special_tokens=False))
    if prompt_tokens <= frame_tokens:
        raise ValueError(f"a prompt takes {frame_tokens} tokens for its frame alone, got prompt_tokens={prompt_tokens}")
    questions = [
        " ".join(["Continue:", *rng.choices(one_token_words, k=prompt_tokens - frame_tokens)])
        for _ in range(num_questions)
    ]
    lengths = {len(tokenizer.encode(prompt(question), add_special_tokens=False)) for question in questions}
    assert lengths == {prompt_tokens}, f"prompts of {lengths} tokens, not {prompt_tokens}"

    rows = [{"id": f"q{i}", "question": question, "answer": "a"} for i, question in enumerate(questions)]
    _write_jsonl(folder / "questions.jsonl", rows)
    _write_jsonl(folder / "prompts.jsonl", [{"prompt": prompt(question)} for question in questions])
    with safe_open(model / "model.safetensors", "pt") as weights:
        num_parameters = sum(weights.get_tensor(name).numel() for name in weights.keys())  # noqa: SIM118
    return TextTask(model, folder / "questions.jsonl", folder / "prompts.jsonl", num_parameters, prompt_tokens)


def _make_word(rng: random.Random) -> str:
    return "".join(rng.choice("bdfgklmnprst") + rng.choice("aeiou") for _ in range(rng.randint(2, 3)))


def _take_eos_away(model: Path) -> None:
    """Gives tokenizer and model an end-of-sequence id one past the last that the output layer can sample."""
    from transformers import AutoTokenizer

    config_path = model / "config.json"
    config = json.loads(config_path.read_text())
    tokenizer = AutoTokenizer.from_pretrained(model)
    assert len(tokenizer) == config["vocab_size"], "the next id has to lie outside the output layer"
    tokenizer.add_special_tokens({"eos_token": NEVER_SAMPLED})
    assert tokenizer.eos_token_id == config["vocab_size"], "the new token gets the next id"
    tokenizer.save_pretrained(model)
    config["eos_token_id"] = None  # transformers wants none or one inside; what generates asks the tokenizer
    config_path.write_text(json.dumps(config, indent=2) + "\n")


def _write_jsonl(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
