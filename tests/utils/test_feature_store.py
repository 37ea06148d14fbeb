"""Features on disk: what is put comes back, from other processes too; what is torn or wrong does not."""

import subprocess
import sys

import pytest
import torch

from vlmtool.utils.feature_store import RECORD, Features, FeatureStore, content_key

LAYOUT = torch.tensor([1, 2, 480, 640])


def features(seed=0, views=3, tokens=5, width=8) -> Features:
    return Features(torch.randn(views, tokens, width, generator=torch.Generator().manual_seed(seed)), LAYOUT)


def key(number: int) -> bytes:
    return content_key(str(number).encode())


@pytest.mark.parametrize(("dtype", "error"), [("float32", 0.0), ("bfloat16", 0.01), ("int8", 0.01)])
def test_what_is_put_comes_back(tmp_path, dtype, error):
    store = FeatureStore(tmp_path, dtype)
    made = [features(seed, views=1 + seed % 3, tokens=2 + seed) for seed in range(7)]
    for number, one in enumerate(made):
        store.put(key(number), one)
    for where in (store, FeatureStore(tmp_path, dtype)):
        assert len(where) == 7 and where.get(key(99)) is None
        for number, one in enumerate(made):
            found = where.get(key(number))
            assert torch.equal(found.layout, LAYOUT) and found.values.shape == one.values.shape
            assert torch.equal(found.values, store.rounded(one.values))
            assert (found.values.float() - one.values).abs().max() <= error * one.values.abs().max()


def test_size_is_what_is_told(tmp_path):
    for dtype in ("float32", "bfloat16", "int8"):
        store = FeatureStore(tmp_path / dtype, dtype)
        store.put(key(0), features())
        assert sum(f.stat().st_size for f in (tmp_path / dtype).iterdir()) == store.bytes_each(3, 5, 8)


def test_another_process_sees_it(tmp_path):
    store = FeatureStore(tmp_path, "float32")
    code = (
        "import sys, torch; from pathlib import Path; from tests.utils.test_feature_store import *;"
        "FeatureStore(Path(sys.argv[1]), 'float32').put(key(5), features(5))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert FeatureStore(tmp_path, "float32").get(key(5)) is not None
    store._looked = -100.0  # it looks again after a second
    assert torch.equal(store.get(key(5)).values, features(5).values)


@pytest.mark.parametrize("cut", [1, RECORD.itemsize - 1])
def test_a_torn_index_and_torn_numbers_are_not_there(tmp_path, cut):
    store = FeatureStore(tmp_path, "float32")
    for number in range(3):
        store.put(key(number), features(number))
    (index,), (numbers,) = tmp_path.glob("*.index"), tmp_path.glob("*.features")
    index.write_bytes(index.read_bytes()[:-cut])
    left = FeatureStore(tmp_path, "float32")
    assert len(left) == 2 and left.get(key(2)) is None
    numbers.write_bytes(numbers.read_bytes()[: store.bytes_each(3, 5, 8) - RECORD.itemsize + 10])
    left = FeatureStore(tmp_path, "float32")
    assert left.get(key(1)) is None and torch.equal(left.get(key(0)).values, features(0).values)


def test_changed_numbers_are_not_read(tmp_path):
    store = FeatureStore(tmp_path, "float32")
    store.put(key(0), features())
    (numbers,) = tmp_path.glob("*.features")
    content = bytearray(numbers.read_bytes())
    content[17] ^= 1
    numbers.write_bytes(content)
    found = FeatureStore(tmp_path, "float32")
    assert found.get(key(0)) is None
    found.put(key(0), features())  # as a loader's worker and the process that encodes do: another looked it up
    for again in (found, FeatureStore(tmp_path, "float32"), FeatureStore(tmp_path, "float32")):
        assert torch.equal(again.get(key(0)).values, features().values) and len(again) == 1


def test_two_writers_at_once(tmp_path):
    first, second = FeatureStore(tmp_path, "bfloat16"), FeatureStore(tmp_path, "bfloat16")
    first.put(key(1), features(1))
    second.put(key(1), features(1))
    second.put(key(2), features(2))
    both = FeatureStore(tmp_path, "bfloat16")
    assert len(both) == 2 and len(list(tmp_path.glob("*.index"))) == 2
    assert torch.equal(both.get(key(2)).values, second.get(key(2)).values)
