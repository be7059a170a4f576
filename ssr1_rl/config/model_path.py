"""Whether a model's path is a model folder or a name on the Hugging Face hub. Reads no model."""

from pathlib import Path

from ssr1_rl.errors import MissingFile


def is_on_hub(path: str) -> bool:
    """Whether a model path is the name of a repository, such as Qwen/Qwen2-Audio-7B-Instruct.

    If its first part is an existing folder, it is a mistyped path instead.
    """
    if path.startswith((".", "~", "/")) or path.count("/") != 1:
        return False
    return not Path(path).parent.is_dir()


def is_here(path: str) -> bool:
    """Whether a model's configuration and tokenizer can be read without a download."""
    if not is_on_hub(path):
        return True
    from huggingface_hub import try_to_load_from_cache

    return all(isinstance(try_to_load_from_cache(path, name), str) for name in ("config.json", "tokenizer_config.json"))


def check_model_folder(path: str, setting: str = "model.path") -> None:
    """Refuses a model path that is neither a model folder nor a name on the hub; `setting` is where it was given.

    Raises:
        ValueError: there is no such folder, or no config.json in it.
    """
    if (Path(path) / "config.json").is_file() or is_on_hub(path):
        return
    if Path(path).exists():
        raise MissingFile(f"{setting} {path} holds no config.json; give a Hugging Face model folder")
    raise MissingFile(
        f"{setting} {path} does not exist; give a Hugging Face model folder, or a hub name such as "
        "Qwen/Qwen2-Audio-7B-Instruct"
    )
