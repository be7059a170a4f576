"""Finds the commands that the texts of this repository tell a user to type, and checks each without starting anything.

A command is checked by the parser of its own program, and a launch file with its overrides and variables is loaded.
"""

import json
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import typer.main
from ray.scripts.scripts import cli as ray_cli

from ssr1_rl import cli
from ssr1_rl.checks.distill_rules import load_distill
from ssr1_rl.checks.eval_rules import load_eval
from ssr1_rl.checks.rules import load_config
from ssr1_rl.checks.sft_rules import load_sft
from ssr1_rl.config.schema import Config
from ssr1_rl.connection import check_address
from ssr1_rl.recipe.run import read_recipe

ROOT = Path(__file__).parents[1]
LOADERS = {
    "grpo": load_config,
    "eval": load_eval,
    "distill": load_distill,
    "sft": load_sft,
    "recipe": lambda file, overrides=(): read_recipe(file, overrides)[0],
}
"""What loads the launch files of each command, or of a command's stages."""
TEXTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), *ROOT.glob("launch/*.yaml")])
PLACEHOLDERS = {
    "FILE": "launch/local.yaml",
    "LAUNCH_FILE": "launch/local.yaml",
    "RUN": "runs/local",
    "N": "1",
    "DIR": "runs/x",
    "HEAD:6379": "127.0.0.1:6379",
}
PROGRAMS = ("ssr1-rl", "ray", "make", "python", "pip", "export")
OTHERS = {".", "cd", "git", "hf", "nvidia-smi", "pre-commit", "sudo", "vllm"}
"""Programs whose commands are not checked."""
ASSIGNMENT = r"[A-Z][A-Z0-9_]*=\S+"
COMMAND = re.compile(rf"(?:{ASSIGNMENT} )*(?:{'|'.join(PROGRAMS)}) \S.*")


@dataclass(frozen=True)
class Command:
    """One command as it stands in a text."""

    place: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.place}: {shlex.join(self.words)}"


def command_of(path: Path) -> str:
    """The sub-command that a launch file's first line names, without its stage."""
    first = path.read_text().partition("\n")[0]
    assert first.startswith("#!/usr/bin/env -S ssr1-rl "), f"{path} is not run by ssr1-rl"
    return first.split(" ")[3]


def commands() -> list[Command]:
    """Every command of every text."""
    return [command for path in TEXTS for command in commands_of(path.read_text(), path)]


def commands_of(text: str, path: Path) -> Iterator[Command]:
    """The commands of one text: lines of shell blocks, quoted commands in prose, and comments of launch files."""
    if path.suffix == ".yaml":
        for number, line in enumerate(text.splitlines(), start=1):
            if line.startswith("#") and not line.startswith("#!"):
                for part in re.split(r"\s{2,}", line.removeprefix("#").strip()):
                    yield from _parsed(part, f"{path.name}:{number}", strict=False)
        return
    blocks = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
    for block in blocks.finditer(text):
        if block[1] in ("sh", "bash", "shell", "console"):
            for line in block[2].replace("\\\n", " ").splitlines():
                command, comment = _without_comment(line)
                yield from _parsed(command, path.name, strict=True)
                if found := COMMAND.search(comment):
                    yield from _parsed(re.split("[;`]", found[0])[0], path.name, strict=False)
    prose = blocks.sub("", text)
    for quoted in re.findall(r"`([^`]+)`", prose):
        yield from _parsed(" ".join(quoted.split()), path.name, strict=False)


def _without_comment(line: str) -> tuple[str, str]:
    """A line of a shell block and the comment behind it; a # in quotes begins none."""
    for found in re.finditer(r"(?:^|\s+)#\s", line):
        if line[: found.start()].count("'") % 2 == line[: found.start()].count('"') % 2 == 0:
            return line[: found.start()], line[found.end() :]
    return line, ""


def _parsed(text: str, place: str, strict: bool) -> Iterator[Command]:
    """`strict`: every line is a command. Otherwise only what begins as one, with arguments, is."""
    text = text.strip()
    if not text or (not strict and not COMMAND.fullmatch(text)) or "…" in text:
        return
    yield Command(place, tuple(PLACEHOLDERS.get(word, word) for word in shlex.split(text)))


def check(command: Command) -> Config | None:
    """Raises if the command cannot work as it stands; returns the settings if it runs a launch file."""
    words = list(command.words)
    variables = {}
    while re.fullmatch(ASSIGNMENT, words[0]):
        name, _, value = words.pop(0).partition("=")
        variables[name] = value
    program, arguments = words[0], words[1:]
    if program in OTHERS:
        return None
    return CHECKS[program](arguments, variables)


def _ssr1_rl(arguments: list[str], variables: dict[str, str]) -> Config | None:
    context = _parse(typer.main.get_command(cli.app), "ssr1-rl", arguments)
    if context is None or arguments[0] not in LOADERS:
        return None
    assert command_of(ROOT / context.params["file"]) == arguments[0], "the launch file is one of another command"
    return _load(context.params["file"], context.params["overrides"], variables)


def _ray(arguments: list[str], variables: dict[str, str]) -> Config | None:
    context = _parse(ray_cli, "ray", arguments)
    if context is None or context.info_name != "submit":
        return None
    lost = [name for name in variables if not name.startswith("RAY_")]
    assert not lost, f"a job does not get {lost} of the shell that submits it: use --runtime-env-json"
    file, *overrides = context.params["entrypoint"]
    assert os.access(ROOT / file, os.X_OK), f"{file} cannot be executed"
    runtime_env = json.loads(context.params["runtime_env_json"] or "{}")
    return _load(file, overrides, runtime_env.get("env_vars", {}))


def _parse(command: Any, name: str, arguments: list[str]) -> Any:
    """The context (click's) of the innermost sub-command; None if only its name, or --help, is mentioned."""
    # Typer has a click of its own, so what Ray and it return shares no class.
    while hasattr(command, "commands"):
        assert arguments, f"{name} needs a sub-command"
        if arguments[0] == "--help":
            return None
        assert arguments[0] in command.commands, f"{name} has no {arguments[0]}"
        name, command, arguments = arguments[0], command.commands[arguments[0]], arguments[1:]
    return command.make_context(name, list(arguments)) if arguments and "--help" not in arguments else None


def _load(file: str | Path, overrides: list[str] | None, variables: dict[str, str]) -> Config:
    with mock.patch.dict(os.environ, variables):
        return LOADERS[command_of(ROOT / file)](ROOT / file, overrides or [])


def _export(arguments: list[str], variables: dict[str, str]) -> None:
    ours = re.findall(r"oc\.env:(\w+)", "".join(path.read_text() for path in ROOT.glob("launch/*.yaml")))
    for argument in arguments:
        name, _, value = argument.partition("=")
        assert name in ours or name.startswith("RAY_"), f"nothing reads {name}"
        if name == "RAY_ADDRESS":
            check_address(value)


def _make(arguments: list[str], variables: dict[str, str]) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for argument in arguments:
        assert "=" in argument or argument in targets, f"make has no target {argument}"


def _python(arguments: list[str], variables: dict[str, str]) -> None:
    files = [argument for argument in arguments if argument.endswith(".py")]
    assert files or arguments[0] == "-m", f"no program in {arguments}"
    for file in files:
        assert (ROOT / file.partition("::")[0]).is_file(), f"{file} does not exist"


def _pip(arguments: list[str], variables: dict[str, str]) -> None:
    for extra in re.findall(r"\.\[([\w,]+)\]", " ".join(arguments)):
        for name in extra.split(","):
            assert f'"{name}": [' in (ROOT / "setup.py").read_text(), f"setup.py has no extra {name}"


CHECKS = {"ssr1-rl": _ssr1_rl, "ray": _ray, "export": _export, "make": _make, "python": _python, "pip": _pip}
