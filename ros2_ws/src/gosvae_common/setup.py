from setuptools import find_packages, setup

setup(
    name="gosvae_common",
    version="0.1.0",
    description="What the GOS-VAE nodes and tools share.",
    license="Apache-2.0",
    maintainer="GOS-VAE maintainers",
    maintainer_email="maintainers@gosvae.invalid",
    packages=find_packages(include=["gosvae_common"]),
    package_data={"gosvae_common": ["py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/gosvae_common"]),
        ("share/gosvae_common", ["package.xml"]),
    ],
    install_requires=["setuptools"],
    zip_safe=True,
)
