"""The questions and their prompts."""

from dataclasses import dataclass, field
from typing import Literal

from omegaconf import MISSING

from ssr1_rl.config.setting import setting


@dataclass
class DatasetConfig:
    """One split on disk."""

    format: Literal["avqa", "jsonl", "mmau"] = "avqa"
    """Names of the fields in the file of questions: AVQA's own, MMAU's own, or `jsonl` for your own data."""
    path: str = setting(MISSING, filled=True)
    """File of questions: a JSON array or JSON lines, either of them perhaps gzipped."""
    audio_dir: str = ""
    """Folder of the clips. Empty: the folder of the file of questions."""
    max_questions: int = setting(0, ge=0)
    """Number of questions to read, from the start of the file. 0: all."""


@dataclass
class DataConfig:
    """Questions to train and to validate on, and how prompts are made of them."""

    train: DatasetConfig = field(default_factory=DatasetConfig)
    """Questions to train on."""
    validation: dict[str, DatasetConfig] = field(default_factory=dict)
    """Named validation splits. The score on the first one decides which checkpoint is best."""
    max_skipped_share: float = setting(0.01, ge=0, le=1)
    """Largest share of questions that may be unusable before the run stops."""
    require_audio: bool = True
    """Whether a split without a single clip is refused if `model.path` is an audio model."""

    system_prompt: str = ""
    """System message of every prompt. Empty: none."""
    instruction: str = (
        "Think about what you hear inside <think> </think>, then give the chosen option inside <answer> </answer>."
    )
    """Line after the question and its choices. Empty: none."""
    chat_template_kwargs: dict[str, object] = field(default_factory=dict)
    """Variables of the model's chat template, such as {enable_thinking: false}."""
    replace_video_by_audio: bool = False
    """Replace "video" by "audio" in questions, as R1-AQA does."""
    max_prompt_tokens: int = setting(4096, ge=1)
    """Longest prompt in tokens, audio tokens included. A question with a longer one is skipped."""
    max_audio_s: float = setting(30.0, ge=0.025, le=3600, why="25 ms make one audio token")
    """Longest clip in seconds. At most what the model's audio tower reads (30 s)."""
    long_audio: Literal["crop", "skip"] = "crop"
    """What happens to a longer clip: only its first `data.max_audio_s` seconds are used, or its question is skipped."""
    truncated_audio: Literal["refuse", "use"] = "refuse"
    """What happens to a file whose end is missing: its question is skipped, or what is left of the clip is used. The
    answer may be in the missing part."""
    audio_cache_mib: int = setting(4096, ge=1)
    """Memory for decoded clips in Ray's object store, in MiB."""
