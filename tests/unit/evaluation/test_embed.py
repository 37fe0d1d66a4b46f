"""`embed`: features of any images in one file, as one pass gives them, however often it was interrupted."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from tests.runs import command
from torch.nn.functional import normalize

from patchmix import checkpoint
from patchmix.config import DataConfig, EmbedConfig, EvalRunConfig
from patchmix.data.datasets import FolderSource, Subset, open_dataset
from patchmix.errors import RunError, UserError
from patchmix.evaluation.embed import CHUNKS_FOLDER, embed
from patchmix.evaluation.feature_cache import FeatureChunks
from patchmix.evaluation.features import Features, extract
from patchmix.evaluation.opening import open_encoder
from patchmix.evaluation.pooling import PooledEncoder
from patchmix.recipes import resolve_evaluation


def run_embed(run: Path, root: Path, output: Path, **options: Any) -> tuple[Path, str]:
    text = io.StringIO()
    machine = EvalRunConfig(device="cpu", num_threads=1, batch_size=8)
    options = {"chunk_size": 16, "run": machine, **options}
    data = DataConfig(name="folder", root=str(root), num_workers=0, max_unreadable=options.pop("max_unreadable", 0.1))
    path = embed(EmbedConfig(checkpoint=str(run), data=data, output=str(output), **options), Console(file=text))
    return path, text.getvalue()


def arrays(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def expected(encoder, spec, root: Path) -> tuple[Any, FolderSource]:
    source = FolderSource("folder", "train", root, channels=1, mean=(0.5,), std=(0.25,))
    return extract(encoder, source, spec, batch_size=8), source


def test_the_file_holds_what_one_pass_gives(run: Path, folder: Path, encoder, spec, tmp_path: Path) -> None:
    path, text = run_embed(run, folder, tmp_path / "out")
    found, (features, source) = arrays(path), expected(encoder, spec, folder / "train")
    assert np.array_equal(found["features"], features.features.numpy())
    assert found["features"].dtype == np.float32
    assert [str(folder / name) for name in found["paths"]] == [source.path(index) for index in range(40)]
    assert found["labels"].dtype == np.int64
    assert [found["classes"][label] for label in found["labels"]] == [name.split("/")[1] for name in found["paths"]]
    assert "40 images of folder train, 16 numbers each" in text
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == ["embeddings.npz", "results"]


def test_the_result_tells_checkpoint_and_settings(run: Path, folder: Path, tmp_path: Path) -> None:
    run_embed(run, folder, tmp_path / "out", split="test", pool="mean")
    result = json.loads((tmp_path / "out" / "results" / "embed.json").read_text())
    assert result["metrics"] == {"num_images": 20, "width": 16}
    assert (result["checkpoint"], result["settings"]["pool"], result["data"]["split"]) == (str(run), "mean", "test")
    assert result["settings"]["encoder"]["depth"] == 2


def test_images_need_neither_classes_nor_labels(run: Path, folder: Path, tmp_path: Path) -> None:
    root = folder / "train" / "left"
    found = arrays(run_embed(run, root, tmp_path / "out")[0])
    assert set(found["labels"]) == {-1}
    assert (len(found["classes"]), found["paths"][0]) == (0, "000.png")


def test_layers_pool_and_normalize_are_those_asked_for(run: Path, folder: Path, encoder, spec, tmp_path: Path) -> None:
    path, _ = run_embed(run, folder, tmp_path / "out", layers=2, pool="both", normalize=True)
    features, _ = expected(PooledEncoder(encoder, spec, 2, "both"), spec, folder / "train")
    assert features.features.shape == (40, 64)
    assert np.array_equal(arrays(path)["features"], normalize(features.features, dim=1).numpy())


def test_unreadable_images_are_left_out_and_named(run: Path, folder: Path, tmp_path: Path) -> None:
    lost = sorted((folder / "train").rglob("*.png"))[3]
    lost.write_bytes(b"no image")
    path, text = run_embed(run, folder, tmp_path / "out")
    found = arrays(path)
    assert len(found["features"]) == len(found["paths"]) == len(found["labels"]) == 39
    assert str(lost.relative_to(folder)) not in found["paths"]
    assert f"1 image cannot be read, named in results/embed.json; the first: {lost}" in text
    result = json.loads((tmp_path / "out" / "results" / "embed.json").read_text())
    assert [name for name, _ in result["skipped"]["train"]] == [str(lost)]


@pytest.mark.parametrize("format", ["npz", "parquet"])
def test_any_file_name_is_written(run: Path, folder: Path, tmp_path: Path, format: str) -> None:
    root = tmp_path / "odd"
    root.mkdir()
    source = next((folder / "train").rglob("*.png")).read_bytes()
    names = ['a|b,"c".png', "图像 ü.png", os.fsdecode(b"caf\xe9.png"), "tab\t.png"]
    for name in names:
        (root / name).write_bytes(source)
    path, _ = run_embed(run, root, tmp_path / "out", format=format)
    if format == "npz":
        assert set(arrays(path)["paths"]) == set(names)
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        read = parquet.read_table(path)["path"].to_pylist()
        assert set(read) == {*names[:2], "caf\\xe9.png", "tab\\t.png"}


def test_parquet_holds_the_same_in_row_groups(run: Path, folder: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    found = arrays(run_embed(run, folder, tmp_path / "out")[0])
    path, _ = run_embed(run, folder, tmp_path / "out", format="parquet")
    file = parquet.ParquetFile(path)
    table = file.read()
    assert file.num_row_groups == 3  # chunks of 16
    assert np.array_equal(np.array(table["vector"].to_pylist(), dtype=np.float32), found["features"])
    assert table["path"].to_pylist() == found["paths"].tolist()
    assert table["label"].to_pylist() == found["labels"].tolist()
    assert table["class"].to_pylist() == found["classes"][found["labels"]].tolist()


def interrupted(run: Path, folder: Path, output: Path) -> None:
    """What an embed of default options leaves that was stopped in its second chunk."""
    machine = EvalRunConfig(device="cpu", num_threads=1, batch_size=8)
    data = DataConfig(name="folder", root=str(folder), num_workers=0)
    opened = open_encoder(EmbedConfig(checkpoint=str(run), data=data, run=machine))
    source = open_dataset(opened.data, "train")
    encoder = PooledEncoder(opened.loaded.encoder, opened.spec)
    chunks = FeatureChunks(output / CHUNKS_FOLDER, opened.key(encoder, source, opened.spec, 16), source)
    chunks.open()

    def read(part: Subset, where: str) -> Features:
        if part.indices[0] == 16:
            raise KeyboardInterrupt
        return opened.extract(encoder, part, opened.spec, "features", Console(file=io.StringIO()))

    with pytest.raises(KeyboardInterrupt):
        chunks.fill(read)


def test_an_interrupted_command_resumes_to_the_same_bytes(run: Path, folder: Path, tmp_path: Path) -> None:
    whole, _ = run_embed(run, folder, tmp_path / "whole")
    interrupted(run, folder, tmp_path / "out")
    with pytest.raises(UserError, match="interrupted embed: add --resume to go on with it, --overwrite to begin"):
        run_embed(run, folder, tmp_path / "out")
    path, text = run_embed(run, folder, tmp_path / "out", resume=True)
    assert path.read_bytes() == whole.read_bytes()
    assert "16 of 40 images were done before" in text
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == ["embeddings.npz", "results"]


@pytest.mark.slow
def test_a_killed_command_resumes_to_the_same_bytes(run: Path, folder: Path, tmp_path: Path) -> None:
    for copy in range(15):
        for image in list((folder / "train").glob("*/0[0-3]?.png")):
            os.link(image, image.with_name(f"{copy}-{image.name}"))
    options = {"chunk_size": 8, "run.batch_size": 8, "run.num_threads": 1, "run.device": "cpu", "data.num_workers": 0}
    words = ("embed", "--checkpoint", checkpoint.checkpoint_path(run, 3), "--data.root", folder)
    whole = subprocess.run(command(*words, "--output", tmp_path / "whole", **options), capture_output=True, check=True)
    process = subprocess.Popen(command(*words, "--output", tmp_path / "out", **options))
    while not list((tmp_path / "out").glob("*/checkpoints/step-*.safetensors")):
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    resume = command(*words, "--output", tmp_path / "out", "--resume", **options)
    again = subprocess.run(resume, capture_output=True, check=True)
    assert b"images were done before" in again.stdout
    assert b"images were done before" not in whole.stdout
    assert (tmp_path / "out/embeddings.npz").read_bytes() == (tmp_path / "whole/embeddings.npz").read_bytes()
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == ["embeddings.npz", "results"]


def test_other_settings_do_not_resume(run: Path, folder: Path, tmp_path: Path) -> None:
    interrupted(run, folder, tmp_path / "out")
    with pytest.raises(UserError, match=r"holds features of other settings \(network differ\)"):
        run_embed(run, folder, tmp_path / "out", resume=True, pool="mean")
    path, _ = run_embed(run, folder, tmp_path / "out", overwrite=True, pool="mean")
    assert len(arrays(path)["features"]) == 40


def test_finished_embeddings_are_not_replaced_unasked(run: Path, folder: Path, tmp_path: Path) -> None:
    path, _ = run_embed(run, folder, tmp_path / "out")
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"embeddings.npz is there already: add --overwrite"):
        run_embed(run, folder, tmp_path / "out")
    with pytest.raises(UserError, match=r"nothing to resume: .*embeddings.npz is finished; --overwrite replaces it"):
        run_embed(run, folder, tmp_path / "out", resume=True)
    assert path.read_bytes() == before
    assert run_embed(run, folder, tmp_path / "out", overwrite=True)[0].read_bytes() == before


def test_a_disk_that_fills_while_the_file_is_put_together_loses_nothing(
    run: Path, folder: Path, tmp_path: Path
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2500, hard))  # enough for a chunk of 16
        with pytest.raises(RunError, match=r"embeddings\.npz: File too large; the features are kept in .* --resume"):
            run_embed(run, folder, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "out").glob("*embeddings.npz*"))
    path, _ = run_embed(run, folder, tmp_path / "out", resume=True)
    assert len(arrays(path)["features"]) == 40


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    """Parts are made up here: what is written is 12 MB, what is held one part."""
    import tracemalloc

    from patchmix.evaluation.embedding_files import Part, Parts, write_npz

    def read():
        for start in range(0, 30_000, 1000):
            features = np.full((1000, 100), start, dtype=np.float32)
            yield Part(features, [f"{start + i:06d}" for i in range(1000)], np.arange(1000))

    tracemalloc.start()
    write_npz(tmp_path / "e.npz", Parts(read, 30_000, 100, 6, ("one",)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "e.npz").stat().st_size > 12e6
    assert peak < 3e6
    assert arrays(tmp_path / "e.npz")["features"][29_999, 0] == 29_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 3}, "layers = 3 is more than the encoder's 2 blocks"),
        ({"split": "test"}, "has no test images"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_work(
    run: Path, folder: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run_embed(run, folder / "train", tmp_path / "out", **options)
    assert not (tmp_path / "out" / CHUNKS_FOLDER).exists()


def test_no_readable_image_is_an_error(run: Path, tmp_path: Path) -> None:
    root = tmp_path / "bad"
    root.mkdir()
    (root / "a.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"none of its 1 images can be read; the first: .*a\.png"):
        run_embed(run, root, tmp_path / "out")


def test_too_many_unreadable_images_are_an_error(run: Path, folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "many"
    root.mkdir()
    source = next((folder / "train").rglob("*.png")).read_bytes()
    for index in range(200):
        (root / f"{index}.png").write_bytes(b"no image" if index < 30 else source)
    with pytest.raises(UserError, match=r"30 of 200 train images of folder cannot be read"):
        run_embed(run, root, tmp_path / "out")
    path, _ = run_embed(run, root, tmp_path / "out", resume=True, max_unreadable=0.5)
    assert len(arrays(path)["paths"]) == 170


def test_a_network_without_class_token_has_no_pool_token(folder: Path, spec, tmp_path: Path) -> None:
    from patchmix.models.encoders import create_encoder
    from patchmix.models.spec import EncoderSpec

    resnet = EncoderSpec("resnet18", (32, 32), None, 512, None, None, 1, "own", (0.5,), (0.25,))
    tensors = {f"encoder.{name}": value for name, value in create_encoder(resnet).state_dict().items()}
    file = checkpoint.checkpoint_path(tmp_path / "resnet", 1)
    checkpoint.write(file, tensors, {"step": 1, "encoder": resnet.to_dict()})
    with pytest.raises(UserError, match="need a Vision Transformer: resnet18 has no tokens"):
        run_embed(file, folder, tmp_path / "out", pool="token")
    path, _ = run_embed(file, folder, tmp_path / "out")
    assert arrays(path)["features"].shape == (40, 512)
    assert torch.isfinite(torch.from_numpy(arrays(path)["features"])).all()


def test_a_folder_alone_is_any_folder_whatever_the_run_was_trained_on(run: Path, tmp_path: Path) -> None:
    from patchmix.config import Config
    from patchmix.recipes import dump

    (run / "config.yaml").write_text(dump(Config(data=DataConfig(name="mnist5k"))))
    assert resolve_evaluation(EmbedConfig, {"checkpoint": str(run)}).data.name == "mnist5k"
    other = resolve_evaluation(EmbedConfig, {"checkpoint": str(run), "data.root": str(tmp_path)})
    assert (other.data.name, other.data.root) == ("folder", str(tmp_path))


def test_two_at_once_into_one_folder_are_refused(run: Path, folder: Path, tmp_path: Path) -> None:
    from patchmix.run_directory import lock_directory

    unfinished = tmp_path / "out" / CHUNKS_FOLDER
    unfinished.mkdir(parents=True)
    ready, go = os.pipe(), os.pipe()
    if pid := os.fork():
        os.read(ready[0], 1)
        try:
            with pytest.raises(UserError, match=f"another process is .* in {unfinished}"):
                run_embed(run, folder, tmp_path / "out")
        finally:
            os.write(go[1], b"x")
            os.waitpid(pid, 0)
    else:
        with lock_directory(unfinished):
            os.write(ready[1], b"x")
            os.read(go[0], 1)
        os._exit(0)


def test_images_of_any_size_are_taken(run: Path, tmp_path: Path) -> None:
    root = tmp_path / "sizes"
    root.mkdir()
    for width, height in ((1, 1), (300, 20), (17, 400)):
        Image.new("RGB", (width, height), (200, 100, 50)).save(root / f"{width}.png")
    assert arrays(run_embed(run, root, tmp_path / "out")[0])["features"].shape == (3, 16)
