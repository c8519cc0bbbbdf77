from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effcli.core.errors import InputError, RunError, UsageError
from effcli.core.files import make_folder
from effcli.enhance.files.input_search import natural
from effcli.enhance.files.jobs import Job, OutputPlan
from effcli.enhance.files.output_plan import plan_outputs


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"x")


def pairs(plan: OutputPlan) -> dict[str, str]:
    return {str(job.source): str(job.destination) for job in plan.jobs}


def reasons(plan: OutputPlan) -> dict[str, str]:
    return {str(failure.source): failure.error.message for failure in plan.failures}


# One file


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("night.png", "night-enhanced.png"),
        ("sub/NIGHT.JPG", "sub/NIGHT-enhanced.JPG"),
        ("a.b.jpeg", "a.b-enhanced.jpeg"),
        ("-x.png", "-x-enhanced.png"),
        ("with space.tiff", "with space-enhanced.tiff"),
        ("ünïcødé 夜 🌙.webp", "ünïcødé 夜 🌙-enhanced.webp"),
        ("no suffix", "no suffix-enhanced.png"),
        ("shot.2024", "shot.2024-enhanced.png"),
        (".png", ".png-enhanced.png"),
    ],
)
def test_an_output_lies_beside_its_input(source, destination):
    touch(source)
    assert pairs(plan_outputs([source])) == {source: destination}


def test_suffix_and_format_change_the_name():
    touch("a.jpeg")
    assert pairs(plan_outputs(["a.jpeg"], suffix="_b")) == {"a.jpeg": "a_b.jpeg"}
    assert plan_outputs(["a.jpeg"], format="TIFF").jobs == (
        Job(Path("a.jpeg"), Path("a-enhanced.tif"), "TIFF"),
    )
    assert plan_outputs(["a.jpeg"], format="JPEG").jobs[0].destination == Path("a-enhanced.jpeg")


def test_output_names_a_file_or_a_folder():
    touch("a.png")
    Path("there").mkdir()
    assert plan_outputs(["a.png"], "b.jpg").jobs == (Job(Path("a.png"), Path("b.jpg"), "JPEG"),)
    assert pairs(plan_outputs(["a.png"], "there")) == {"a.png": "there/a.png"}
    assert pairs(plan_outputs(["a.png"], "new/")) == {"a.png": "new/a.png"}
    assert pairs(plan_outputs(["a.png"], "new/sub/b.png")) == {"a.png": "new/sub/b.png"}
    assert not Path("new").exists()  # planning writes nothing


@pytest.mark.parametrize("output", ["b.gif", "b", "b.txt", "new/b.PDF"])
def test_unknown_output_suffix_names_the_supported(output):
    touch("a.png")
    with pytest.raises(UsageError) as caught:
        plan_outputs(["a.png"], output)
    assert ".png" in caught.value.hint and ".webp" in caught.value.hint and caught.value.place == output


def test_format_must_be_known_and_agree_with_the_output():
    touch("a.png")
    with pytest.raises(UsageError, match="png, jpeg"):
        plan_outputs(["a.png"], format="GIF")
    with pytest.raises(UsageError, match="says JPEG"):
        plan_outputs(["a.png"], "b.jpg", format="png")


def test_no_input_is_an_error():
    with pytest.raises(UsageError, match="no input"):
        plan_outputs([])
    with pytest.raises(UsageError, match="no input"):
        plan_outputs([""])  # not the current folder


# Streams


def test_streams():
    touch("a.png")
    assert plan_outputs(["-"]).jobs == (Job(None, None),)
    assert plan_outputs(["-"], "-", format="PNG").jobs == (Job(None, None, "PNG"),)
    assert plan_outputs(["-"], "b.webp").jobs == (Job(None, Path("b.webp"), "WEBP"),)
    assert plan_outputs(["a.png"], "-").jobs == (Job(Path("a.png"), None),)
    touch("-")
    assert plan_outputs([Path("-")]).jobs == (Job(Path("-"), Path("--enhanced.png"), "PNG"),)


@pytest.mark.parametrize(
    ("inputs", "output", "words"),
    [
        (["-", "a.png"], None, "exactly one"),
        (["a.png", "b.png"], "-", "exactly one"),
        (["folder"], "-", "folder"),
        (["-"], "folder", "name a file"),
        (["-"], "new/", "name a file"),
        (["-"], "b.txt", "suffix"),
        (["-"], "a.png", "exists"),
        (["missing.png"], "-", "no such file"),
    ],
)
def test_streams_that_make_no_sense(inputs, output, words):
    touch("a.png", "b.png", "folder/c.png")
    with pytest.raises(UsageError, match=words):
        plan_outputs(inputs, output)


# Several inputs and folders


def test_several_inputs_go_beside_themselves_or_into_one_folder():
    touch("x/a.png", "y/b.jpg")
    inputs = ["x/a.png", "y/b.jpg"]
    assert pairs(plan_outputs(inputs)) == {"x/a.png": "x/a-enhanced.png", "y/b.jpg": "y/b-enhanced.jpg"}
    assert pairs(plan_outputs(inputs, "out")) == {"x/a.png": "out/a.png", "y/b.jpg": "out/b.jpg"}


def test_a_folder_is_searched_innatural_order_and_its_tree_kept():
    touch("in/10.png", "in/2.png", "in/1.PNG", "in/b10/a.jpg", "in/b9/deep/c.tif")
    plan = plan_outputs(["in"])
    assert list(pairs(plan).items()) == [
        ("in/1.PNG", "in-enhanced/1.PNG"),
        ("in/2.png", "in-enhanced/2.png"),
        ("in/10.png", "in-enhanced/10.png"),
        ("in/b9/deep/c.tif", "in-enhanced/b9/deep/c.tif"),
        ("in/b10/a.jpg", "in-enhanced/b10/a.jpg"),
    ]
    assert list(pairs(plan_outputs(["in/"], "out")).values())[-1] == "out/b10/a.jpg"


def test_system_hidden_and_other_files_are_left_out():
    touch(
        "in/a.png",
        "in/.DS_Store",
        "in/._a.png",
        "in/desktop.ini",
        "in/notes.txt",
        "in/clip.mp4",
        "in/Thumbs.db",
    )
    touch("in/.git/b.png", "in/__MACOSX/c.png", "in/@eaDir/a.png/thumb.jpg", "in/.effcli-1.tmp")
    os.mkfifo("in/pipe.png")
    Path("in/folder.png").mkdir()
    assert pairs(plan_outputs(["in"])) == {"in/a.png": "in-enhanced/a.png"}


def test_files_and_folders_together_keep_folder_names():
    touch("a/x.png", "b/x.png", "y.png")
    assert pairs(plan_outputs(["a", "b/", "y.png"], "out")) == {
        "a/x.png": "out/a/x.png",
        "b/x.png": "out/b/x.png",
        "y.png": "out/y.png",
    }
    assert pairs(plan_outputs(["a", "y.png"])) == {"a/x.png": "a-enhanced/x.png", "y.png": "y-enhanced.png"}


def test_the_current_folder_gets_an_output_beside_it(tmp_path, monkeypatch):
    touch("photos/a.png", "photos/sub/b.png")
    monkeypatch.chdir(tmp_path / "photos")
    beside = tmp_path / "photos-enhanced"
    assert pairs(plan_outputs(["."])) == {"a.png": f"{beside}/a.png", "sub/b.png": f"{beside}/sub/b.png"}
    monkeypatch.chdir(tmp_path / "photos" / "sub")
    assert pairs(plan_outputs([".."], force=True))["../a.png"] == f"{beside}/a.png"


def test_a_linked_folder_is_named_by_its_link():
    touch("real/a.png")
    Path("link").symlink_to("real")
    assert pairs(plan_outputs(["link"])) == {"link/a.png": "link-enhanced/a.png"}


def test_an_output_folder_inside_the_input_is_not_read_again():
    touch("in/a.png", "in/out/a.png", "in/other/b.png")
    plan = plan_outputs(["in"], "in/out", force=True)
    assert pairs(plan) == {"in/a.png": "in/out/a.png", "in/other/b.png": "in/out/other/b.png"}
    with pytest.raises(UsageError, match="its own output"):
        plan_outputs(["in"], "in")


def test_what_an_earlier_run_made_is_not_enhanced_again():
    touch("in/a.png", "in/a-enhanced.png", "in/a-enhanced.jpg", "in/b-enhanced.png")
    touch("in/trip/c.png", "in/trip-enhanced/c.png", "in/city-enhanced/d.png")
    assert set(pairs(plan_outputs(["in"]))) == {
        "in/a.png",
        "in/b-enhanced.png",  # its original is not here
        "in/city-enhanced/d.png",
        "in/trip/c.png",
    }
    assert pairs(plan_outputs(["in/a-enhanced.png"]))  # named explicitly


def test_links_to_folders_do_not_loop():
    touch("in/sub/a.png", "elsewhere/b.png")
    Path("in/sub/loop").symlink_to(Path("in").resolve())
    Path("in/other").symlink_to(Path("elsewhere").resolve())
    Path("in/link.png").symlink_to("sub/a.png")
    assert set(pairs(plan_outputs(["in"]))) == {"in/sub/a.png", "in/link.png", "in/other/b.png"}


@pytest.mark.usefixtures("without_heic")
def test_what_is_no_picture_is_counted_and_said(caplog):
    touch("in/a.png", "in/b.HEIC", "in/c.txt", "in/sub/d.txt", "in/e.gif", "in/noending", "in/.hidden.txt")
    plan = plan_outputs(["in"])
    assert pairs(plan) == {"in/a.png": "in-enhanced/a.png", "in/e.gif": "in-enhanced/e.gif.png"}
    assert plan.left_out == {".heic": 1, ".txt": 2, "without an extension": 1}
    assert caplog.messages == [
        "in: left out: 2 .txt, 1 .heic (pip install 'effcli[heic]'), 1 without an extension"
    ]


@pytest.mark.usefixtures("without_heic")
def test_a_folder_of_nothing_that_can_be_read_says_what_is_in_it():
    touch("in/a.heic", "in/b.heic")
    with pytest.raises(InputError, match=r"no images .*2 \.heic \(pip install 'effcli\[heic\]'\)"):
        plan_outputs(["in"])


def test_what_was_made_of_a_format_that_is_only_read_is_not_made_again():
    touch("in/a.gif", "in/a.gif-enhanced.png")
    assert set(pairs(plan_outputs(["in"]))) == {"in/a.gif"}


def test_a_folder_without_images_is_an_error_alone_and_a_failure_among_others():
    touch("empty/notes.txt", "a.png")
    with pytest.raises(InputError, match="no images"):
        plan_outputs(["empty"])
    plan = plan_outputs(["empty", "a.png"])
    assert set(pairs(plan)) == {"a.png"} and "no images" in reasons(plan)["empty"]


@pytest.mark.parametrize("denied", ["sub", "in"])
def test_an_unreadable_folder_is_a_failure(denied, monkeypatch):
    touch("in/a.png", "in/sub/b.png")
    scandir = os.scandir

    def refusing(path):
        if Path(path).name == denied:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    if denied == "in":
        with pytest.raises(InputError, match="Permission denied"):
            plan_outputs(["in"])
    else:
        plan = plan_outputs(["in"])
        assert set(pairs(plan)) == {"in/a.png"} and "Permission denied" in reasons(plan)["in/sub"]


# Refusals


def test_a_missing_input_is_an_error_alone_and_a_failure_among_others():
    touch("a.png")
    for name in ("missing.png", "x" * 300 + ".png", "a.png/b.png"):
        with pytest.raises(InputError) as caught:
            plan_outputs([name])
        assert "\n" not in str(caught.value)
    plan = plan_outputs(["missing.png", "a.png", "gone.jpg"])
    assert set(pairs(plan)) == {"a.png"} and set(reasons(plan)) == {"missing.png", "gone.jpg"}
    Path("in").mkdir()
    Path("in/dangling.png").symlink_to("nowhere")
    touch("in/b.png")
    assert "no such file" in reasons(plan_outputs(["in"]))["in/dangling.png"]


def test_an_existing_output_needs_force():
    touch("a.png", "a-enhanced.png", "b.png")
    with pytest.raises(InputError, match="exists") as caught:
        plan_outputs(["a.png"])
    assert "--force" in caught.value.hint
    plan = plan_outputs(["a.png", "b.png"])
    assert set(pairs(plan)) == {"b.png"} and "exists" in reasons(plan)["a.png"]
    assert len(plan_outputs(["a.png", "b.png"], force=True).jobs) == 2
    Path("b-enhanced.png").symlink_to("nowhere")
    with pytest.raises(InputError, match="exists"):
        plan_outputs(["b.png"])
    Path("b.jpg").mkdir()
    Path("c.png").symlink_to("a.png")
    with pytest.raises(InputError, match="is a folder"):
        Path("out/a.png").mkdir(parents=True)
        plan_outputs(["a.png"], "out", force=True)


@pytest.mark.parametrize("link", ["same", "dotted", "symbolic", "hard", "folder link"])
def test_an_input_is_never_overwritten(link):
    touch("a.png", "b.png")
    output = {"same": "a.png", "dotted": "sub/../a.png", "folder link": "here/a.png"}.get(link, "out.png")
    Path("sub").mkdir()
    Path("here").symlink_to(".")
    if link == "symbolic":
        Path(output).symlink_to("a.png")
    elif link == "hard":
        Path(output).hardlink_to("a.png")
    with pytest.raises(InputError, match="overwrite an input"):
        plan_outputs(["a.png"], output, force=True)


def test_an_input_is_never_overwritten_by_another():
    touch("b.png", "b-enhanced.png")
    plan = plan_outputs(["b.png", "b-enhanced.png"], force=True)
    assert set(pairs(plan)) == {"b-enhanced.png"} and "overwrite an input" in reasons(plan)["b.png"]


def test_inputs_that_would_become_one_file_keep_their_whole_names():
    touch("in/a.jpg", "in/a.webp", "in/a.png", "in/b.jpg", "in/sub/a.jpg")
    plan = plan_outputs(["in"], "out", format="png")
    assert pairs(plan) == {
        "in/a.jpg": "out/a.jpg.png",
        "in/a.png": "out/a.png",
        "in/a.webp": "out/a.webp.png",
        "in/b.jpg": "out/b.png",
        "in/sub/a.jpg": "out/sub/a.png",
    }
    assert not plan.failures
    touch("c.jpg", "c.tif")
    beside = plan_outputs(["c.jpg", "c.tif"], format="png")
    assert pairs(beside) == {"c.jpg": "c.jpg-enhanced.png", "c.tif": "c.tif-enhanced.png"}
    touch("c.jpg-enhanced.png")
    assert "c.jpg-enhanced.png" not in pairs(plan_outputs(["."], "all", format="png"))


def test_of_inputs_with_one_name_and_one_output_only_these_fail():
    touch("x/a.png", "y/a.png", "y/b.png")
    plan = plan_outputs(["x/a.png", "y/a.png", "y/b.png"], "out")
    assert pairs(plan) == {"y/b.png": "out/b.png"}
    assert reasons(plan) == {
        "x/a.png": "would become out/a.png, as y/a.png would",
        "y/a.png": "would become out/a.png, as x/a.png would",
    }


def test_an_input_named_twice_is_done_once():
    touch("in/a.png")
    assert len(plan_outputs(["in/a.png", "./in/a.png", "in/../in/a.png"]).jobs) == 1


def test_an_output_folder_that_is_a_file_is_refused():
    touch("a.png", "b.png", "out", "out2")
    for inputs, output in ((["a.png", "b.png"], "out"), (["a.png"], "out/"), (["a.png"], "out/c.png")):
        with pytest.raises(UsageError, match="is a file"):
            plan_outputs(inputs, output)


def test_an_output_that_is_not_writable_is_refused_before_any_work(monkeypatch):
    touch("in/sub/a.png")

    def refuse(dir):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(UsageError, match="cannot be written: Permission denied") as caught:
        plan_outputs(["in"], "locked/deep/out")
    assert caught.value.place == "locked/deep/out/sub"
    with pytest.raises(UsageError, match="Permission denied"):
        plan_outputs(["-"], "locked/a.png")


def test_a_name_that_would_be_too_long_is_a_failure():
    long = "a" * 250 + ".png"
    touch(long, "b.png")
    plan = plan_outputs([long, "b.png"])
    assert set(pairs(plan)) == {"b.png"} and "too long" in reasons(plan)[long]
    assert plan_outputs([long], "short.png").jobs


def test_folders_that_cannot_be_made_are_one_clear_error():
    touch("taken")
    with pytest.raises(RunError, match="cannot be made"):
        make_folder(Path("taken/below"))
    make_folder(Path("new/below"))
    assert Path("new/below").is_dir()


def test_an_empty_name_and_one_picture_s_name_for_several_are_refused():
    touch("a.png", "b.png")
    with pytest.raises(UsageError, match="empty"):
        plan_outputs(["a.png"], "")
    with pytest.raises(UsageError, match="names one picture, but there are 2 inputs"):
        plan_outputs(["a.png", "b.png"], "out.png")
    assert set(pairs(plan_outputs(["a.png", "b.png"], "out.png/")).values()) == {
        "out.png/a.png",
        "out.png/b.png",
    }


@given(st.lists(st.text(max_size=12), max_size=8))
def test_natural_order_is_total_and_agrees_with_numbers(names):
    assert sorted(names[1:] + names[:1], key=natural) == sorted(names, key=natural)
    assert sorted(["a10", "a9", "A1"], key=natural) == ["A1", "a9", "a10"]


def test_one_failure_beside_outputs_that_are_there_is_one_of_several():
    touch("in/a.png", "out/a.png")
    Path("in/b.png").symlink_to("nowhere")
    plan = plan_outputs(["in"], "out", skip_existing=True)
    assert (len(plan.skipped), len(plan.jobs), reasons(plan)) == (1, 0, {"in/b.png": "no such file"})
