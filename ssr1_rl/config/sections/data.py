"""The questions and their prompts."""

from dataclasses import dataclass, field
from typing import Literal

from omegaconf import MISSING

from ssr1_rl.config.setting import setting


@dataclass
class ColumnsConfig:
    """Names of the columns of `jsonl`, `parquet` and `huggingface`. Every other column becomes metadata.

    Two of them may be the same column: a video file can be both `audio` and `video`.
    """

    id: str = "id"
    """Identifies the row. Empty: the rows are counted."""
    question: str = setting("question", filled=True)
    """The question."""
    answer: str = setting("answer", filled=True)
    """The answer: a text or a number; with choices the text, the letter or the 0-based index of one."""
    choices: str = "choices"
    """List of the choices. Empty, or a column that a row lacks: an open question."""
    audio: str = "audio"
    """A clip or a list of clips: names of files in `audio_dir`, or bytes of files. Empty: none."""
    video: str = "video"
    """Name of a file, or of a folder of stills, in `video_dir`; or the bytes of a file. Empty, or a column that a row
    lacks: the name of the row's clip."""
    kind: str = "kind"
    """Names the kind of question. Empty: none."""


@dataclass
class DatasetConfig:
    """One split. docs/data.md describes the formats."""

    format: Literal["avqa", "huggingface", "jsonl", "mmau", "music_avqa", "parquet"] = "avqa"
    """How the questions are stored: as AVQA, MMAU or MUSIC-AVQA are distributed, as your own JSON lines or Parquet, or
    as a Hugging Face data set."""
    path: str = setting(MISSING, filled=True)
    """File of questions: a JSON array or JSON lines, either of them perhaps gzipped. For `parquet` a file, a folder of
    files, or a pattern with `*`; for `huggingface` a folder or a name on the hub."""
    audio_dir: str = ""
    """Folder of the clips. Empty: the folder of the file of questions."""
    video_dir: str = ""
    """Folder of the silent videos that a teacher sees: video files, or folders of stills, that are named as the clips.
    A row whose video is missing is unusable. Empty: no videos, also none that rows hold as bytes."""
    allow_outside_paths: bool = False
    """Whether a row may name a clip or video outside of these folders (`../a.wav`, `/data/a.wav`). Only for questions
    that you trust: a row could name any file of the machine."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """Names of the columns."""
    subset: str = ""
    """Subset (configuration) of a Hugging Face data set. Empty: its default."""
    split: str = ""
    """Split of a Hugging Face data set. May be empty if it has only one."""
    revision: str = ""
    """Branch, tag or commit of a data set on the hub. Empty: the newest."""
    clip_cache_dir: str = ""
    """Folder in which clips are kept that are stored as bytes inside of rows; every node has to see it. Empty:
    `~/.cache/ssr1_rl/clips`."""
    kinds: list[str] = field(default_factory=list)
    """Kinds of question to read; of MUSIC-AVQA for example [Audio Counting, Audio Comparative]. Empty: all."""
    choices_from_answers: bool = False
    """Give open questions choices: every answer that the file has for questions of their kind."""
    skip_questions: int = setting(0, ge=0)
    """Number of usable questions to leave out, from the start of the file: another split may hold them out."""
    max_questions: int = setting(0, ge=0)
    """Number of usable questions to read, from the start of the file or after those left out. 0: all."""
    official_rule: Literal["", "avqa", "mmau", "music_avqa"] = ""
    """Benchmark whose official rule scores the split in `ssr1-rl eval`, for MMAU in Parquet for example. Empty: that of
    the format, if it has one."""


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
