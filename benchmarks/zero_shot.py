"""Zero-shot figures of `effcli distill eval` beside those of clip_benchmark, on the same shards and the same model.

    python benchmarks/zero_shot.py -o DIR       (pip install clip_benchmark: 1.6.2 needs numpy below 2.4)

DIR gets `shards/`, the 287 emoji of the package that no model learned, in their ten classes and as clip_benchmark has
its sets, and `model/`, the built-in teacher as open_clip reads it. Printed are both programs' figures.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

from effcli.core.runtime import create_runtime
from effcli.distill.clip.models import load_clip, save_clip
from effcli.distill.clip_kd.captions.caption_set import CaptionSet
from effcli.distill.clip_kd.evaluation import measure
from effcli.distill.clip_kd.inputs import load_eval
from effcli.distill.clip_kd.recipe import ClipEvalSection


def write_shards(pairs: CaptionSet, folder: Path) -> None:
    """The images of a set with classes, in one shard."""
    (folder / "test").mkdir(parents=True)
    with tarfile.open(folder / "test" / "0.tar", "w") as tar:
        for i, label in enumerate(pairs.labels):
            image = io.BytesIO()
            pairs.image(i).save(image, "PNG")
            for ending, data in (("png", image.getvalue()), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"{i:04d}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    (folder / "test" / "nshards.txt").write_text("1")
    (folder / "classnames.txt").write_text("\n".join(pairs.classes))
    (folder / "zeroshot_classification_templates.txt").write_text("a photo of a {c}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    folder = parser.parse_args().output
    pairs, shards, model = load_eval("builtin:twemoji-captions"), folder / "shards", folder / "model"
    write_shards(pairs, shards)
    model.mkdir()
    save_clip(model, load_clip("builtin:twemoji-clip"))
    runtime = create_runtime(device="cpu", precision="fp32", seed=0)
    ours, _ = measure(
        load_clip(str(model)), pairs, load_eval(str(shards)), ClipEvalSection(), runtime, lambda: None
    )
    print("effcli", {name: round(value, 6) for name, value in ours.items() if name.startswith("zero_shot")})
    arguments = ["--model", f"local-dir:{model}", "--pretrained", "", "--dataset", "wds/mine"]
    arguments += ["--dataset_root", str(shards), "--task", "zeroshot_classification", "--no_amp"]
    arguments += ["--num_workers", "0", "--output", str(folder / "theirs.json")]
    command = [sys.executable, "-c", "from clip_benchmark.cli import main; main()", "eval", *arguments]
    subprocess.run(command, check=True, stdout=sys.stderr)
    print("clip_benchmark", json.loads((folder / "theirs.json").read_text())["metrics"])


if __name__ == "__main__":
    main()
