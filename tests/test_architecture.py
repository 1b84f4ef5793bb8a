"""The house rules: rooms, light imports, short files, exact public names, a README that works, a wheel that works."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = [
    *("torch", "torchvision", "transformers", "monai", "peft", "gradio", "open_clip", "datasets", "accelerate"),
    *("SimpleITK", "nibabel", "pydicom", "scipy", "pandas", "matplotlib", "PIL"),
]
SOURCES = sorted(
    path
    for folder in ("medfm", "tasks", "adapters", "apps", "configs", "tests", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
    if "_shipped" not in path.parts
)
FORBIDDEN = (
    "share=" + "True",
    "push_to_hub=" + "True",
    "trust_remote_code=" + "True",
    "shell=" + "True",
    "weights_only=" + "False",
)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_rooms_import_downwards_only() -> None:
    command = Path(sysconfig.get_path("scripts")) / "lint-imports"
    done = subprocess.run([command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


RUN = "import sys; from medfm.cli import main; sys.argv = {}\ntry: main()\nexcept SystemExit: pass"


@pytest.mark.parametrize(
    "code",
    ["import medfm", RUN.format(["medfm", "--help"]), RUN.format(["medfm", "ask", "--help"])],
    ids=["import", "help", "ask help"],
)
def test_light_import(code: str) -> None:
    code += f"\nimport sys, json; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_root_folders_are_not_packages() -> None:
    found = [
        name(p) for folder in ("tasks", "adapters", "apps", "configs") for p in (ROOT / folder).rglob("__init__.py")
    ]
    assert found == [], "a top-level package of that name collides with others on PyPI"


def test_scripts_import_only_what_is_public() -> None:
    """Python files in tasks/ and apps/ are scripts: no file imports one, and they import no other script."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            roots = {(module or "").split(".")[0] for module in modules}
            assert not roots & {"tasks", "adapters", "apps", "configs"}, name(path)


def test_scripts_import_what_is_there() -> None:
    """No other test runs most of the scripts, and a name that moved would be missed by those who run them only."""
    scripts = [path for path in SOURCES if path.relative_to(ROOT).parts[0] in ("tasks", "benchmarks", "apps")]
    for path in scripts:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "medfm":
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    there = hasattr(module, alias.name) or (
                        hasattr(module, "__path__") and find_spec(f"{node.module}.{alias.name}")
                    )
                    assert there, f"{name(path)} imports {alias.name} from {node.module}"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_file_is_short_and_says_what_it_is_for(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    doc = ast.get_docstring(ast.parse(text))
    assert doc, "a module begins with one sentence on what it is for"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_nothing_dangerous_is_switched_on(path: Path) -> None:
    code = re.sub(r"\s*=\s*", "=", path.read_text())
    assert [word for word in FORBIDDEN if word in code] == []


@pytest.mark.parametrize("path", [p for p in SOURCES if p.is_relative_to(ROOT / "medfm")], ids=name)
def test_public_names_exist(path: Path) -> None:
    """`__all__` names what the file defines or imports, each once; in an `__init__.py`, exactly that."""
    body = ast.parse(path.read_text()).body
    listed = next((ast.literal_eval(n.value) for n in body if isinstance(n, ast.Assign) and is_all(n)), None)
    if listed is None:
        return
    bound: set[str] = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("medfm"):
            bound |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            bound |= {target.id for target in targets if isinstance(target, ast.Name)}
    assert len(set(listed)) == len(listed)
    if path == ROOT / "medfm" / "__init__.py":  # its names are lazy: see the next test
        return
    assert set(listed) <= bound, f"named but not there: {set(listed) - bound}"
    if path.name == "__init__.py" and path.parent.name != "cli":  # cli uses what it imports, to define main
        assert set(listed) == {n for n in bound if not n.startswith("_")}


def is_all(node: ast.Assign) -> bool:
    return ast.unparse(node.targets[0]) == "__all__"


def test_package_names_are_exact() -> None:
    import medfm

    assert medfm.__all__ == sorted(medfm.__all__) == dir(medfm)
    for public in medfm.__all__:
        assert getattr(medfm, public) is not None
    with pytest.raises(AttributeError, match="public names"):
        _ = medfm.nothing_of_that_name


def test_readme_has_two_set_up_blocks() -> None:
    text = (ROOT / "README.md").read_text()
    part = text.split("\n## Set up\n", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"^```bash\n(.*?)^```$", part, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    assert part.count("```") == 4
    assert "medfm ask --demo" in blocks[0]
    assert "pytest" in blocks[1]


def test_demo_scans_hold_no_identity() -> None:
    import pydicom

    for path in (ROOT / "apps" / "chat" / "demo").glob("*.dcm"):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        for keyword in (
            "PatientName",
            "PatientID",
            "PatientBirthDate",
            "InstitutionName",
            "ReferringPhysicianName",
            "StudyDate",
        ):
            assert not header.get(keyword), keyword
        assert not any(element.tag.is_private for element in header.iterall())


@pytest.mark.slow
def test_wheel_works_from_another_folder(tmp_path: Path) -> None:
    """Build, install into a fresh environment that sees the present one's packages, run far from the clone."""
    for folder in ("medfm", "tasks", "adapters", "apps", "configs"):
        shutil.copytree(ROOT / folder, tmp_path / "clone" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, tmp_path / "clone")
    build = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(tmp_path / "clone"),
    ]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    home = tmp_path / "fresh"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    fresh = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True
    )
    (Path(fresh.stdout.strip()) / "present.pth").write_text(sysconfig.get_path("purelib"))
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", wheel], check=True)

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    where = "import medfm, medfm.assets as a; print(medfm.__file__); print(sorted(p.name for p in a.root().iterdir()))"
    done = subprocess.run([python, "-c", where], cwd=elsewhere, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(home))
    assert "['adapters', 'apps', 'configs', 'tasks']" in done.stdout
    demo = "import medfm, medfm.assets as a; print(medfm.Scan.read(a.root() / 'apps/chat/demo/abdomen_mr.dcm'))"
    assert (
        "MR" in subprocess.run([python, "-c", demo], cwd=elsewhere, capture_output=True, text=True, check=True).stdout
    )
    models = subprocess.run([home / "bin" / "medfm", "models"], cwd=elsewhere, capture_output=True, text=True)
    assert models.returncode == 0, models.stderr
    assert "smollm2" in models.stdout
