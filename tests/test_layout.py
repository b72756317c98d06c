"""Rules of the code base that a reader relies on, checked on the source itself."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("genfusion_ns", "diffusion")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
ABOVE = ("genfusion_ns/plugin/", "genfusion_ns/benchmark/", "genfusion_ns/commands/")
"""What knows Nerfstudio."""
FLOORS = (
    ("raster", "synthetic"),
    ("gaussians", "data"),
    ("stereo",),
    ("loop",),
    ("training_data",),
    ("plugin",),
    ("benchmark",),
    ("commands",),
)
"""Folders of genfusion_ns, each above all that it may import; single files lie below them."""
HEAVY = ("torchvision", "open3d", "pycolmap", "diffusers", "transformers", "nerfstudio", "viser")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(parsed(path)))


def imported_modules(tree: ast.AST) -> set[str]:
    """Absolute names of all modules that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
    return found


def offenders(rule) -> list[str]:
    """file:line of every node that breaks a rule."""
    found = []
    for path in FILES:
        name = relative(path)
        found += [f"{name}:{getattr(node, 'lineno', 0)}" for node in nodes(path) if rule(node, name)]
    return found


def imports_from(package: str, files) -> list[str]:
    found = []
    for path in files:
        modules = imported_modules(parsed(path))
        found += [f"{relative(path)} imports {m}" for m in modules if m.split(".")[0] == package]
    return found


def test_there_is_something_to_check():
    assert len(FILES) > 20


def test_only_the_plugin_and_what_stands_on_it_import_nerfstudio():
    assert imports_from("nerfstudio", [p for p in FILES if not relative(p).startswith(ABOVE)]) == []


def test_diffusion_knows_nothing_of_genfusion_ns():
    assert imports_from("genfusion_ns", [p for p in FILES if relative(p).startswith("diffusion/")]) == []


def test_the_core_does_not_import_what_stands_on_it():
    found = []
    for path in FILES:
        if relative(path).startswith((*ABOVE, "diffusion/")):
            continue
        modules = imported_modules(parsed(path))
        found += [relative(path) for m in modules if m.replace(".", "/").startswith(tuple(a[:-1] for a in ABOVE))]
    assert found == []


def test_no_folder_imports_one_above_it():
    floor = {name: i for i, names in enumerate(FLOORS) for name in names}
    folders = {name for names in FLOORS for name in names}
    assert folders == {p.name for p in (ROOT / "genfusion_ns").iterdir() if (p / "__init__.py").is_file()}
    found = []
    for path in FILES:
        package, *rest = relative(path).split("/")
        if package != "genfusion_ns":
            continue
        own = floor.get(rest[0], -1)
        for module in imported_modules(parsed(path)):
            other = module.removeprefix("genfusion_ns.").split(".")[0]
            if module.startswith("genfusion_ns.") and other != rest[0] and floor.get(other, -1) > own:
                found.append(f"{relative(path)} imports {module}")
    assert found == []


def test_no_relative_imports():
    assert offenders(lambda node, _: isinstance(node, ast.ImportFrom) and node.level > 0) == []


def test_no_bare_or_blind_except():
    def blind(node, _):
        return isinstance(node, ast.ExceptHandler) and (
            node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "BaseException")
        )

    assert offenders(blind) == []


def test_no_print():
    assert (
        offenders(lambda n, _: isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "print") == []
    )


def test_pickles_only_under_weights_only_or_in_the_converter():
    def unsafe(node, file):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "load"):
            return False
        owner = node.func.value
        if not isinstance(owner, ast.Name) or owner.id not in ("torch", "pickle"):
            return False
        safe = any(k.arg == "weights_only" and getattr(k.value, "value", None) is True for k in node.keywords)
        return not safe and not file.startswith("diffusion/convert/")

    assert offenders(unsafe) == []


def test_nothing_is_left_to_do():
    words = ("TO" + "DO", "FIX" + "ME", "X" * 3, "raise NotImplemented")
    found = [
        f"{relative(path)}:{i}: {word}"
        for path in FILES
        for i, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for word in words
        if word in line
    ]
    assert found == []


def test_every_module_and_public_name_says_what_it_is():
    found = []
    for path in FILES:
        tree = parsed(path)
        if tree.body and ast.get_docstring(tree) is None:
            found.append(relative(path))
        for node in tree.body:
            public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if public and ast.get_docstring(node) is None:
                found.append(f"{relative(path)}:{node.lineno} {node.name}")
    assert found == []


def test_files_stay_readable(limit=400):
    lengths = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: n for name, n in lengths.items() if n > limit} == {}


def test_core_imports_nothing_heavy():
    core = ("loop.round", "gaussians.densify", "gaussians.mesh", "gaussians.losses")
    modules = ", ".join(f"genfusion_ns.{name}" for name in core)
    code = f"import sys, {modules}\nsys.stdout.write(','.join(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""


def test_the_lists_above_see_what_they_should():
    tree = ast.parse("def f():\n    import a.b\n    from c.d import e\n    from . import g")
    assert imported_modules(tree) == {"a.b", "c.d"}
