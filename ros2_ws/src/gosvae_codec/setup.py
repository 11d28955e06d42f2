from setuptools import find_packages, setup

setup(
    name="gosvae_codec",
    version="0.1.0",
    description="Camera frames to token packets to semantic masks, free of ROS and of torch.",
    license="Apache-2.0",
    maintainer="GOS-VAE maintainers",
    maintainer_email="maintainers@gosvae.invalid",
    packages=find_packages(include=["gosvae_codec"]),
    package_data={"gosvae_codec": ["py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/gosvae_codec"]),
        ("share/gosvae_codec", ["package.xml"]),
    ],
    python_requires=">=3.10",
    # opencv-python-headless, cv_bridge and onnxruntime-gpu also satisfy these imports, and pip
    # cannot know: so the two libraries that come in several packages are extras.
    install_requires=["crc32c", "numba", "numpy", "pyyaml", "zfec"],
    extras_require={
        "cpu": ["onnxruntime", "opencv-python-headless", "rosbags-image"],
        "gpu": ["onnxruntime-gpu", "opencv-python-headless", "rosbags-image"],
    },
    zip_safe=True,
)
