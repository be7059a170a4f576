"""Turns a rank's groups into its passes: micro-batches, the same number on every rank.

ZeRO-3 gathers each layer's weights from all ranks within every pass, so all ranks must run the same number of passes.
They agree on the largest number that any rank needs. Each spreads its rows evenly over that number of passes, and adds
passes of weight 0 (fillers) if it has too few rows.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ssr1_rl.config.sections.learner import LearnerConfig
from ssr1_rl.config.sections.model import ModelConfig
from ssr1_rl.data.prompt import expand_audio_placeholders
from ssr1_rl.trainer.batches.balance import cut_padded, cut_parts, pack_evenly, pack_tightly
from ssr1_rl.trainer.batches.clips import ClipBatch, ClipInputs, ClipKey
from ssr1_rl.trainer.batches.layout import PackedGroup
from ssr1_rl.trainer.batches.pass_cost import PassCost
from ssr1_rl.trainer.batches.rows import MicroBatch, Row, collate
from ssr1_rl.trainer.batches.tower_outputs import TowerOutputs
from ssr1_rl.trainer.collectives import max_over_ranks
from ssr1_rl.trainer.model.policy import Policy
from ssr1_rl.types import Clip, TrainGroup


class Passes:
    """Cuts, packs and collates rows for one policy.

    Args:
        encode: runs the frozen tower; a collective.
        fetch_waveform: returns what a clip holds, such as its float32 waveform [num_samples].

    Attributes:
        cost: cost of a pass of this policy.
    """

    def __init__(
        self,
        policy: Policy,
        model: ModelConfig,
        config: LearnerConfig,
        device: torch.device,
        encode: Callable[[ClipBatch], Tensor],
        fetch_waveform: Callable[[Clip], np.ndarray],
    ) -> None:
        self._config = config
        self._device = device
        self._tower = policy.tower
        self._placeholder_id = policy.placeholder_id
        self.cost = PassCost.of_policy(policy, model.train_audio_tower)
        self._clips: ClipInputs | TowerOutputs | None = None
        cache_bytes = config.audio_cache_mib * 2**20
        if self._tower and model.train_audio_tower:
            self._clips = ClipInputs(model.path, fetch_waveform, cache_bytes)
        elif self._tower:
            self._clips = TowerOutputs(
                ClipInputs(model.path, fetch_waveform, max_bytes=0),
                lambda clips: encode(clips.to(device)),
                partial(max_over_ranks, device=device),
                self._tower.num_channels,
                cache_bytes,
                config.max_tokens_per_micro_batch,
            )

    def rows(self, groups: Sequence[TrainGroup], policy_version: int) -> list[Row]:
        """Rows of the groups' responses, in order; `comparable` if the group was submitted at `policy_version`."""
        return [row for group in groups for row in self._rows_of(group, policy_version)]

    def _rows_of(self, group: TrainGroup, policy_version: int) -> list[Row]:
        prompt = group.prompt_token_ids
        if self._tower:
            prompt = tuple(expand_audio_placeholders(prompt, self._placeholder_id, group.num_audio_tokens))
        return [
            Row(
                prompt,
                group.waveforms,
                response,
                group.rollout_logprobs[index],
                group.advantages_G[index],
                comparable=group.submitted_version == policy_version,
                token_advantages=group.token_advantages[index] if group.token_advantages else (),
                in_loss=group.loss_mask_G[index] if group.loss_mask_G else True,
                num_audio_tokens=group.num_audio_tokens,
            )
            for index, response in enumerate(group.responses)
        ]

    def micro_batches(self, rows: Sequence[Row], spare: Sequence[Row]) -> list[MicroBatch]:
        """The micro-batches of `rows`, then fillers; a collective.

        A filler is the shortest of `rows`, or of `spare` if there are no rows.
        """
        parts, num_own = self._cut(rows, spare)
        batches = [self._collate(part) for part in parts]
        return batches[:num_own] + [batch.as_filler() for batch in batches[num_own:]]

    def logprobs(
        self, policy: Callable[[MicroBatch], tuple[Tensor, Tensor]], rows: Sequence[Row], spare: Sequence[Row]
    ) -> list[tuple[float, ...]]:
        """Log-probs of each row's response tokens, without gradient; a collective."""
        found: dict[int, tuple[float, ...]] = {}
        with torch.no_grad():
            for part in self._cut([row for row in rows if row.response], spare)[0]:
                logprobs_T = policy(self._collate(part).to(self._device))[0].cpu()
                of_rows = logprobs_T.split([len(row.response) for row in part])
                found.update((id(row), tuple(row_T.tolist())) for row, row_T in zip(part, of_rows, strict=True))
        return [found.get(id(row), ()) for row in rows]

    def take_clip_counts(self) -> dict[str, float]:
        """Clips asked for and clips encoded since the last call; empty without a frozen tower."""
        if not isinstance(self._clips, TowerOutputs):
            return {}
        num_asked, num_encoded = self._clips.take_counts()
        return {"audio_clips": num_asked, "audio_clips_encoded": num_encoded}

    def _cut(self, rows: Sequence[Row], spare: Sequence[Row]) -> tuple[list[list[Row]], int]:
        """The rows of every pass of this rank, fillers last, and the number of passes that are not fillers."""
        max_tokens = self._config.max_tokens_per_micro_batch
        if self._config.prefix_packing:
            parts = cut_parts(rows, max_tokens)
            most = self._most_passes(len(pack_tightly(parts, max_tokens)))
            own = pack_evenly(parts, max_tokens, most, self._cost_of)
        else:
            own = list(cut_padded(rows, lambda row: row.num_tokens, max_tokens))
            most = self._most_passes(len(own))
        usable = rows or [row for row in spare if row.response]
        assert usable, "every rank has at least one response with a token"
        filler = [min(usable, key=lambda row: row.num_tokens)]
        if isinstance(self._clips, TowerOutputs):
            self._clips.prepare(handle for part in (*own, filler) for row in part for handle in row.clips)
        return own + [filler] * (most - len(own)), len(own)

    def _most_passes(self, num_own: int) -> int:
        return max(1, int(max_over_ranks(num_own, self._device)))

    def _cost_of(self, part: Sequence[Row]) -> int:
        prompt = part[0].prompt
        packed = self.cost.of_packed(PackedGroup(len(prompt), tuple(len(row.response) for row in part)))
        return packed + self.cost.per_audio_token * prompt.count(self._placeholder_id)

    def _collate(self, rows: Sequence[Row]) -> MicroBatch:
        encoded = isinstance(self._clips, TowerOutputs)
        num_channels = 0
        if self._tower:
            num_channels = self._tower.width if encoded else self._tower.num_channels
        return collate(
            rows,
            self._placeholder_id,
            self._input_of,
            num_channels,
            pack=self._config.prefix_packing,
            encoded=encoded,
        )

    def _input_of(self, clip: Clip) -> tuple[ClipKey, Tensor, int]:
        assert self._clips is not None, "only models with a tower have clips"
        return self._clips(clip)
