"""An engine's prompt with images -> what the learner reads: the images' tokens spelled out as engines do it.

An engine gets one placeholder for each image, and puts the family's tokens around the image's own. The learner puts
in only the image's own, in place of the placeholder (`expand_audio_placeholders`), so the others are put in here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from transformers import AutoConfig, AutoTokenizer

from ssr1_rl.audio_families import VISION_FAMILIES, trained_config, vision_family_of
from ssr1_rl.errors import UserError
from ssr1_rl.types import Clip, PreparedQuestion, Question


def image_clip(image: np.ndarray) -> Clip:
    """An image (uint8 [height, width, 3]) on its way to learners, which holds its pixels itself."""
    digest = hashlib.blake2b(str(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return Clip(digest.hexdigest(), image)


class ImagePrompts:
    """Prepares questions with images for the learner of the model in `model_path`.

    Raises:
        UserError: the learner cannot train this model on images.
    """

    def __init__(self, model_path: str) -> None:
        config = trained_config(AutoConfig.from_pretrained(model_path))
        family = vision_family_of(config)
        if family is None:
            raise UserError(
                f"{model_path} is a {config.model_type} model, and those that are trained on images are: "
                f"{', '.join(VISION_FAMILIES)}"
            )
        tokenizer = AutoTokenizer.from_pretrained(model_path)
        self.placeholder_id = family.placeholder_id(config)
        self._before, self._after = (
            tokenizer(text, add_special_tokens=False)["input_ids"] for text in family.around_image
        )
        self._num_tokens = family.image_tokens(config)

    def prepare(self, question: Question, token_ids: Sequence[int], images: Sequence[np.ndarray]) -> PreparedQuestion:
        """Prepares the prompt that an engine gets, with one placeholder for each image (uint8 [height, width, 3]).

        Raises:
            UserError: placeholders and images differ in number.
        """
        num_found = sum(token == self.placeholder_id for token in token_ids)
        if num_found != len(images):
            raise UserError(
                f"{question.source or question.id}: found {num_found} image placeholders for {len(images)} images; "
                "give a prompt as engines get it, with one placeholder for each image"
            )
        prompt: list[int] = []
        for token in token_ids:
            prompt += [*self._before, token, *self._after] if token == self.placeholder_id else [token]
        return PreparedQuestion(
            question, tuple(prompt), tuple(map(image_clip, images)), (self._num_tokens,) * len(images)
        )
