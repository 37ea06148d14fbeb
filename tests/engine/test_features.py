"""Training with kept features is the training without them."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from tests.engine.command import command, start
from tests.engine.conftest import FINETUNE, log_rows, losses
from vlmtool.cli.invoke import invoke
from vlmtool.cli.main import app
from vlmtool.models.checkpoint import read_checkpoint
from vlmtool.models.encoders.vision import VisionEncoder
from vlmtool.utils.errors import RecipeError, UsageError
from vlmtool.utils.feature_store import RECORD

LORA = "llm.lora=dict(r=8, alpha=16)"  # no dropout: equalities
TWICE = (LORA, "schedule.epochs=2.0", "schedule.max_steps=None", "schedule.save_epochs=False")


@pytest.fixture
def keeping(tmp_path):
    """`keeping("bfloat16")`: the override."""
    return lambda dtype, name="kept": f"vision_encoder.cache=dict(dtype={dtype!r}, folder={str(tmp_path / name)!r})"


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """Pictures that each call of the encoder gets."""
    seen: list[int] = []
    forward = VisionEncoder.forward

    def noting(self, pixels):
        seen.append(len(pixels))
        return forward(self, pixels)

    monkeypatch.setattr(VisionEncoder, "forward", noting)
    return seen


def same(first, second):
    names = [read_checkpoint(folder / "iter_16.pth").state_dict for folder in (first, second)]
    assert all(torch.equal(weight, names[1][name]) for name, weight in names[0].items())


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("vision_encoder.tiles=((1, 2), (2, 1))", "data.pad_to_square=False"),
        ("data.num_workers=2",),
        ("schedule.pack_to=2048",),
    ],
)
def test_in_full_precision_nothing_changes_and_no_picture_is_encoded_twice(run, keeping, encoded, more):
    plain = run("plain", *TWICE, *more)
    uses = sum(encoded)  # with one for the look at all parts before the first step
    encoded.clear()
    kept = run("kept_run", *TWICE, *more, keeping("float32"))
    if "data.num_workers=2" in more:  # which read ahead, so that a batch may know some of its pictures
        assert losses(kept) == pytest.approx(losses(plain), rel=1e-6)
    else:
        assert losses(kept) == losses(plain) and sum(encoded) == uses - 32
        same(kept, plain)
    encoded.clear()
    again = run("again", *TWICE, *more, keeping("float32"))
    assert losses(again) == pytest.approx(losses(plain), rel=1e-6) and sum(encoded) == 1


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.02), ("int8", 0.02)])
def test_rounded_features_are_the_same_whether_they_were_there_or_not(run, keeping, dtype, tolerance):
    plain, first = run("plain", *TWICE), run("first", *TWICE, keeping(dtype))
    again = run("again", *TWICE, keeping(dtype))
    assert losses(again) == losses(first)
    assert losses(first) == pytest.approx(losses(plain), rel=tolerance) and losses(first) != losses(plain)


def test_other_pixels_or_another_encoder_get_a_folder_of_their_own(run, keeping, standins, tmp_path, encoded):
    once = (LORA, "schedule.max_steps=1")
    run("a", *once, keeping("float32"))
    for number, more in enumerate(["data.pad_to_square=False", "vision_encoder.select_layer=-1"]):
        encoded.clear()
        run(f"b{number}", *once, keeping("float32"), more)
        assert encoded, more
    folders = list((tmp_path / "kept").iterdir())
    assert len(folders) == 3
    about = [json.loads((folder / "about.json").read_text()) for folder in folders]
    assert {one["reading"]["select_layer"] for one in about} == {-2, -1}
    assert {(*one["encoder"], one["computed_in"]) for one in about} == {(str(standins.clip), "the weights' type")}


def test_the_held_out_loss_is_the_same(run, keeping, standins, encoded):
    held_out = (LORA, "schedule.max_steps=2", "schedule.val_every=1", f"data.val_path={str(standins.data)!r}")
    plain = run("plain", *held_out)
    kept = run("kept_run", *held_out, keeping("float32"))
    assert log_rows(kept, "val_log.jsonl") == log_rows(plain, "val_log.jsonl")


def test_what_it_takes_and_saves_is_told_first(run, keeping, capsys):
    run("a", *TWICE, keeping("bfloat16"))
    said = capsys.readouterr().err
    assert "Features of 32 pictures: " in said and "holds 0 so far" in said and "is saved once each is known" in said
    run("b", *TWICE, keeping("bfloat16"))
    assert "holds 32 so far" in capsys.readouterr().err


def test_no_room(run, keeping, monkeypatch):
    little = SimpleNamespace(free=1000)
    monkeypatch.setattr("vlmtool.engine.features.shutil", SimpleNamespace(disk_usage=lambda _: little))
    with pytest.raises(UsageError, match=r"vision_encoder\.cache: Features of 32 pictures: .*\n.*int8"):
        run("a", *TWICE, keeping("bfloat16"))


def test_an_encoder_that_is_trained_is_refused(run, keeping):
    with pytest.raises(RecipeError, match="features change with every step"):
        run("a", "vision_encoder.lora=dict(r=4, alpha=8)", "vision_encoder.freeze=None", keeping("float32"))


def test_a_missing_or_broken_picture_is_told_as_without(run, keeping, standins, tmp_path):
    records = [record for record in json.loads(standins.data.read_text()) if isinstance(record.get("image"), str)]
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for record in records[:8]:
        content = (standins.images / record["image"]).read_bytes()
        (pictures / record["image"]).write_bytes(content)
    (pictures / records[3]["image"]).write_bytes(content[: len(content) // 2])
    (tmp_path / "few.json").write_text(json.dumps(records[:8]))
    few = (LORA, f"data.path={str(tmp_path / 'few.json')!r}", f"data.image_folder={str(pictures)!r}")
    said = []
    for name, more in (("plain", ()), ("kept_run", (keeping("float32"),))):
        with pytest.raises(Exception, match="the image cannot be read") as error:
            run(name, *few, *more)
        said.append(str(error.value))
    assert said[0] == said[1]


def test_two_processes_share_a_folder(small, tmp_path, keeping):
    words = [LORA, "schedule.batch_size=2", "schedule.epochs=2.0", "schedule.max_steps=None"]
    for name, more in (("plain", []), ("kept_run", [keeping("float32")])):
        done = start(command(small, tmp_path / name, *words, *more), 2, 29690)
        assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "kept_run") == pytest.approx(losses(tmp_path / "plain"), rel=1e-6)
    (folder,) = (tmp_path / "kept").iterdir()
    assert sum(f.stat().st_size // RECORD.itemsize for f in folder.glob("*.index")) >= 32


def words(*values: str) -> list[str]:
    return [word for value in values for word in ("--set", value)]


def test_all_are_made_before_by_a_command_of_their_own(run, small, keeping, encoded, capsys, tmp_path):
    command = ["data", "cache", FINETUNE, *words(*small, LORA, keeping("float32"))]
    assert invoke(app, command, debug=True) == 0
    said = capsys.readouterr()
    assert "32 pictures encoded, 0 were there" in said.out and "Features of 32 pictures" in said.err
    assert invoke(app, command, debug=True) == 0
    assert "0 pictures encoded, 32 were there" in capsys.readouterr().out
    (numbers,) = (tmp_path / "kept").glob("*/*.features")
    content = bytearray(numbers.read_bytes())
    content[17] ^= 1
    numbers.write_bytes(content[:-10])
    for damaged in (2, 0):  # the first and the last, which are there again afterwards
        assert invoke(app, command, debug=True) == 0
        assert f"{damaged} pictures encoded, {32 - damaged} were there" in capsys.readouterr().out
    encoded.clear()
    kept = run("kept_run", *TWICE, keeping("float32"))
    assert sum(encoded) == 1
    assert losses(kept) == pytest.approx(losses(run("plain", *TWICE)), rel=1e-6)


@pytest.mark.parametrize("more", [(), ("vision_encoder.tiles=((1, 2), (2, 1))", "data.pad_to_square=False")])
def test_pictures_that_cannot_be_read_are_named(small, keeping, standins, tmp_path, capsys, more):
    pictures = tmp_path / "pictures"
    shutil.copytree(standins.images, pictures)
    first, second = sorted(pictures.iterdir())[:2]
    first.unlink()
    second.write_bytes(b"no picture")
    values = words(*small, keeping("int8"), f"data.image_folder={str(pictures)!r}", *more)
    assert invoke(app, ["data", "cache", FINETUNE, *values], debug=True) == 1
    said = capsys.readouterr().out
    assert "30 pictures encoded" in said and "2 pictures cannot be read:\n" in said
    assert f"  {first}: there is no such image" in said and f"  {second}: the image cannot be read" in said
    assert "data.on_bad_sample='skip'" in said


def test_a_recipe_that_keeps_none_is_told_how(small, capsys):
    assert invoke(app, ["data", "cache", FINETUNE, *words(*small)], debug=False) == 2
    assert 'keeps no features.\nSay how: --set "vision_encoder.cache=dict' in capsys.readouterr().err
