"""Which folders an installed package is made of; everything else about it stands in pyproject.toml.

The entry scripts and the models' settings are installed as they lie here, as the package `uer_commands`: console
commands run them, and `uer.model_settings` finds the settings among them.
"""

from setuptools import find_packages, setup

COMMANDS = {"uer_commands": ".", **{f"uer_commands.{name.replace('/', '.')}": name
                                    for name in ("finetune", "inference", "scripts", "models", "models/bert")}}

setup(packages=[*find_packages(include=["uer", "uer.*"]), *COMMANDS], package_dir={"uer": "uer", **COMMANDS},
      package_data={"uer_commands.models": ["*.json"], "uer_commands.models.bert": ["*.json"]},
      include_package_data=False)
