from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Pipeline

from gosvae_codec import ModelBundle
from gosvae_codec.testing import write_tiny_bundle


@pytest.fixture(scope="session")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def bundle(bundle_path: Path) -> ModelBundle:
    return ModelBundle.load(bundle_path)


@pytest.fixture
def pipeline(tmp_path: Path, bundle_path: Path) -> Iterator[Pipeline]:
    pipeline = Pipeline(tmp_path, bundle_path)
    yield pipeline
    pipeline.close()
