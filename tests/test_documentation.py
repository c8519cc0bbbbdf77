"""The commands of the README run as they stand there, and the page of help texts is up to date."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.effcli_on_path import effcli_on_path
from tests.documented_files import save_documented_files

ROOT = Path(__file__).resolve().parents[1]

# What is typed instead, where a command takes minutes or data that users do not have.
_SMALL = "--steps 2 --trajectories 1 -s train.batch_size=2 -s calibration.n_images=2 -s eval.n_images=4"
_FEW = (
    "--teacher-steps 4 -s train.steps=1 -s train.last_rounds_steps=1 -s train.batch_size=2 -s eval.n_images=4"
)
_BRIEF = "--epochs 1 -s inversion.iterations=2 -s inversion.per_class=1 -s inversion.side=32"
_QUICK = "--steps 300 --policies 2 --policy small,small -s ppo.epochs=1 -s eval.episodes=1"
SHORTENED = {
    "effcli distill --steps 1 -o few/": f"effcli distill --steps 1 {_FEW} -o few/",
    "effcli distill --method clip-kd -o clip/": "effcli distill --method clip-kd --data captioned/pairs.csv "
    "--teacher-cache on -s train.epochs=1 -s train.batch_size=8 -s cache_dir=cache -o clip/",
    "effcli quantize my-diffusers-folder/": f"effcli quantize my-diffusers-folder/ {_SMALL}",
    "effcli continual --data animals/ -o": "effcli continual --data animals/ -s network.features=kept -o",
    "effcli continual --method egor -o": f"effcli continual --method egor --data boxes/ --tasks 2+2 {_BRIEF} "
    "-s base.epochs=1 -o",
    "effcli detect-stream --video": "effcli detect-stream --frames 4 --video",
    "effcli rl-distill -o": f"effcli rl-distill {_QUICK} -o",
    "effcli verify enhance/band-and-order --data DIR": "effcli recipes ls | grep -x enhance/claims/band-and-order",
}


def readme_commands() -> list[str]:
    """The indented lines that start with ``effcli``, without their comments."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    return [re.sub(r"\s+#.*", "", line).strip() for line in lines if line.startswith("    effcli ")]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with everything that the README's commands name."""
    save_documented_files(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_commands_of_the_readme_run(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    commands = readme_commands()
    assert len(commands) >= 8
    with effcli_on_path(tmp_path_factory.mktemp("bin")) as path:
        for command in commands:
            for typed, shorter in SHORTENED.items():
                if command.startswith(typed):
                    command = command.replace(typed, shorter)
            (home / "night-enhanced.png").unlink(missing_ok=True)
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", command],
                cwd=home,
                env={**os.environ, "PATH": path},
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert Image.open(home / "day.jpg").format == "JPEG"
    assert (home / "bright" / "deep" / "b.jpg").exists()


def test_a_shortened_command_is_in_the_readme() -> None:
    commands = readme_commands()
    assert [typed for typed in SHORTENED if not any(c.startswith(typed) for c in commands)] == []


@pytest.mark.slow
@pytest.mark.parametrize("script", ["make_commands.py", "make_recipe_keys.py", "make_costs.py"])
def test_pages_written_from_the_code_are_up_to_date(script: str) -> None:
    done = subprocess.run([sys.executable, ROOT / "docs" / script, "--check"], cwd=ROOT)
    assert done.returncode == 0, "run `make docs`"


def test_links_inside_the_documentation_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.md")]
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert broken == []


def anchors(page: Path) -> set[str]:
    """What ``#`` in a link may name: headings as GitHub and the site write them, and anchors in HTML."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    words = [re.sub(r"[^\w\- ]", "", heading.lower()).strip() for heading in headings]
    return {word.replace(" ", "-") for word in words} | set(re.findall(r'<a id="([^"]+)"', text))


def test_anchors_of_links_are_headings() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {target}#{anchor}"
        for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
        for target, anchor in re.findall(r"\]\(([^)#:]*\.md|)#([^)]+)\)", page.read_text(encoding="utf-8"))
        if anchor not in anchors((page.parent / target) if target else page)
    ]
    assert broken == []


def test_every_page_is_in_the_menu_of_the_site() -> None:
    menu = re.findall(r"[\w/-]+\.md$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    from_the_top = {"contributing/index.md", "contributing/changelog.md", "contributing/examples.md"}
    assert sorted(pages | from_the_top) == sorted(menu)
