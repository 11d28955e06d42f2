from setuptools import find_packages, setup

setup(
    name="gosvae_tx",
    version="0.1.0",
    description="The GOS-VAE transmitter node.",
    license="Apache-2.0",
    maintainer="GOS-VAE maintainers",
    maintainer_email="maintainers@gosvae.invalid",
    packages=find_packages(include=["gosvae_tx"]),
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/gosvae_tx"]),
        ("share/gosvae_tx", ["package.xml"]),
    ],
    install_requires=["setuptools"],
    entry_points={"console_scripts": ["transmitter = gosvae_tx.__main__:main"]},
    zip_safe=True,
)
