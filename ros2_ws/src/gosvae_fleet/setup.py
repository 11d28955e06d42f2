from setuptools import find_packages, setup

UPLINK = ["cryptography>=43,<50", "eclipse-zenoh>=1.10,<1.11"]

setup(
    name="gosvae_fleet",
    version="0.1.0",
    description="Packets of many vehicles over Zenoh: uplink, service, routers and certificates.",
    license="Apache-2.0",
    maintainer="GOS-VAE maintainers",
    maintainer_email="maintainers@gosvae.invalid",
    packages=find_packages(include=["gosvae_fleet", "gosvae_fleet.*"]),
    package_data={"gosvae_fleet": ["py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/gosvae_fleet"]),
        ("share/gosvae_fleet", ["package.xml"]),
        (
            "share/gosvae_fleet/config",
            ["config/bridge.json5", "config/vehicles.yaml"],
        ),
    ],
    python_requires=">=3.10",
    install_requires=["pyyaml"],
    extras_require={"uplink": UPLINK, "fleet": [*UPLINK, "ray[data,serve]>=2.50,<3"]},
    entry_points={
        "console_scripts": [
            "uplink = gosvae_fleet.nodes:uplink",
            "downlink = gosvae_fleet.nodes:downlink",
            "results = gosvae_fleet.nodes:results",
        ],
    },
    zip_safe=True,
)
