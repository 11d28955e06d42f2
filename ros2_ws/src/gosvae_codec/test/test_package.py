"""The package as people without ROS get it: version, licence, and a README whose examples run."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import gosvae_codec
from gosvae_codec import ModelBundle

ROOT = Path(__file__).parents[1]


def test_the_version_is_that_of_the_ros_package() -> None:
    assert gosvae_codec.__version__ == ElementTree.parse(ROOT / "package.xml").findtext("version")


def test_the_licence_is_at_hand() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_all_public_names_exist() -> None:
    assert sorted(gosvae_codec.__all__) == sorted(set(gosvae_codec.__all__))
    assert all(hasattr(gosvae_codec, name) for name in gosvae_codec.__all__)


def test_the_examples_run(bundle: ModelBundle) -> None:
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(examples) == 2
    code = "\n".join(examples).replace("models/road", str(bundle.path))
    found: dict[str, object] = {}
    exec(code, found)
    assert (found["mask"] == found["result"].mask).all()
    assert found["mask"].shape == (480, 640)
    assert all(len(datagram) <= 1400 for datagram in found["datagrams"])


def test_a_missing_opencv_is_explained() -> None:
    code = "import sys; sys.modules['cv2'] = None; import gosvae_codec"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "install gosvae_codec[cpu], gosvae_codec[gpu] or any other" in done.stderr
