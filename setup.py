"""Finds the packages: the folders at the top are subpackages of ``stillnet``."""

from setuptools import find_packages, setup

ROOMS = ("hw", "sw", "sim", "boards")
FRONT_DOOR = "sw/api"

packages = [
    name for room in ROOMS for name in (room, *(f"{room}.{p}" for p in find_packages(room)))
]
setup(
    packages=["stillnet", *(f"stillnet.{name}" for name in packages if name != "sw.api")],
    package_dir={"stillnet": FRONT_DOOR, **{f"stillnet.{room}": room for room in ROOMS}},
)
