"""Folders of the public benchmarks, recognised by what lies in them, and how their published protocols read them.

Mip-NeRF 360   <scene>/{images_4, sparse/0}, named as one of its scenes or below a folder named after the data set;
               ReconFusion's train_test_split_{n}.json beside them, or in a folder of their own
DL3DV          <hash>/nerfstudio/{images_4, colmap/sparse/0}
Tanks and T.   <scene>/{images, sparse/0}, named likewise
Nerfstudio and COLMAP folders of one's own are recognised too, with nothing prescribed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

LayoutName = Literal["mipnerf360", "dl3dv", "tanksandtemples", "nerfstudio", "colmap"]

COLMAP_FOLDERS = ("colmap/sparse/0", "sparse/0")
"""Where a model lies that cameras can be read from, in this order."""
MODEL_FILES = ("cameras.bin", "cameras.txt")

MIPNERF360_SCENES = ("bicycle", "bonsai", "counter", "flowers", "garden", "kitchen", "room", "stump", "treehill")
"""The nine scenes of Mip-NeRF 360's tables."""
MIPNERF360_FOLDERS = ("360_v2", "mipnerf360", "mip-nerf360", "mip_nerf360", "mip-nerf-360")
"""Names of folders above its scenes in usual downloads, in lower case."""
TANKS_AND_TEMPLES_SCENES = (
    *("barn", "caterpillar", "church", "courthouse", "ignatius", "meetingroom", "truck"),
    *("family", "francis", "horse", "lighthouse", "m60", "panther", "playground", "train"),
    *("auditorium", "ballroom", "courtroom", "museum", "palace", "temple"),
)
TANKS_AND_TEMPLES_FOLDERS = ("tandt", "tnt", "tnt_gof", "tanksandtemples", "tanks_and_temples")
"""Likewise."""
DL3DV_24 = (
    *("06da796666", "0a1b7c20a9", "14eb48a50e", "2cbfe28643", "374ffd0c5f", "389a460ca1", "3bb3bb4d3e", "5c3af58102"),
    *("66fd66cbed", "6d22162561", "6d81c5ab0d", "71b2dc8a2a", "7705a2edd0", "7da3db9905", "85cd0e9211", "91afb9910b"),
    *("95e4b24092", "a726c1112a", "b0c4613d6c", "b4f53094fd", "cbd44beb04", "d3812aad53", "df4f9d9a0a", "ec305787b7"),
)
"""First ten digits of the 24 scenes on which GenFusion reports masked input."""
_HASH = re.compile(r"[0-9a-f]{10,64}")


@dataclass(frozen=True)
class Layout:
    """A recognised scene folder."""

    name: LayoutName
    scene: Path
    """The folder that holds transforms.json or the COLMAP model."""
    downscale_factor: int | None = None
    """The published protocol reads images_{factor}; None = whatever `images` holds."""
    masked_train_every: int = 0
    """The published masked protocol trains on every so many-th photo; 0 = there is none for this data."""

    @property
    def title(self) -> str:
        """What to call the scene in tables: DL3DV's folder is named after its hash, the scene's after its tool."""
        folder = self.scene.parent if self.name == "dl3dv" and self.scene.name == "nerfstudio" else self.scene
        return folder.name[:10] if self.name == "dl3dv" else folder.name


def recognise(folder: Path) -> Layout | None:
    """The layout of a scene folder; None where neither cameras nor poses are found in it."""
    folder = Path(folder)
    if not has_cameras(folder) and has_cameras(folder / "nerfstudio"):
        folder = folder / "nerfstudio"
    if not has_cameras(folder):
        return None
    if folder.name == "nerfstudio" or _HASH.fullmatch(folder.name):
        return Layout("dl3dv", folder, _factor(folder, 4), masked_train_every=2)
    if available_factors(folder) and _belongs_to(folder, MIPNERF360_SCENES, MIPNERF360_FOLDERS):
        return Layout("mipnerf360", folder, _factor(folder, 4))
    if _has_model(folder) and _belongs_to(folder, TANKS_AND_TEMPLES_SCENES, TANKS_AND_TEMPLES_FOLDERS):
        return Layout("tanksandtemples", folder, None, masked_train_every=2)
    return Layout("nerfstudio" if (folder / "transforms.json").is_file() else "colmap", folder)


def find_scenes(root: Path) -> list[Layout]:
    """The benchmark scenes below `root`, sorted by name: public layouts, and folders of one's own that come with a
    train_test_split_{n}.json. Of DL3DV's, only GenFusion's 24 where any of them is there."""
    found = [layout for folder in sorted(Path(root).glob("*/")) if (layout := recognise(folder)) is not None]
    scenes = [
        layout
        for layout in found
        if layout.name not in ("nerfstudio", "colmap") or any(layout.scene.glob("train_test_split_*.json"))
    ]
    if any(layout.name == "dl3dv" and layout.title in DL3DV_24 for layout in scenes):
        scenes = [layout for layout in scenes if layout.name != "dl3dv" or layout.title in DL3DV_24]
    return scenes


def has_cameras(folder: Path) -> bool:
    """Whether a folder holds a transforms.json or a COLMAP model."""
    return (folder / "transforms.json").is_file() or _has_model(folder)


def available_factors(folder: Path, images: str = "images") -> list[int]:
    """Factors f for which `images_{f}` exists, ascending."""
    names = (path.name.removeprefix(f"{images}_") for path in folder.glob(f"{images}_*") if path.is_dir())
    return sorted(int(name) for name in names if name.isdecimal() and int(name) > 1)


def _has_model(folder: Path) -> bool:
    return any((folder / place / file).is_file() for place in COLMAP_FOLDERS for file in MODEL_FILES)


def _factor(folder: Path, wanted: int) -> int | None:
    return wanted if wanted in available_factors(folder) else None


def _belongs_to(folder: Path, scenes: tuple[str, ...], above: tuple[str, ...]) -> bool:
    folders = {part.lower() for part in folder.resolve().parent.parts}
    return folder.name.lower() in scenes or bool(folders & set(above))
