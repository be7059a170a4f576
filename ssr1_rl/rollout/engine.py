"""One vLLM engine: generates groups of responses and loads new weights between two tokens. Needs no Ray.

Every sampling field is set here, because vLLM otherwise takes defaults from the model's `generation_config.json`
(Qwen2-Audio's has a repetition penalty). Log-probs are those of the distribution that tokens are sampled from
(`logprobs_mode="processed_logprobs"`).
"""

import asyncio
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ssr1_rl.config.environment import plain
from ssr1_rl.config.sections.rollout import RolloutConfig
from ssr1_rl.errors import RunError
from ssr1_rl.rollout.engine_settings import common_args, environment, sampling_fields
from ssr1_rl.rollout.text import ResponseText
from ssr1_rl.types import GREEDY, SAMPLE_RATE, SOFTMAX, Completion, Distribution, GroupId, VersionSpan
from ssr1_rl.weights.transport import transfer_backend

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt
    from vllm.v1.engine.async_llm import AsyncLLM

    from ssr1_rl.weights.audit import AuditReport


@dataclass(frozen=True)
class Sampling:
    """How the responses of one group are sampled."""

    num_completions: int
    max_response_tokens: int
    distribution: Distribution = SOFTMAX
    stop: tuple[str, ...] = ()  # texts that end a response
    seed: int = 0  # of the run; `group_seed` makes the group's own of it

    @staticmethod
    def of_training(rollout: RolloutConfig, group_size: int, run_seed: int) -> "Sampling":
        """How a training group is sampled."""
        return Sampling(
            group_size, rollout.max_response_tokens, distribution_of(rollout), tuple(rollout.stop), run_seed
        )

    def greedy(self) -> "Sampling":
        """One greedy response with the same limits, as validation asks for."""
        return replace(self, num_completions=1, distribution=GREEDY)


def distribution_of(rollout: RolloutConfig) -> Distribution:
    """What training responses are sampled from."""
    return Distribution(rollout.temperature, rollout.top_p, rollout.top_k, rollout.min_p)


def group_seed(run_seed: int, group_id: GroupId) -> int:
    """The seed of a group's first response, in [0, 2^62); vLLM adds its index to that of each further one.

    It follows from the run's seed, the epoch and the question alone. So engines never share their noise, and what is
    sampled does not depend on which engine serves the group, nor on whether a resume issues it again.
    """
    name = f"{run_seed}/{group_id.epoch}/{group_id.question_id}"
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) >> 2


@dataclass(frozen=True)
class EngineSpec:
    """Settings that all engines of a run share."""

    model_path: str
    dtype: str
    device: str
    max_model_len: int
    max_clips: int  # most audio clips of one prompt; 0 for a text-only model
    seed: int
    float32_head: bool = False  # whether logits are computed in float32 whatever dtype is


class EngineBroken(RunError):
    """An engine cannot be used any more: a weight sync failed in it half-way, or its process died."""


class RolloutEngine:
    """A vLLM `AsyncLLM` and the policy version of its weights; `await RolloutEngine.start(...)` creates one.

    A request carries the version of the weights that were loaded when it was submitted. vLLM caches prefixes and
    clips under that version (`cache_salt`, `multi_modal_uuids`), so it must never be newer than the weights that
    compute the request: then what old weights computed would be used again with new ones. So a request that arrives
    during a sync is held here, not in vLLM, until the weights are loaded, and the version rises after that and before
    anything runs. The other way round is harmless: a request that vLLM takes in just before the pause may run on
    newer weights than its version, but nothing is submitted under that version again.
    """

    def __init__(self, llm: "AsyncLLM") -> None:
        self._llm = llm
        self._text = ResponseText(cast("PreTrainedTokenizerBase", llm.get_tokenizer()))
        self._policy_version = 0
        self._broken = ""  # why
        self._loaded = asyncio.Event()
        self._loaded.set()

    @classmethod
    async def start(cls, spec: EngineSpec, config: RolloutConfig) -> "RolloutEngine":
        """Starts the engine and loads the model, which takes 20 s or more. The weights are policy version 0."""
        os.environ.update(environment(spec.device, config))
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**engine_args(spec, config)))
        await llm.update_weight_version("0")
        return cls(llm)

    async def generate(
        self, request_id: str, token_ids: Sequence[int], waveforms: Sequence[np.ndarray], sampling: Sampling
    ) -> tuple[tuple[Completion, ...], int]:
        """Samples one group; returns its completions and the policy version at submission.

        Args:
            request_id: unique among the requests in flight.
            token_ids: the prompt, with one audio placeholder per clip.
            waveforms: float32 [num_samples] at `SAMPLE_RATE`, one per clip.

        Raises:
            EngineBroken: an earlier sync failed half-way.
        """
        while not self._loaded.is_set():  # a loop, because the next sync may have begun when this is woken
            await self._loaded.wait()
        self._refuse_if_broken()
        submitted_version = self._policy_version
        prompt: TokensPrompt = {"prompt_token_ids": list(token_ids), "cache_salt": f"policy-{submitted_version}"}
        if waveforms:
            prompt["multi_modal_data"] = {"audio": [(waveform, SAMPLE_RATE) for waveform in waveforms]}
            # vLLM caches a clip's projected features by its content, and would use those of the old weights after a
            # sync (the projector is always trained). An id per policy version makes it compute them again, without
            # a cache reset, which would desynchronise requests in flight.
            clip_ids = [f"policy-{submitted_version}-{request_id}-{clip}" for clip in range(len(waveforms))]
            prompt["multi_modal_uuids"] = {"audio": clip_ids}
        final = None
        async for output in self._llm.generate(prompt, sampling_params(sampling), request_id=request_id):
            final = output
        assert final is not None and final.finished, "vLLM ends every request with its final output"
        prefill = self._text.prefill(token_ids)
        return tuple(self._completion(output, prefill) for output in final.outputs), submitted_version

    def _completion(self, output: Any, prefill: str) -> Completion:
        token_ids = tuple(output.token_ids)
        logprobs = tuple(output.logprobs.logprobs)
        assert len(logprobs) == len(token_ids), "logprobs=0 asks for the sampled token's log-prob alone"
        return Completion(
            token_ids=token_ids,
            logprobs=logprobs,
            text=self._text.decode(token_ids, output.finish_reason, prefill),
            finish_reason=output.finish_reason,
            versions=tuple(VersionSpan(int(s.version), s.start, s.end) for s in output.weight_versions or ()),
            prefill=prefill,
        )

    async def init_weight_transfer(self, rendezvous: Mapping[str, object], update_info: Mapping[str, object]) -> None:
        """Joins the transfer group as `Rendezvous.of_engine` says; every sync carries the tensors of `update_info`."""
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        self._update_info = dict(update_info)
        await self._llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info=dict(rendezvous)))

    async def apply_weights(self, policy_version: int) -> None:
        """Receives and loads one sync. Requests in flight are kept and continue with the new weights.

        If it fails half-way, the engine holds tensors of both versions: it stays paused, and every later call raises
        `EngineBroken`.
        """
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        self._refuse_if_broken()
        self._loaded.clear()
        try:
            await self._llm.pause_generation(mode="keep", clear_cache=False)
            await self._llm.start_weight_update()
            await self._llm.update_weights(WeightTransferUpdateRequest(update_info=self._update_info))
            await self._llm.finish_weight_update(weight_version=str(policy_version))
            self._policy_version = policy_version
            await self._llm.resume_generation()
        except BaseException as error:
            self._broken = f"loading policy version {policy_version} failed half-way: {type(error).__name__}: {error}"
            raise
        finally:
            self._loaded.set()

    def _refuse_if_broken(self) -> None:
        if self._broken:
            raise EngineBroken(f"this engine cannot be used any more, because {self._broken}; start the run again")

    async def start_weight_audit(self) -> None:
        """Records the checksum of every tensor loaded until `finish_weight_audit`; see `WeightAudit`."""
        self._refuse_if_broken()
        await self._llm.collective_rpc("start_weight_audit")

    async def finish_weight_audit(self) -> "list[AuditReport]":
        """Ends the audit; one report per tensor-parallel process of the engine."""
        self._refuse_if_broken()
        return await self._llm.collective_rpc("finish_weight_audit")

    def shutdown(self) -> None:
        """Ends the engine's processes."""
        # They release what they hold at once. Their interpreter then takes some 5 s to end: it is killed instead.
        self._llm.shutdown(timeout=1)


def engine_args(spec: EngineSpec, config: RolloutConfig) -> dict[str, Any]:
    """vLLM's engine arguments for this run; those of `rollout.engine_args` override them."""
    args: dict[str, Any] = {
        "model": spec.model_path,
        "weight_transfer_config": {"backend": transfer_backend(spec.device, config.weight_transfer)},
        "worker_extension_cls": "ssr1_rl.weights.audit.WeightAudit",
    } | common_args(spec.dtype, spec.device, spec.max_model_len, spec.seed, config)
    if spec.max_clips:
        args["limit_mm_per_prompt"] = {"audio": spec.max_clips}
    args |= plain(config.engine_args)
    if spec.float32_head:
        # vLLM reads the dtype of its lm_head from the model's configuration.
        args["hf_overrides"] = {**(args.get("hf_overrides") or {}), "head_dtype": "float32"}
    return args


def sampling_params(sampling: Sampling) -> "SamplingParams":
    """vLLM's sampling parameters; every field that has a default in `generation_config.json` is set."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        n=sampling.num_completions,
        stop=list(sampling.stop) or None,
        logprobs=0,
        flat_logprobs=True,
        detokenize=bool(sampling.stop),  # only stop texts need it: responses are decoded from their tokens
        output_kind=RequestOutputKind.FINAL_ONLY,
        **sampling_fields(sampling.distribution, sampling.max_response_tokens, sampling.seed),
    )
