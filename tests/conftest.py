"""What every folder of tests may use."""

from collections.abc import Iterator

# Here too, before the test processes start: at its first import on a machine yapf, which mmengine needs, writes a
# cache that another process may read half-written.
import mmengine  # noqa: F401
import pytest

from tests.standins import Standins, make_standins


@pytest.fixture(scope="session")
def standins(tmp_path_factory: pytest.TempPathFactory) -> Standins:
    """Tiny parts, records and pictures, made once; tests read them and write elsewhere."""
    return make_standins(tmp_path_factory.mktemp("standins"))


@pytest.fixture(scope="session", autouse=True)
def hash_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hashes are remembered in the session's folder, not in the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLMTOOL_CACHE", str(tmp_path_factory.mktemp("hash_cache")))
        yield
