"""Finds weights by folder, name or hub id, and checks a folder before anything big is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from diffusion.configurations import CONFIGURATIONS
from diffusion.errors import UserError, first_line
from diffusion.memory.blueprint import read_blueprint

BUNDLED = Path(__file__).parent / "weights"
WEIGHT_FILES = {"image_encoder": "model.safetensors"}
DEFAULT_WEIGHT_FILE = "diffusion_pytorch_model.safetensors"


def locate_weights(name: str, **hub_options: Any) -> Path:
    """The folder of a pipeline, from a path, the name of bundled weights, or a hub id (downloaded on demand).

    Args:
        name: tried in that order.
        hub_options: `revision`, `cache_dir`, `local_files_only` for a hub id.

    Raises:
        UserError: one line that names what is missing, its size where known, and how to get it.
    """
    path = Path(name).expanduser()
    if path.exists():
        if not path.is_dir():
            raise UserError(
                f"{path} is a file; expected the folder of a pipeline. A .ckpt file becomes one with genfusion-convert"
            )
        return path
    if (BUNDLED / name / "model_index.json").is_file():
        return BUNDLED / name
    if name in CONFIGURATIONS:
        raise UserError(
            f"the weights {name!r} are not in this installation; expected the folder that genfusion-convert makes of "
            "GenFusion's checkpoint (10.4 GB), or that training wrote"
        )
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _from_hub(name, hub_options)
    raise UserError(
        f"there are no weights {name!r}; expected a folder, a hub id (owner/name), or bundled weights: "
        f"{', '.join(bundled_names()) or 'none are in this installation'}"
    )


def bundled_names() -> list[str]:
    """Names of the weights inside this installation."""
    return sorted(p.parent.name for p in BUNDLED.glob("*/model_index.json"))


def check_folder(folder: Path, given: set[str]) -> None:
    """Compare a folder's weight files with the networks that its configuration describes; reads headers only.

    Args:
        folder: of a pipeline.
        given: components that the caller brings along, which are not looked at.

    Raises:
        UserError: one line, for a folder that is no pipeline, for missing or truncated files, and for files that lack
            tensors, or hold others or of other shapes than the networks.
    """
    for name, module in read_blueprint(folder, skip=given).modules.items():
        found = _tensor_shapes(folder, name, module)
        wanted = {_bare(key): list(value.shape) for key, value in module.state_dict().items()}
        missing, foreign = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
        reshaped = [key for key in wanted.keys() & found.keys() if wanted[key] != found[key]]
        if missing or foreign or reshaped:
            example = (missing or reshaped or foreign)[0]
            raise UserError(
                f"the weights in {folder / name} do not fit its config.json: {len(missing)} tensors are missing, "
                f"{len(foreign)} unexpected, {len(reshaped)} of another shape (e.g. {example}); fetch or convert "
                f"the folder again"
            )


@contextmanager
def loading_errors_in_one_line(folder: Path) -> Iterator[None]:
    """Turn what the libraries raise while reading a folder into a `UserError` with the first line of their text."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, AttributeError) as error:
        raise UserError(f"{folder} can't be loaded as a repair pipeline: {first_line(error)}") from error


def _tensor_shapes(folder: Path, name: str, module: Any) -> dict[str, list[int]]:
    """Key -> shape of all tensors in a component's safetensors files."""
    files = sorted((folder / name).glob("*.safetensors"))
    if not files:
        size = sum(p.numel() for p in module.parameters()) * 2
        file = folder / name / WEIGHT_FILES.get(name, DEFAULT_WEIGHT_FILE)
        raise UserError(
            f"{file} is missing (about {size / 2**20:,.1f} MiB in float16); copy it there, or make the whole "
            f"folder again with genfusion-convert or save_pretrained"
        )
    shapes = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                shapes.update({_bare(k): list(tensors.get_slice(k).get_shape()) for k in tensors.keys()})  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            size = file.stat().st_size
            raise UserError(
                f"{file} ({size:,} bytes) is truncated or no safetensors file ({error}); fetch it again"
            ) from error
    return shapes


def _bare(key: str) -> str:
    """transformers 4 put this prefix before the vision tower's names, and 5 reads both."""
    return key.removeprefix("vision_model.")


def _from_hub(name: str, options: dict[str, Any]) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.md"], **options))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise UserError(
            f"the weights {name!r} are neither a local folder nor bundled, and can't be fetched from the hub: "
            f"{first_line(error)}. Download the repository on another machine and give the folder"
        ) from error
