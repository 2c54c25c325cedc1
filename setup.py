"""Which folders an installed package is made of; everything else about it stands in pyproject.toml.

The entry scripts and the models' settings are installed as they lie here, as the package `uer_commands`: console
commands run them, and `uer.model_settings` finds the settings among them.
"""

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

COMMANDS = {"uer_commands": ".", **{f"uer_commands.{name}": name
                                    for name in ("finetune", "inference", "scripts", "models")}}


class BuildPy(build_py):
    """Copies the packages' modules, but not this file, which lies beside the entry scripts."""

    def find_package_modules(self, package, package_dir):
        return [module for module in super().find_package_modules(package, package_dir) if module[1] != "setup"]


setup(cmdclass={"build_py": BuildPy}, packages=[*find_packages(include=["uer", "uer.*"]), *COMMANDS],
      package_dir={"uer": "uer", **COMMANDS}, include_package_data=False,
      package_data={"uer_commands.models": ["*.json", "*/*.json"]})
