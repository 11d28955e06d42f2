from setuptools import find_packages, setup

setup(
    name="gosvae_rx",
    version="0.1.0",
    description="The GOS-VAE receiver node.",
    license="Apache-2.0",
    maintainer="GOS-VAE maintainers",
    maintainer_email="maintainers@gosvae.invalid",
    packages=find_packages(include=["gosvae_rx"]),
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/gosvae_rx"]),
        ("share/gosvae_rx", ["package.xml"]),
    ],
    install_requires=["setuptools"],
    entry_points={"console_scripts": ["receiver = gosvae_rx.__main__:main"]},
    zip_safe=True,
)
