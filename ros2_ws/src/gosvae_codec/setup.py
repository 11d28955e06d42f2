import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).resolve().parent  # colcon links this file into its build folder
source = (here / "gosvae_codec" / "__init__.py").read_text()

setup(
    name="gosvae_codec",
    version=re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)[1],
    description="Camera frames to token packets to semantic masks, free of ROS and of torch.",
    long_description=(here / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    maintainer="GOS-VAE maintainers",
    maintainer_email="maintainers@gosvae.invalid",
    packages=find_packages(include=["gosvae_codec"]),
    package_data={"gosvae_codec": ["py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/gosvae_codec"]),
        ("share/gosvae_codec", ["package.xml"]),
    ],
    python_requires=">=3.10",
    install_requires=["crc32c", "numba>=0.59", "numpy>=1.26", "pyyaml", "rosbags-image", "zfec"],
    # OpenCV and ONNX Runtime each come in several packages, and pip cannot tell that one of them
    # is installed already: hence extras.
    extras_require={
        "cpu": ["onnxruntime>=1.19", "opencv-python-headless>=4.8"],
        "gpu": ["onnxruntime-gpu>=1.19", "opencv-python-headless>=4.8"],
        "seal": ["cryptography>=43"],
    },
    zip_safe=True,
)
