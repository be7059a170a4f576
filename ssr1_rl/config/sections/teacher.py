"""The vision-language teacher that writes chains of thought."""

from dataclasses import dataclass, field
from typing import Literal

from ssr1_rl.config.sections.engines import EndpointConfig, EnginesConfig
from ssr1_rl.config.setting import setting


@dataclass
class TeacherConfig:
    """The vision-language model that sees the silent video and reasons about what can be heard in it."""

    model: str = ""
    """Hugging Face folder, or hub name, of the teacher; with an endpoint the name that its requests carry."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Dtype in which the engines compute."""
    engines: EnginesConfig = field(default_factory=EnginesConfig)
    """Engines that run the teacher."""
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    """Server that runs the teacher instead."""

    frames_per_s: float = setting(1.0, gt=0)
    """Frames that are taken of a second of video."""
    max_frames: int = setting(8, ge=1)
    """Most frames of one video; of a longer one they are spread evenly over its whole length."""
    frame_size: int = setting(448, ge=16)
    """Longest edge of a frame in pixels; a larger frame is scaled down to it."""

    system_prompt: str = ""
    """System message. Empty: none."""
    instruction: str = (
        "You see frames of a silent video. Reason about the sounds that this scene makes: which objects sound, when, "
        "how often and how loud. Write as someone who listens: never mention images, frames, or seeing. Think inside "
        "<think> </think>, then give the chosen option inside <answer> </answer>."
    )
    """Line after the question and its choices. Empty: none."""
    num_chains: int = setting(4, ge=1)
    """Chains of thought per question."""
    temperature: float = setting(0.8, ge=0)
    """Sampling temperature. 0: the likeliest chain, which leaves no others."""
    top_p: float = setting(1.0, gt=0, le=1)
    """Sample only from the likeliest tokens whose probabilities add up to `top_p`. 1: from all."""
    max_prompt_tokens: int = setting(4096, ge=1)
    """Longest prompt in tokens, those of its frames included."""
    max_response_tokens: int = setting(512, ge=1)
    """Longest chain in tokens. One that is cut there is not kept."""

    keep: Literal["label", "majority", "all"] = "label"
    """Which chains are kept: those whose answer is the label's; those whose answer most of the question's chains give,
    without a look at the label; or every chain with an answer."""
    min_vote_share: float = setting(0.5, ge=0, le=1)
    """Smallest share of a question's chains that must give the majority's answer for them to be kept by `majority`."""
    forbidden_words: list[str] = field(
        default_factory=lambda: [
            *("image", "images", "frame", "frames", "video", "videos", "picture", "pictures", "footage"),
            *("visible", "visual", "visually", "I see", "we see", "can be seen", "shown", "depicted"),
        ]
    )
    """A chain whose thoughts contain any of these words or phrases, in any case, is not kept: the student only hears.
    Words count as a whole, so name the plural too."""
    max_failed_share: float = setting(0.05, ge=0, le=1)
    """Largest share of requests that may fail before the stage stops."""
