"""Peak operations per second, memory and bandwidths of known GPUs, from their data sheets."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Gpu:
    """The specification of a GPU.

    Attributes:
        half: dense bf16 or fp16 operations per second, with fp32 accumulation.
        single: operations per second of fp32 matrix products, in TF32 if the GPU has it.
        memory_gib: memory in GiB; of a GPU that is sold in several sizes, the smallest.
        memory_bandwidth: bytes per second that it reads and writes in its memory.
        link_bandwidth: bytes per second that it sends to the other GPUs of its node: NVLink, else PCI Express.
        bf16: whether it supports bf16; if not, --precision auto is fp32.
    """

    half: float
    single: float
    memory_gib: float
    memory_bandwidth: float
    link_bandwidth: float = 32e9
    bf16: bool = True

    def peak_flops(self, precision: str) -> float:
        """Operations a second in fp32, bf16 or fp16."""
        return self.single if precision == "fp32" else self.half


# The keys are words of the device name that CUDA reports.
GPUS = {
    "H200": Gpu(989e12, 495e12, 141, 4.8e12, 450e9), "H100": Gpu(989e12, 495e12, 80, 3.35e12, 450e9),
    "H800": Gpu(989e12, 495e12, 80, 3.35e12, 200e9), "H20": Gpu(148e12, 74e12, 96, 4.0e12, 450e9),
    "A100": Gpu(312e12, 156e12, 40, 1.56e12, 300e9), "A800": Gpu(312e12, 156e12, 80, 2.04e12, 200e9),
    "A40": Gpu(150e12, 75e12, 48, 696e9), "A30": Gpu(165e12, 82e12, 24, 933e9),
    "A10": Gpu(125e12, 62.5e12, 24, 600e9), "L40S": Gpu(362e12, 183e12, 48, 864e9),
    "L40": Gpu(181e12, 90.5e12, 48, 864e9), "L4": Gpu(121e12, 60e12, 24, 300e9),
    "RTX 4090": Gpu(165e12, 82.6e12, 24, 1.01e12), "RTX 3090": Gpu(71e12, 35.6e12, 24, 936e9),
    "V100": Gpu(125e12, 15.7e12, 16, 900e9, 150e9, bf16=False), "T4": Gpu(65e12, 8.1e12, 16, 320e9, 16e9, bf16=False)}


def known_gpu(name: str) -> str | None:
    """The key of `GPUS` that is a word of a device's name: "NVIDIA A100-SXM4-80GB" -> "A100"; None where there is none.

    >>> known_gpu("NVIDIA RTX A1000"), known_gpu("NVIDIA L40S")
    (None, 'L40S')
    """
    return next((known for known in GPUS if re.search(rf"(?<!\w){known}(?!\w)", name, re.IGNORECASE)), None)


def peak_flops(device: "torch.device", precision: str) -> float:
    """Dense operations a second of a known GPU in fp32, bf16 or fp16; 0 for other devices."""
    if device.type != "cuda":
        return 0.0
    import torch  # a plan for named GPUs does without it

    known = known_gpu(torch.cuda.get_device_name(device))
    return GPUS[known].peak_flops(precision) if known else 0.0
