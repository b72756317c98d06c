"""Reading a run's config.yml without executing it.

Nerfstudio stores configurations as YAML with Python tags and loads them with a loader that calls whatever they name.
This one builds plain values, paths, and dataclasses of Nerfstudio and of this package, and nothing else.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import sys
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from nerfstudio.engine.trainer import TrainerConfig
from yaml.constructor import ConstructorError

from genfusion_ns.errors import UserError
from genfusion_ns.gaussians import densify_sparse
from genfusion_ns.plugin import datamanager

MOVED = {"genfusion_ns.densify_sparse": densify_sparse, "genfusion_ns.plugin.data_config": datamanager}
"""Modules whose classes older runs name in config.yml, and where these classes are now."""
sys.modules.update(MOVED)  # for Nerfstudio's own loader too
PACKAGES = ("nerfstudio", "genfusion_ns")
_TAG = "tag:yaml.org,2002:python/"
_PATHS = ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")


class _Loader(yaml.SafeLoader):
    """Plain YAML, and the tags below."""


def read_config(path: Path) -> TrainerConfig:
    """The configuration that ns-train wrote. Raises UserError: no YAML, no configuration, or one that asks for anything
    but settings."""
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path} is no configuration that can be read: {reason}. Expected the config.yml that ns-train wrote; "
            "nothing in it was executed."
        ) from None
    if not isinstance(config, TrainerConfig):
        raise UserError(f"{path} holds a {type(config).__name__}; expected the configuration that ns-train wrote.")
    return config


def _find(name: str, node: yaml.Node) -> Any:
    """The class of a dotted name, if it may be named at all."""
    module, _, attribute = name.rpartition(".")
    trusted = module.split(".")[0] in PACKAGES or module.startswith("torch.optim")
    try:
        found = getattr(importlib.import_module(module), attribute) if trusted else None
    except (ImportError, AttributeError):
        found = None
    if not isinstance(found, type) or (module.startswith("torch.") and not issubclass(found, torch.optim.Optimizer)):
        raise ConstructorError(None, None, f"it names {name}, which is no setting", node.start_mark)
    return found


def _dataclass(loader: _Loader, name: str, node: yaml.Node) -> Any:
    """An instance with the stored fields; its constructor does not run, as in Nerfstudio's loader."""
    kind = _find(name, node)
    if not dataclasses.is_dataclass(kind) or not isinstance(node, yaml.MappingNode):
        raise ConstructorError(None, None, f"{name} is no configuration", node.start_mark)
    made = object.__new__(cast(type[Any], kind))
    yield made
    made.__dict__.update(loader.construct_mapping(node, deep=True))
    for entry in dataclasses.fields(kind):  # settings that are younger than the run
        if entry.name not in made.__dict__ and entry.default_factory is not dataclasses.MISSING:
            setattr(made, entry.name, entry.default_factory())


def _applied(loader: _Loader, name: str, node: yaml.Node) -> Any:
    """A path, or a member of an enumeration: the only two that need a call."""
    module, _, attribute = name.rpartition(".")
    values = loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else []
    if module in ("pathlib", "pathlib._local") and attribute in _PATHS:
        return Path(*map(str, values))
    kind = _find(name, node)
    if not issubclass(kind, enum.Enum):
        raise ConstructorError(None, None, f"it would call {name}", node.start_mark)
    return kind(*values)


def _named(loader: _Loader, name: str, node: yaml.Node) -> Any:
    return _find(name, node)


def _tuple(loader: _Loader, node: yaml.Node) -> tuple:
    return tuple(loader.construct_sequence(node, deep=True))  # type: ignore[arg-type]


_Loader.add_constructor(f"{_TAG}tuple", _tuple)
_Loader.add_multi_constructor(f"{_TAG}object:", _dataclass)
_Loader.add_multi_constructor(f"{_TAG}object/apply:", _applied)
_Loader.add_multi_constructor(f"{_TAG}name:", _named)
