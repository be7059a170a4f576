"""What tests of the verifier share: a data set with clips, a table of chains, and a backend that hears."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from ssr1_rl.distill.chains import Chain, response_text, write_chains
from ssr1_rl.inference.request import Answer

KINDS = ("animals", "traffic")


def make_run(folder: Path, thoughts: Sequence[Sequence[str]], model: Path, more: str = "") -> Path:
    """A launch file with a question and a clip for each list of thoughts, and a table with a chain for each thought.

    A thought that begins with "!" is of a chain that the teacher's stage did not keep.
    """
    folder.mkdir(exist_ok=True)
    rows, chains = [], []
    for index, of_question in enumerate(thoughts):
        samples = np.random.default_rng(index).normal(0, 0.1, 16000).astype(np.float32)
        soundfile.write(folder / f"{index}.wav", samples, 16000)
        row = {"id": str(index), "question": "What?", "choices": ["a", "b"], "answer": "a", "audio": f"{index}.wav"}
        rows.append({**row, "kind": KINDS[index % 2]})
        for number, thought in enumerate(of_question):
            kept, text = not thought.startswith("!"), thought.removeprefix("!")
            reason = "right" if kept else "wrong answer"
            chains.append(
                Chain(str(index), number, response_text(text, "a"), text, "a", kept, 1.0, kept, reason, 9, "stop")
            )
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "run").mkdir(exist_ok=True)
    write_chains(folder / "run" / "chains.parquet", chains)
    path = folder / "distill.yaml"
    path.write_text(
        f"run: {{name: test, dir: {folder}/run, device: cpu}}\n"
        f"data: {{train: {{format: jsonl, path: {folder}/train.jsonl}}, max_prompt_tokens: 1000}}\n"
        f"verifier:\n  model: {model}\n  dtype: float32\n{more}"
    )
    return path


class Listener:
    """A backend that supports every claim but those that name a word of `contradicted`; it counts what it is asked.

    Args:
        stop_after: raises KeyboardInterrupt, as a signal does, before this answer.
        fail: claims with one of these words fail.
    """

    def __init__(self, contradicted=(), fail=(), stop_after=None):
        self.claims: list[str] = []
        self._contradicted, self._fail, self._stop_after = contradicted, fail, stop_after

    def answers(self, rows, to_request):
        for row in rows:
            if self._stop_after is not None and len(self.claims) == self._stop_after:
                raise KeyboardInterrupt
            self.claims.append(row["claim"])
            if any(word in row["claim"] for word in self._fail):
                yield [Answer(row["key"], error="the clip is lost")]
                continue
            letters = to_request(row).allowed_token_ids
            likely = 1 if any(word in row["claim"] for word in self._contradicted) else 0
            # Outcome o stands at letter (o - order).
            at = (likely - row["order"]) % 3
            logprobs = {letter: np.log(0.8 if index == at else 0.1) for index, letter in enumerate(letters)}
            yield [Answer(row["key"], num_tokens=1, finish_reason="length", first_logprobs=logprobs)]
