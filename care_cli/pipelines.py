"""Stable Diffusion in diffusers' form, a folder of several models: which of its files CARE reads. No torch."""

from __future__ import annotations

from pathlib import Path

from care_cli.errors import CareError
from care_cli.records import ModelSpec

PARTS = {  # folder -> the file that must be there, then all that are read
    "scheduler": ("scheduler_config.json", "scheduler_config.json"),
    "text_encoder": ("config.json", "config.json", "*.safetensors", "*.safetensors.index.json"),
    "tokenizer": ("tokenizer_config.json", "*.json", "*.txt"),
    "unet": ("config.json", "config.json", "*.safetensors", "*.safetensors.index.json"),
    "vae": ("config.json", "config.json", "*.safetensors", "*.safetensors.index.json"),
}


def describe_pipeline(folder: Path, name: str) -> ModelSpec:
    """A Stable Diffusion in diffusers' form that lies in a folder: which of its files make the features.

    Of weights in two precisions the full one is taken. Raises CareError when a part is absent.
    """
    files: list[str] = []
    for part, (needed, *kinds) in PARTS.items():
        if not (folder / part / needed).is_file():
            raise CareError(
                f"{folder} is no Stable Diffusion in diffusers' form: it lacks {part}/{needed}. Expected the folders "
                f"{', '.join(PARTS)}, as `save_pretrained` writes them."
            )
        inside = sorted(path.name for kind in kinds for path in (folder / part).glob(kind))
        halves = [file for file in inside if ".fp16." in file]
        if len(halves) < sum(file.endswith(".safetensors") for file in inside):
            inside = [file for file in inside if file not in halves]
        if "*.safetensors" in kinds and not any(file.endswith(".safetensors") for file in inside):
            raise CareError(f"{folder / part} holds no .safetensors; CARE reads no pickled weights")
        files += [f"{part}/{file}" for file in inside]
    return ModelSpec(
        name=name,
        task="diffusion",
        family="diffusers",
        architecture=name,
        file=str(folder.resolve()),
        files=tuple(files),
    )


def hub_folder(repository: str) -> Path:
    """The folder of a repository in Hugging Face's own cache on this machine; never the network."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except Exception as error:  # its classes of errors differ by version
        raise CareError(
            f"{repository} is not in this machine's Hugging Face cache; while online, run: hf download {repository}, "
            f"or give its folder: --extractor sd:FOLDER"
        ) from error
