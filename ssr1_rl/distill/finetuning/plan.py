"""The steps of SFT: which examples each of them learns. Every rank computes the same plan, and takes its share.

The order depends on the seed and on the ids of the questions alone, so a step of a resumed run is the one that an
uninterrupted run would have made, with any number of ranks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict, cast

from ssr1_rl.config.sections.sft import SftConfig
from ssr1_rl.data.stream import order_of_epoch
from ssr1_rl.distill.finetuning.examples import Example
from ssr1_rl.errors import UserError
from ssr1_rl.trainer.batches.balance import share_evenly

PROMPT_CHARACTERS = 1500
"""What a prompt and its audio cost, in characters of a response; a rough figure, known before a clip is decoded."""


@dataclass(frozen=True)
class Planned:
    """An example in an epoch."""

    epoch: int
    example: Example

    @property
    def cost(self) -> int:
        """Roughly what it costs to learn, by which examples are shared among ranks."""
        return PROMPT_CHARACTERS + sum(map(len, self.example.responses))


class PlanState(TypedDict):
    """What a plan was made from; in controller.json."""

    seed: int
    questions_per_step: int
    num_questions: int
    fingerprint: str


class Plan:
    """Cuts the epochs, one after the other, into steps. The last step of a run may be smaller.

    Attributes:
        num_steps: steps of the run.
    """

    def __init__(self, examples: Sequence[Example], sft: SftConfig, seed: int) -> None:
        self._examples = {example.question.id: example for example in examples}
        self._per_step, self._num_epochs, self._seed = sft.questions_per_step, sft.num_epochs, seed
        whole = -(-sft.num_epochs * len(examples) // sft.questions_per_step)
        self.num_steps = min(whole, sft.max_steps or whole)
        self._orders: dict[int, list[str]] = {}
        self._fingerprint = _fingerprint(examples)

    def step(self, step: int) -> list[Planned]:
        """The examples of a step, counted from 1."""
        end = min(step * self._per_step, self._num_epochs * len(self._examples))
        return [self._at(position) for position in range((step - 1) * self._per_step, end)]

    def share(self, step: int, rank: int, num_ranks: int) -> list[Planned]:
        """One rank's share of a step; it may be empty."""
        return share_evenly(self.step(step), num_ranks, lambda planned: planned.cost)[rank]

    def _at(self, position: int) -> Planned:
        epoch, index = divmod(position, len(self._examples))
        if epoch not in self._orders:
            # Steps are prepared ahead, so two epochs are asked for in turn.
            self._orders = {old: order for old, order in self._orders.items() if abs(old - epoch) == 1}
            self._orders[epoch] = order_of_epoch(self._examples, self._seed, epoch)
        return Planned(epoch, self._examples[self._orders[epoch][index]])

    def state_dict(self) -> PlanState:
        """What a checkpoint keeps, to refuse another plan."""
        return {
            "seed": self._seed,
            "questions_per_step": self._per_step,
            "num_questions": len(self._examples),
            "fingerprint": self._fingerprint,
        }

    def check(self, state: Mapping[str, object], checkpoint: object) -> None:
        """Refuses a checkpoint of another plan.

        Raises:
            UserError: the examples, the seed or the size of a step is another one.
        """
        now = self.state_dict()
        for name, setting in (("seed", "run.seed"), ("questions_per_step", "sft.questions_per_step")):
            if state[name] != now[name]:
                raise UserError(
                    f"checkpoint {checkpoint} cannot be resumed: {setting} was {state[name]} when it was written and "
                    f"is {now[name]} now, which changes the steps; set it back, or set another run.dir"
                )
        if state["fingerprint"] != now["fingerprint"]:
            raise UserError(
                f"checkpoint {checkpoint} cannot be resumed: what is learned changed since. It was "
                f"{cast(int, state['num_questions']):,} questions with fingerprint {state['fingerprint']}, it is "
                f"{now['num_questions']:,} with {now['fingerprint']} now; restore data.train, sft.chains and "
                "sft.responses, or set another run.dir"
            )


def _fingerprint(examples: Sequence[Example]) -> str:
    """Digest of questions and responses; it depends neither on their order nor on where files are."""
    digests = sorted(
        hashlib.blake2b(
            repr((e.question.id, e.question.text, e.question.choices, e.responses)).encode("utf-8", "backslashreplace"),
            digest_size=16,
        ).digest()
        for e in examples
    )
    return hashlib.blake2b(b"".join(digests), digest_size=8).hexdigest()
