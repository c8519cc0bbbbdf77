"""Pictures by URL: on fsspec's file system in memory, and on a server of S3 on the loopback address."""

from __future__ import annotations

import errno
import io
import itertools
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image

from effcli.core.errors import InputError, RunError, UsageError
from effcli.core.runtime import create_runtime
from effcli.enhance.enhancer import Enhancer
from effcli.enhance.files import remote as module
from effcli.enhance.files.batch import Outcome, enhance_files
from effcli.enhance.files.claimed_output import TakenError
from effcli.enhance.files.output_plan import plan_outputs
from effcli.enhance.files.remote import RemotePath, list_files, location, parse_url, read_bytes, write_bytes
from effcli.enhance.files.shards import Shard, merge_summaries, write_summary
from tests.enhance.files.test_shards import summary

MEMORY = fsspec.filesystem("memory")
_numbers = itertools.count()


def png() -> bytes:
    file = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 60, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def bucket() -> str:
    """A new place in memory with pictures below in/."""
    root = f"memory://bucket{next(_numbers)}"
    for name in ("a.png", "10.png", "9.png", "sub/b.png", ".hidden.png", "notes.txt"):
        MEMORY.pipe_file(f"{root}/in/{name}", png())
    return root


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def names(folder: str) -> list[str]:
    return [str(file.relative_to(parse_url(folder))) for file in list_files(parse_url(folder))]


def run(inputs: list[str], output: str, **options: Any) -> Outcome:
    enhancer = Enhancer(lambda x: (3 * x).clamp(0, 1), runtime=create_runtime(device="cpu", precision="fp32"))
    return enhance_files(plan_outputs(inputs, output, **options), enhancer)


def test_a_url_is_taken_apart_and_put_together():
    place = parse_url("memory://bucket/in/")
    assert str(place / "sub" / "a.tar.png") == "memory://bucket/in/sub/a.tar.png"
    assert str(place / Path("sub") / ".") == "memory://bucket/in/sub"
    file = place / "a.png"
    assert (file.name, file.stem, file.suffix, str(file.parent)) == (
        "a.png",
        "a",
        ".png",
        "memory://bucket/in",
    )
    assert str(file.with_name("b.jpg")) == "memory://bucket/in/b.jpg"
    assert location("file:///tmp/a.png") == Path("/tmp/a.png") and location("a:b.png") == Path("a:b.png")
    assert isinstance(location("memory://x/y"), RemotePath)


def test_from_bucket_to_bucket(bucket):
    outcome = run([f"{bucket}/in"], f"{bucket}/out")
    assert [entry["output"].rpartition("/out/")[2] for entry in outcome.done] == [
        "9.png",
        "10.png",
        "a.png",
        "sub/b.png",
    ]
    assert names(f"{bucket}/out") == ["10.png", "9.png", "a.png", "sub/b.png"]
    dark, bright = (np.asarray(Image.open(io.BytesIO(read_bytes(parse_url(url))))).astype(int) for url in (
        f"{bucket}/in/a.png",
        f"{bucket}/out/a.png",
    ))  # fmt: skip
    assert np.abs(bright - 3 * dark).max() <= 1


def test_local_and_remote_mix(bucket, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "c.png").write_bytes(png())
    run([f"{bucket}/in", str(tmp_path / "photos")], f"{bucket}/mixed")
    assert names(f"{bucket}/mixed") == ["in/10.png", "in/9.png", "in/a.png", "in/sub/b.png", "photos/c.png"]
    run([f"{bucket}/in"], str(tmp_path / "here"))
    assert sorted(one.name for one in (tmp_path / "here").rglob("*.png")) == [
        "10.png",
        "9.png",
        "a.png",
        "b.png",
    ]
    run([f"{bucket}/in/a.png"], f"{bucket}/single/bright.jpg")
    assert names(f"{bucket}/single") == ["bright.jpg"]


def test_existing_objects_are_skipped_refused_or_overwritten(bucket):
    run([f"{bucket}/in"], f"{bucket}/out")
    MEMORY.rm_file(f"{bucket}/out/9.png")
    MEMORY.pipe_file(f"{bucket}/out/a.png", b"mine")
    plan = plan_outputs([f"{bucket}/in"], f"{bucket}/out", skip_existing=True)
    assert [job.source.name for job in plan.jobs] == ["9.png"] and len(plan.skipped) == 3
    refused = plan_outputs([f"{bucket}/in"], f"{bucket}/out")
    assert {failure.error.message for failure in refused.failures} == {"already exists"}
    assert len(run([f"{bucket}/in"], f"{bucket}/out", force=True).done) == 4
    assert read_bytes(parse_url(f"{bucket}/out/a.png")) != b"mine"


def test_an_object_that_appears_meanwhile_stays(bucket):
    plan = plan_outputs([f"{bucket}/in/a.png"], f"{bucket}/out/")
    MEMORY.pipe_file(f"{bucket}/out/a.png", b"theirs")
    enhancer = Enhancer(lambda x: x, runtime=create_runtime(device="cpu", precision="fp32"))
    outcome = enhance_files(plan, enhancer)
    assert not outcome.done and len(outcome.taken) == 1
    assert read_bytes(parse_url(f"{bucket}/out/a.png")) == b"theirs"


def test_errors_that_may_pass_are_retried_and_others_are_not(bucket, monkeypatch, caplog):
    place = parse_url(f"{bucket}/in/a.png")
    calls: list[int] = []
    cat = type(MEMORY).cat_file

    def failing(error: Exception, times: int) -> None:
        calls.clear()

        def cat_file(self: Any, *words: Any, **options: Any) -> bytes:
            calls.append(1)
            if len(calls) <= times:
                raise error
            return cat(self, *words, **options)

        monkeypatch.setattr(type(MEMORY), "cat_file", cat_file)

    failing(OSError(errno.EBUSY, "SlowDown"), 3)
    assert read_bytes(place) == png() and len(calls) == 4
    assert "SlowDown; trying again" in caplog.text
    failing(TimeoutError("read timed out"), 99)
    with pytest.raises(InputError, match="cannot be read: read timed out"):
        read_bytes(place)
    assert len(calls) == 5
    for error in (PermissionError("AccessDenied"), FileNotFoundError("x"), ValueError("no credentials")):
        failing(error, 99)
        with pytest.raises(InputError):
            read_bytes(place)
        assert len(calls) == 1


def test_a_write_whose_answer_was_lost_counts_as_written(bucket, monkeypatch):
    place, pipe, calls = parse_url(f"{bucket}/out/x.png"), type(MEMORY).pipe_file, []

    def pipe_file(self: Any, *words: Any, **options: Any) -> None:
        calls.append(1)
        pipe(self, *words, **options)
        if len(calls) == 1:
            raise ConnectionResetError(errno.ECONNRESET, "reset")

    monkeypatch.setattr(type(MEMORY), "pipe_file", pipe_file)
    write_bytes(place, b"mine", overwrite=False)
    assert read_bytes(place) == b"mine" and len(calls) == 2
    with pytest.raises(TakenError):
        write_bytes(place, b"other", overwrite=False)


def test_where_files_grow_they_are_renamed_when_whole(bucket, monkeypatch):
    monkeypatch.setattr(module, "_STORES", set())
    seen, pipe = [], type(MEMORY).pipe_file

    def pipe_file(self: Any, path: str, value: bytes, **options: Any) -> None:
        seen.append(path.rpartition("/")[2])
        pipe(self, path, value, **options)

    monkeypatch.setattr(type(MEMORY), "pipe_file", pipe_file)
    place = parse_url(f"{bucket}/server/x.png")
    write_bytes(place, b"one", overwrite=False)
    with pytest.raises(TakenError):
        write_bytes(place, b"two", overwrite=False)
    write_bytes(place, b"three", overwrite=True)
    assert all(name.startswith(".part-") for name in seen)
    assert read_bytes(place) == b"three" and names(f"{bucket}/server") == ["x.png"]


def test_a_full_store_is_one_clear_error(bucket, monkeypatch):
    def pipe_file(*_: Any, **__: Any) -> None:
        raise PermissionError("AccessDenied")

    monkeypatch.setattr(type(MEMORY), "pipe_file", pipe_file)
    with pytest.raises(RunError, match="cannot be written: AccessDenied"):
        write_bytes(parse_url(f"{bucket}/out/x.png"), b"x", overwrite=False)


@pytest.mark.parametrize(
    ("inputs", "output", "message"),
    [
        (["nope://a/b.png"], "out/", "unknown protocol 'nope'"),
        (["memory://"], "out/", "names no bucket"),
        (["memory://none/a.png"], "out/", "no such file or folder"),
        (["{bucket}/in"], None, "pictures read by URL need an output"),
        (["{bucket}/in"], "{bucket}/in", "its own output"),
        (["{bucket}/in/a.png"], "{bucket}/in/a.png", "overwrite an input"),
        (["{bucket}/in"], "-", "a folder cannot be written to standard output"),
    ],
)
def test_what_cannot_be_done_is_refused(bucket, inputs, output, message):
    filled = [text.format(bucket=bucket) for text in inputs]
    with pytest.raises(UsageError, match=message):
        plan_outputs(filled, output and output.format(bucket=bucket), force=True)


def test_a_missing_package_is_named(monkeypatch):
    def refuse(protocol: str, **_: Any) -> None:
        raise ImportError("Install gcsfs to access GCS")

    monkeypatch.setattr(fsspec, "filesystem", refuse)
    module._filesystem.cache_clear()
    for url, package in (("gs://b/a.png", "gcsfs"), ("s3://b/a.png", r"effcli\[remote\]")):
        with pytest.raises(UsageError, match="needs a package") as caught:
            parse_url(url)
        assert caught.value.hint is not None and package.replace("\\", "") in caught.value.hint
    module._filesystem.cache_clear()


def test_what_stands_for_a_folder_is_no_file_and_web_servers_are_not_written(bucket, monkeypatch):
    found = [
        f"{bucket[9:]}/in/",
        f"{bucket[9:]}/in/sub/",
        f"{bucket[9:]}/in/a.png",
        f"{bucket[9:]}/inn/b.png",
    ]
    monkeypatch.setattr(type(MEMORY), "find", lambda self, path: [f"/{key}" for key in found])
    monkeypatch.setattr(module, "_key", lambda remote: f"/{remote.path}")
    assert names(f"{bucket}/in") == ["a.png"]
    monkeypatch.setattr(module, "_filesystem", lambda protocol: MEMORY)
    with pytest.raises(UsageError, match="https can only be read"):
        plan_outputs([f"{bucket}/in"], "https://example.org/out/")


def test_names_that_lead_elsewhere_are_refused(bucket, monkeypatch, tmp_path):
    evil = RemotePath("memory", parse_url(f"{bucket}/in").path / ".." / ".." / "x.png")
    monkeypatch.setattr("effcli.enhance.files.input_search.list_files", lambda folder: [evil])
    with pytest.raises(InputError, match=r"has \.\. in its name"):
        plan_outputs([f"{bucket}/in"], str(tmp_path / "out"))


def test_shards_write_their_summaries_beside_the_objects(bucket):
    plan = plan_outputs([f"{bucket}/in"], f"{bucket}/out", shard=Shard(2, 2))
    assert [job.source.name for job in plan.jobs] == ["10.png", "b.png"]
    write_summary(f"{bucket}/out/", Shard(1, 1), summary(1, 1, "a.png"))
    merged = merge_summaries([parse_url(f"{bucket}/out/summary-1-of-1.json")])
    assert merged["metrics"]["images"] == 1


@pytest.mark.slow
def test_on_a_server_of_s3(monkeypatch, tmp_path):
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    server_module = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in (
            ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
        ):
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
        module._filesystem.cache_clear()
        store = module._filesystem("s3")
        store.mkdir("photos")
        for name in ("a.png", "sub/ü b+c.png"):
            store.pipe_file(f"photos/in/{name}", png())
        outcome = run(["s3://photos/in"], "s3://photos/out")
        assert not outcome.failures and names("s3://photos/out") == ["a.png", "sub/ü b+c.png"]
        assert len(plan_outputs(["s3://photos/in"], "s3://photos/out", skip_existing=True).skipped) == 2
        with pytest.raises(TakenError):
            write_bytes(parse_url("s3://photos/out/a.png"), b"late", overwrite=False)
        write_bytes(parse_url("s3://photos/out/a.png"), b"forced", overwrite=True)
        assert read_bytes(parse_url("s3://photos/out/a.png")) == b"forced"
        run(["s3://photos/in"], str(tmp_path / "here"))
        assert (tmp_path / "here" / "sub" / "ü b+c.png").is_file()
        with pytest.raises(InputError, match=r"s3://photos/none.png: no such file"):
            plan_outputs(["s3://photos/none.png"], "out/")
        with pytest.raises(InputError, match="no such file or folder"):
            plan_outputs(["s3://other/in"], str(tmp_path / "nowhere"))
    finally:
        server.stop()
        module._filesystem.cache_clear()
