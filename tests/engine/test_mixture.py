"""Trainings on a mixture: what is told, drawn, recorded and refused."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.engine.conftest import FINETUNE, log_rows, losses
from tests.engine.test_preflight import dry_run  # noqa: F401  `vlmtool train --dry-run` on the stand-ins
from vlmtool.engine.build import build_runner
from vlmtool.models.checkpoint import read_checkpoint
from vlmtool.recipe.load import load_recipe, recipe_text
from vlmtool.utils.errors import CheckpointError, DataError, RecipeError, UsageError
from vlmtool.utils.files import sha256

LORA = "llm.lora=dict(r=8, alpha=16)"
SIZES = (8, 6, 3)  # records with pictures, records of text alone, pictures of a folder of their own


@pytest.fixture
def files(standins, tmp_path) -> list[Path]:
    """Three files of records, whose ids start with the number of their file."""
    whole = json.loads(standins.data.read_text())
    shutil.copytree(standins.images, tmp_path / "other")
    talk = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A red circle, or a square."}]
    sets = (whole[:8], [{"conversations": talk} for _ in range(6)], whole[8:11])
    paths = [tmp_path / f"set_{number}.json" for number in range(3)]
    for number, (path, records) in enumerate(zip(paths, sets, strict=True)):
        named = [{**record, "id": f"{number}.{place}"} for place, record in enumerate(records)]
        path.write_text(json.dumps(named))
    return paths


@pytest.fixture
def mixed(files, tmp_path):
    """`mixed(0.5)` are overrides for the three sets, the second with this weight and the third thrice."""

    def make(weight: float = 0.5, template: str | None = None) -> tuple[str, str]:
        sets = (
            {"path": str(files[0])},
            {"path": str(files[1]), "weight": weight, "template": template},
            {"path": str(files[2]), "weight": 3.0, "image_folder": str(tmp_path / "other")},
        )
        return "data.path=None", f"data.sets={sets!r}"

    return make


def built(small, tmp_path, *overrides: str):
    return build_runner(load_recipe(FINETUNE, [*small, *overrides]), "run", tmp_path / "built")


def test_an_epoch_of_a_run_holds_what_the_weights_say(small, tmp_path, mixed):
    prepared = built(small, tmp_path, *mixed(), "schedule.max_steps=None", "schedule.epochs=2.0")
    assert prepared.steps == 10  # 2 epochs of 8 + 3 + 9 samples, four a step
    ids = [name for batch in prepared.runner.train_dataloader for name in batch.ids]
    for epoch in (ids[:20], ids[20:]):
        assert Counter(name[0] for name in epoch) == {"0": 8, "1": 3, "2": 9}
        assert Counter(Counter(epoch).values()) == {1: 8 + 3, 3: 3}
    half, other = ({name for name in epoch if name[0] == "1"} for epoch in (ids[:20], ids[20:]))
    assert half != other


def test_samples_of_each_set_are_told_at_the_start(run, mixed, files, capsys):
    run("run", *mixed(), "schedule.max_steps=1")
    told = capsys.readouterr().err
    for file, drawn, size, images in zip(files, (8, 3, 9), SIZES, ("8 images", "0 images", "3 images"), strict=True):
        assert f"{file}: {drawn} in an epoch of {size} samples, {images}" in told
    assert "20 samples in an epoch." in told


def test_one_whole_file_as_a_set_is_the_same_training(run, standins):
    alone = run("alone", LORA)
    sets = ({"path": str(standins.data)},)
    as_set = run("set", LORA, "data.path=None", f"data.sets={sets!r}")
    assert losses(alone) == losses(as_set)
    hashes = [read_checkpoint(folder / "iter_4.pth").meta["data"]["sha256"] for folder in (alone, as_set)]
    assert hashes == [sha256(standins.data)] * 2


@pytest.mark.parametrize("sampler", ["random", "length"])
def test_resuming_in_the_middle_is_exact(run, tmp_path, mixed, sampler):
    """Eight steps of four reach into the second epoch of 20 samples."""
    extra = [*mixed(template="llama2_chat"), LORA, f"data.sampler='{sampler}'", "schedule.max_steps=8"]
    unbroken = run("unbroken", *extra, "schedule.save_every=3")
    broken = tmp_path / "broken"
    broken.mkdir()
    shutil.copy(unbroken / "iter_6.pth", broken)
    shutil.copytree(unbroken / "iter_6.state", broken / "iter_6.state")
    (broken / "last_checkpoint").write_text("iter_6.pth\n")
    run("broken", *extra, "schedule.save_every=3", resume=True)
    assert sorted(log_rows(broken)) == [7, 8] and losses(broken) == losses(unbroken)[6:]


def test_a_checkpoint_records_each_set(run, mixed, files):
    meta = read_checkpoint(run("run", *mixed()) / "iter_4.pth").meta
    assert meta["data"]["num_samples"] == sum(SIZES)
    assert meta["data"]["sets"] == [
        {"path": str(file), "sha256": sha256(file), "weight": weight, "num_samples": size}
        for file, weight, size in zip(files, (1.0, 0.5, 3.0), SIZES, strict=True)
    ]


def test_another_weight_is_refused_and_cannot_be_forced(run, dry_run, mixed):  # noqa: F811
    run("run", *mixed(0.5))
    for force in (False, True):
        with pytest.raises(CheckpointError, match=r"samples \['8 × 1.0', '6 × 0.5'.* → \['8 × 1.0', '6 × 1.0'"):
            run("run", *mixed(1.0), "schedule.max_steps=6", resume=True, force=force)
    assert "'6 × 0.5'" in dry_run(*mixed(1.0), options=("--resume",)).of("error")["resume"]
    assert dry_run(*mixed(0.5), options=("--resume",)).of("ok")["resume"].endswith("fits")


def test_another_file_or_template_of_a_set_is_refused(run, dry_run, mixed, files):  # noqa: F811
    run("run", *mixed())
    with pytest.raises(CheckpointError, match="trained on other samples: data file"):
        run("run", *mixed(template="llama2_chat"), "schedule.max_steps=6", resume=True)
    files[1].write_text(files[1].read_text().replace("A red circle", "Two red bars"))
    with pytest.raises(CheckpointError, match="trained on other samples: data file"):
        run("run", *mixed(), "schedule.max_steps=6", resume=True)


def test_a_set_of_few_bad_samples_does_not_hide_behind_a_large_one(run, mixed, files, standins, tmp_path):
    """Two of 297 samples would not be more than one in a hundred; two of six are."""
    records = json.loads(standins.data.read_text()) * 9
    files[0].write_text(json.dumps(records))
    talk = json.loads(files[1].read_text())
    files[1].write_text(json.dumps([*talk[:4], *({**record, "image": "none.jpg"} for record in talk[4:])]))
    with pytest.raises(DataError, match=r"2 of 6 samples of .*set_1.json cannot be used, more than 1%"):
        run("run", *mixed(), "data.on_bad_sample='skip'")


# Before the first step


def test_the_dry_run_names_the_file_of_a_bad_record(dry_run, mixed, files):  # noqa: F811
    talk = json.loads(files[1].read_text())
    files[1].write_text(json.dumps([*talk[:4], {"id": "odd", "conversations": "no"}, *talk[5:]]))
    run = dry_run(*mixed(), "schedule.max_steps=None")
    assert run.exit_code == 1
    assert f"{files[1]}: record 5: sample 'odd'" in run.of("error")["wrong form"]
    assert run.of("ok")["data"] == "17 records, 16 usable samples, 11 images"


def test_the_dry_run_of_a_good_mixture_counts_its_steps(dry_run, mixed):  # noqa: F811
    run = dry_run(*mixed(template="llama2_chat"), "schedule.max_steps=None")
    assert run.exit_code == 0 and run.of("ok")["steps"] == "5 of 4 samples"
    assert run.of("ok")["data.sets: template"].startswith("llama2_chat: ")


def test_what_is_not_there_is_told_at_once(dry_run, mixed, files, tmp_path):  # noqa: F811
    files[0].unlink()
    shutil.rmtree(tmp_path / "other")
    run = dry_run(*mixed(template="lama2_chat"))
    details = [detail for level, _, detail in run.rows if level == "error"]
    for told in (f"no file '{files[0]}'", f"no folder '{tmp_path / 'other'}' for {files[2]}", "Did you mean 'llama2"):
        assert any(told in detail for detail in details), details


def test_a_training_names_the_key_of_a_template_that_is_none(run, mixed):
    with pytest.raises(UsageError, match="data.sets: template: there is no template 'lama2_chat'.*llama2_chat"):
        run("run", *mixed(template="lama2_chat"))


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["data.sets=[dict(path='b.json')]"], r"data gives both `path` and `sets`.*`sets=\(\)`, `path=None`"),
        (["data.path=None"], "data gives neither `path` nor `sets`"),
        (["data.path=None", "data.sets=[dict(path='a.json'), dict(path='./a.json')]"], "names 'a.json' in two `sets`"),
        (["data.path=None", "data.sets=[dict(path='a.json', weight=0.0)]"], "weight = 0.0: it must be above 0"),
        (["data.path=None", "data.sets=[dict(path='a.json', wieght=2.0)]"], "unknown key .*Did you mean 'weight'"),
        (["data.path=None", "data.sets=['a.json']"], r"a section is needed, dict\(path=…\)"),
    ],
)
def test_a_recipe_that_says_it_wrong_is_refused(small, overrides, told):
    with pytest.raises(RecipeError, match=told):
        load_recipe(FINETUNE, [*small, *overrides])


def test_a_recipe_with_sets_is_written_and_read_again(small, mixed, tmp_path):
    recipe = load_recipe(FINETUNE, [*small, *mixed()])
    (tmp_path / "copy.py").write_text(recipe_text(recipe, "A copy."))
    assert load_recipe(str(tmp_path / "copy.py")) == recipe
