from glob import glob
from pathlib import Path

from setuptools import find_packages, setup

MODELS = [Path(each) for each in glob("../models/*/**", recursive=True) if Path(each).is_file()]

setup(
    name="gosvae_bringup",
    version="0.1.0",
    description="Launch files, parameters, demo and command line of GOS-VAE.",
    license="Apache-2.0",
    maintainer="GOS-VAE maintainers",
    maintainer_email="maintainers@gosvae.invalid",
    packages=find_packages(include=["gosvae_bringup", "gosvae_bringup.*"]),
    package_data={"gosvae_bringup": ["py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/gosvae_bringup"]),
        ("share/gosvae_bringup", ["package.xml"]),
        ("share/gosvae_bringup/launch", glob("*.launch.py")),
        ("share/gosvae_bringup/config", glob("config/*")),
        ("share/gosvae_bringup/rviz", glob("rviz/*")),
        ("share/gosvae_bringup/drives", glob("../drives/*.mcap")),
        # So that an installed workspace needs no repository around it.
        *(
            (f"share/gosvae_bringup/{path.parent.relative_to('..')}", [str(path)])
            for path in MODELS
        ),
    ],
    python_requires=">=3.10",
    install_requires=["argcomplete", "av", "numpy", "pyyaml", "rich"],
    entry_points={
        "console_scripts": [
            "gosvae = gosvae_bringup.__main__:main",
        ],
    },
    zip_safe=True,
)
