"""An official checkpoint by file or by hub id."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from diffusion.errors import UserError, first_line

OFFICIAL = "Sibo2rr/GenFusion-GenerationModel"
"""Where GenFusion's authors keep their checkpoint."""
OFFICIAL_FILE = "epoch=59-step=34000.ckpt"


def find_checkpoint(name: str, file: str = OFFICIAL_FILE) -> Path:
    """A checkpoint on the disk, or one that is downloaded from the Hugging Face hub (with a bar, once).

    Args:
        name: path of a file, or hub id "owner/name".
        file: the file in that hub repository.

    Raises:
        UserError: there is no such file, and it can't be downloaded.
    """
    path = Path(name).expanduser()
    if path.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or path.suffix in (".ckpt", ".pt", ".safetensors"):
        return path
    try:
        return Path(hf_hub_download(name, file))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise UserError(
            f"{name} is no file here, and {file} (10.4 GB) can't be fetched from https://huggingface.co/{name}: "
            f"{first_line(error)}. Expected a checkpoint file or a hub id such as {OFFICIAL}. Download the file with a "
            "browser, and give its path."
        ) from error
