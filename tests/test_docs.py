"""What the docs name exists: files that they link to, commands, scripts, modules, and every option of the loop."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from genfusion_ns.loop.config import DiffusionConfig, LoopConfig

ROOT = Path(__file__).resolve().parents[1]
TEXTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/**/weights/**/README.md")])
REPAIRERS = ("genfusion-identity", "genfusion-classical", "genfusion-lite")
"""What the benchmark's methods begin with."""
NAMES = [str(path.relative_to(ROOT)) for path in TEXTS]


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    text = re.sub(r"```.*?```", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.S)
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not ((ROOT / name).parent / link).exists()] == []


@pytest.mark.parametrize("name", NAMES)
def test_commands_and_files_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    known = set(re.findall(r"^(genfusion[\w-]*) = ", project, re.MULTILINE)) | {"genfusion-data", "genfusion-ns"}
    named = set(re.findall(r"(?<![\w/.-])genfusion-[a-z-]+[a-z]", text)) - known
    assert {method for method in named if not method.startswith(REPAIRERS)} == set()
    files = re.findall(r"(?<![\w/])((?:scripts|tests|genfusion_ns|diffusion)/[\w/-]+(?:\.py)?)(?![\w/.*{-])", text)
    assert [file for file in files if not (ROOT / file).exists() and not (ROOT / f"{file}.py").exists()] == []


def test_every_option_of_the_loop_is_explained_and_no_other():
    text = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    table = text.split("## Loop", 1)[1].split("\n## ", 1)[0]
    named = {
        name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`([\w.-]+)`", row)
    }
    own = {field.name.replace("_", "-") for field in fields(LoopConfig)} - {"diffusion"}
    parts = {field.name for field in fields(DiffusionConfig)}
    assert {name for name in named if "." not in name} == own
    assert {name.split(".", 1)[1] for name in named if "." in name} == parts
    assert len(own) + len(parts) <= 20
