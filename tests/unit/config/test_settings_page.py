"""docs/settings.md lists every setting as the schema has it, and every setting is explained."""

import dataclasses
import re
import typing

import pytest

from docs.settings_reference import COMMAND, END, PAGE, START, explanations, section_in, sections, with_reference
from ssr1_rl.config.schema import Config


def test_the_page_is_up_to_date():
    page = PAGE.read_text()
    assert page == with_reference(page), f"settings have changed since: run {COMMAND}"


@pytest.mark.parametrize("section", sections())
def test_every_setting_is_explained(section):
    settings = {name for name, kind in typing.get_type_hints(section).items() if not section_in(kind)}
    explained = explanations(section)
    assert settings <= explained.keys(), "put a docstring under each of these settings"
    assert all(text[0].isupper() or text[0] == "`" for text in explained.values())
    assert all(text.endswith(".") for text in explained.values())


def test_explanations_name_settings_that_exist():
    known = {f"{names[0]}.{spec.name}" for kind, names in sections().items() for spec in dataclasses.fields(kind)}
    roots = "|".join(spec.name for spec in dataclasses.fields(Config))
    named = set(re.findall(rf"`((?:{roots})\.[a-z_][a-z0-9_.]*)", PAGE.read_text().replace(".1.", ".0.")))
    free = ("learner.deepspeed.", "data.validation.")
    assert {name for name in named if not name.startswith(free)} <= known


def test_the_list_holds_defaults_choices_and_bounds():
    page = with_reference(START + END)
    for line in [
        "| `device` | `cuda`, `cpu` | `cuda` | What engines and learners run on. |",
        "| `path` | text | required | File of questions: a JSON array or JSON lines, either of them perhaps gzipped.",
        "| `max_audio_s` | number, at least 0.025, at most 3600 (25 ms make one audio token) | `30.0` |",
        "| `adam_betas` | list of 2 numbers, at least 0, less than 1 | `[0.9, 0.999]` | Betas of AdamW. |",
        "### `data.train`, `data.validation.NAME`",
    ]:
        assert line in page
