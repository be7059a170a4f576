"""The text task of the benchmarks: a model of 6 M parameters, and questions whose prompts have equal length.

The id of the model's end-of-sequence token is outside its output layer, so it is
never sampled and every response has the maximum length. So the compared systems do
equal work without special sampling settings.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path

from tiny_text import build_tiny_qwen2_text

from ssr1_rl.config.sections.data import DataConfig, DatasetConfig
from ssr1_rl.data.prompt import PromptBuilder
from ssr1_rl.data.read import read_questions
from ssr1_rl.types import Question

NEVER_SAMPLED = "<|never_sampled|>"
NUM_WORDS = 100
MODEL_SIZES: dict[str, dict[str, int]] = {
    "6m": {"hidden_size": 256, "intermediate_size": 1024, "num_layers": 6},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_layers": 2},
}


@dataclass(frozen=True)
class TextTask:
    """Paths and sizes of model and questions.

    Attributes:
        model: Hugging Face folder.
        questions: file for `data.format: jsonl`.
        prompts: the same questions rendered by the chat template, one {"prompt": text} per line.
        num_parameters: parameters of the model.
        prompt_tokens: tokens of every prompt.
    """

    model: Path
    questions: Path
    prompts: Path
    num_parameters: int
    prompt_tokens: int

    def data_config(self) -> DataConfig:
        """The settings for reading questions and building prompts."""
        train = DatasetConfig(format="jsonl", path=str(self.questions))
        return DataConfig(train=train, instruction="", max_prompt_tokens=self.prompt_tokens)

    def read(self) -> list[tuple[Question, tuple[int, ...]]]:
        """Every question with the token ids of its prompt."""
        data = self.data_config()
        builder = PromptBuilder(str(self.model), data)
        questions = read_questions(data.train, max_skipped_share=0.0).questions
        return [(question, builder.prepare(question, [], []).token_ids) for question in questions]


def make_text_task(folder: Path, size: str, num_questions: int, prompt_tokens: int, seed: int) -> TextTask:
    """Makes model and questions in `folder`; the same arguments make the same bytes."""
    rng = random.Random(seed)
    words = sorted({_make_word(rng) for _ in range(NUM_WORDS)})
    texts = [" ".join(rng.choices(words, k=50)) for _ in range(400)]
    model = build_tiny_qwen2_text(folder / "model", texts, seed, **MODEL_SIZES[size])
    _move_eos_out_of_range(model)

    from safetensors import safe_open
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    one_token_words = [word for word in words if len(tokenizer.encode(f" {word}", add_special_tokens=False)) == 1]

    def prompt(question: str) -> str:
        messages = [{"role": "user", "content": question}]
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    template_tokens = len(tokenizer.encode(prompt("Continue:"), add_special_tokens=False))
    if prompt_tokens <= template_tokens:
        raise ValueError(f"prompt_tokens must exceed the chat template's {template_tokens}, got {prompt_tokens}")
    questions = [
        " ".join(["Continue:", *rng.choices(one_token_words, k=prompt_tokens - template_tokens)])
        for _ in range(num_questions)
    ]
    lengths = {len(tokenizer.encode(prompt(question), add_special_tokens=False)) for question in questions}
    assert lengths == {prompt_tokens}, f"prompts have {lengths} tokens, not {prompt_tokens}"

    rows = [{"id": f"q{i}", "question": question, "answer": "a"} for i, question in enumerate(questions)]
    _write_jsonl(folder / "questions.jsonl", rows)
    _write_jsonl(folder / "prompts.jsonl", [{"prompt": prompt(question)} for question in questions])
    with safe_open(model / "model.safetensors", "pt") as weights:
        num_parameters = sum(weights.get_tensor(name).numel() for name in weights.keys())  # noqa: SIM118
    return TextTask(model, folder / "questions.jsonl", folder / "prompts.jsonl", num_parameters, prompt_tokens)


def _make_word(rng: random.Random) -> str:
    return "".join(rng.choice("bdfgklmnprst") + rng.choice("aeiou") for _ in range(rng.randint(2, 3)))


def _move_eos_out_of_range(model: Path) -> None:
    """Sets the end-of-sequence id of tokenizer and model to the first one that the output layer cannot sample."""
    from transformers import AutoTokenizer

    config_path = model / "config.json"
    config = json.loads(config_path.read_text())
    tokenizer = AutoTokenizer.from_pretrained(model)
    assert len(tokenizer) == config["vocab_size"], "the next id would be inside the output layer"
    tokenizer.add_special_tokens({"eos_token": NEVER_SAMPLED})
    assert tokenizer.eos_token_id == config["vocab_size"], "the new token did not get the next id"
    tokenizer.save_pretrained(model)
    config["eos_token_id"] = None  # transformers allows none or one in range; engines ask the tokenizer
    config_path.write_text(json.dumps(config, indent=2) + "\n")


def _write_jsonl(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
