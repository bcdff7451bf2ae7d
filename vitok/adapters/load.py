"""What `--tokenizer` names: our folder, a folder of diffusers, or a function that makes the user's own."""

import json
from importlib.util import find_spec

import fsspec

from vitok.adapters.foreign import load_foreign
from vitok.adapters.name import is_function_name
from vitok.adapters.own import OwnAdapter
from vitok.adapters.protocol import DescribedAdapter
from vitok.model.checkpoint import load_checkpoint
from vitok.model.folder import CONFIG_NAME


class MissingPackageError(ImportError, ValueError):
    """A package is needed for what was asked, and is not installed; a ValueError too: another tokenizer mends it."""


def load_adapter(name: str, *, device: str = "cpu") -> DescribedAdapter:
    """Load an auto-encoder, ready to run.

    Args:
        name: Path or any address fsspec knows of a folder whose `config.json` is ours or of diffusers
            (`vitok.adapters.diffusers.KINDS`); or "module:function" (`vitok.adapters.protocol.Adapter`).
        device: Where it is to run.

    Raises:
        FileNotFoundError: The folder holds no complete auto-encoder.
        ValueError: It is of an unknown kind or damaged; or the function is not there or returns something else.
        MissingPackageError: It is of diffusers, which is not installed.
    """
    if is_function_name(name):
        return load_foreign(name, device=device)
    class_name = _diffusers_class(name)
    if class_name is None:
        return OwnAdapter(load_checkpoint(name).eval().to(device))
    if find_spec("diffusers") is None:
        raise MissingPackageError(
            f"{name} is a {class_name} of diffusers, which is not installed: pip install 'vitok-latents[diffusers]'"
        )
    from vitok.adapters.diffusers import load_diffusers

    return load_diffusers(name, class_name=class_name, device=device)


def _diffusers_class(folder: str) -> str | None:
    """The class that a folder of diffusers names; None where the folder is none of diffusers, so ours or nothing."""
    filesystem, root = fsspec.url_to_fs(folder)
    if not filesystem.exists(f"{root}/{CONFIG_NAME}"):
        if filesystem.exists(f"{root}/model_index.json"):
            raise FileNotFoundError(
                f"{folder} is a whole pipeline of diffusers: give the folder of its auto-encoder, vae"
            )
        return None
    where = f"{folder}/{CONFIG_NAME}"
    try:
        config = json.loads(filesystem.cat_file(f"{root}/{CONFIG_NAME}"))
    except ValueError as error:
        raise ValueError(f"{where}: no JSON ({error})") from error
    if not isinstance(config, dict) or not {"format", "_class_name"} & set(config):
        raise ValueError(
            f"{where}: neither one of ours, which has the key format, nor one of diffusers, which has _class_name"
        )
    class_name = config.get("_class_name")
    return None if class_name is None else str(class_name)
