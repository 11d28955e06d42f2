from setuptools import find_packages, setup

setup(
    name="gosvae_tools",
    version="0.1.0",
    description="Replay, recording, view, bags, transcoding and the link emulator of GOS-VAE.",
    license="Apache-2.0",
    maintainer="GOS-VAE maintainers",
    maintainer_email="maintainers@gosvae.invalid",
    packages=find_packages(include=["gosvae_tools", "gosvae_tools.*"]),
    package_data={"gosvae_tools": ["py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/gosvae_tools"]),
        ("share/gosvae_tools", ["package.xml"]),
    ],
    python_requires=">=3.10",
    install_requires=["av", "lz4", "mcap", "numpy", "pyyaml", "rich", "rosbags", "zstandard"],
    extras_require={"view": ["rerun-sdk>=0.39,<0.42"]},
    entry_points={
        "console_scripts": [
            "replay = gosvae_tools.nodes:replay",
            "record = gosvae_tools.nodes:record",
            "view = gosvae_tools.nodes:view",
        ],
    },
    zip_safe=True,
)
