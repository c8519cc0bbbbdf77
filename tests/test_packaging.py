from __future__ import annotations

import hashlib
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
YAMLS = sorted((ROOT / "recipes").rglob("*.yaml"))


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_package_is_in_the_wheel(project: dict[str, Any]) -> None:
    """A folder that is missing in the list works in the checkout and fails once installed."""
    settings = project["tool"]["setuptools"]
    found = set()
    for name, folder in settings["package-dir"].items():
        for init in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join([name, *init.parent.relative_to(ROOT / folder).parts]))
    assert sorted(settings["packages"]) == sorted(found)


def test_every_folder_with_code_or_data_is_a_package() -> None:
    missing = set()
    for top in ("effcli", "cli", "recipes"):
        for file in (ROOT / top).rglob("*"):
            is_ours = (
                file.suffix in {".py", ".yaml", ".json", ".safetensors", ".html"}
                and "__pycache__" not in file.parts
            )
            if is_ours and not (file.parent / "__init__.py").exists():
                missing.add(str(file.parent.relative_to(ROOT)))
    assert missing == set()


def test_every_kind_of_data_file_is_in_the_wheel(project: dict[str, Any]) -> None:
    (patterns,) = project["tool"]["setuptools"]["package-data"].values()
    left_out = [
        str(file.relative_to(ROOT))
        for top in ("effcli", "cli", "recipes")
        for file in (ROOT / top).rglob("*")
        if file.is_file()
        and file.suffix != ".py"
        and "__pycache__" not in file.parts
        and not any(map(file.match, patterns))
    ]
    assert left_out == []


@pytest.mark.parametrize("file", YAMLS, ids=[str(path.relative_to(ROOT)) for path in YAMLS])
def test_a_recipe_starts_with_what_it_is_and_its_command(file: Path) -> None:
    header = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        header.append(line.removeprefix("#").strip())
    assert header, "no comment at the top"
    assert header[0].endswith("."), "the first line says what it is"
    (command,) = [line for line in header if line.startswith("effcli ")]
    task, name = file.relative_to(ROOT / "recipes").parts[0].replace("_", "-"), file.stem
    if file.parent.name == "claims":
        assert command.startswith(f"effcli verify {task}/{name}")
    else:
        assert command.split()[:2] == ["effcli", task]
        assert name == "default" or re.search(rf"(-r|--recipe|--method) {re.escape(name)}\b", command)


def test_every_asset_has_a_card_with_its_checksum_and_all_are_small() -> None:
    folder = ROOT / "effcli" / "assets"
    assets = sorted(path for path in folder.iterdir() if path.suffix in {".safetensors", ".npz"})
    assert len(assets) >= 5
    for asset in assets:
        card = asset.with_suffix(".md").read_text(encoding="utf-8")
        assert hashlib.sha256(asset.read_bytes()).hexdigest() in card, asset.name
    assert sum(asset.stat().st_size for asset in assets) < 40e6


def test_every_extra_that_a_message_or_page_names_exists(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    files = [file for top in ("effcli", "cli") for file in (ROOT / top).rglob("*.py")]
    files += [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    named = {
        name
        for file in files
        for group in re.findall(r"effcli\[([a-z, ]+)\]", file.read_text(encoding="utf-8"))
        for name in re.split(", *", group)
    }
    assert {"onnx", "video", "text"} <= named <= set(extras)


def test_all_is_every_extra_that_a_user_may_want(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    (everything,) = extras["all"]
    named = set(re.fullmatch(r"effcli\[(.*)\]", everything)[1].split(","))
    assert named == set(extras) - {"all", "cuda", "docs", "test", "dev"}
