"""A tiny vision model that has learnt one chain of thought, and mostly repeats it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoProcessor, Idefics3ForConditionalGeneration

from ssr1_rl.config.sections.data import DataConfig
from ssr1_rl.config.sections.teacher import TeacherConfig
from ssr1_rl.data.frames import load_frames
from ssr1_rl.demo.tiny_vision import END, build_tiny_idefics3
from ssr1_rl.distill.generation.vision_prompt import EnginePrompt
from ssr1_rl.types import Question, VideoRef

INSTRUCTION = "Reason about the sound."
QUESTION = Question("", "What do you hear?", "", ("a bark", "a horn"))
RESPONSE = " <think> a dog and then a bark </think> <answer> A </answer>" + END
NUM_FRAMES, FRAME_SIZE, NUM_STEPS = 2, 64, 50


def make_teacher(folder: Path, videos: Sequence[Path]) -> int:
    """Writes the model, trained to answer `QUESTION` about these videos by `RESPONSE`; returns the prompt's tokens."""
    torch.manual_seed(0)
    build_tiny_idefics3(folder, [f"{QUESTION.text}\n(A) a bark\n(B) a horn\n{INSTRUCTION}", RESPONSE])
    prompt = EnginePrompt(TeacherConfig(model=str(folder), instruction=INSTRUCTION), DataConfig())
    text = prompt.text(QUESTION, NUM_FRAMES) + RESPONSE
    frames = [
        load_frames(VideoRef(str(path)), frames_per_s=1.0, max_frames=NUM_FRAMES, frame_size=FRAME_SIZE)
        for path in videos
    ]
    processor = AutoProcessor.from_pretrained(folder)
    batch = processor(images=frames, text=[text] * len(videos), return_tensors="pt")
    num_response = len(processor.tokenizer(RESPONSE, add_special_tokens=False)["input_ids"])
    labels = batch["input_ids"].clone()
    labels[:, :-num_response] = -100
    model = Idefics3ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(NUM_STEPS):
        loss = model(**batch, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return batch["input_ids"].shape[1] - num_response
