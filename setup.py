"""Which packages a wheel holds; pyproject.toml has all else.

configs/ lies beside the package in the repository, where it is read and changed, and goes into the wheel as
nat_ar/configs, so that `nat-ar study toy` finds it where there is no repository (nat_ar/experiment/ready.py)."""

import setuptools

CONFIGS = "nat_ar.configs"

setuptools.setup(
    packages=[
        *setuptools.find_packages(include=["nat_ar", "nat_ar.*"]),
        CONFIGS,
        *(f"{CONFIGS}.{name}" for name in setuptools.find_namespace_packages("configs")),
    ],
    package_dir={CONFIGS: "configs"},
)
